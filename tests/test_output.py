"""Outputs are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tools import missing, run
from vmpack.errors import OutputError, UsageError, VmpackError
from vmpack.output import Output
from vmpack.source import ByteSource

REAL_OPEN = os.open


def _no_tmpfile(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
    """As on a file system that has no nameless files (FAT, NFS, FUSE)."""
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return REAL_OPEN(path, flags, mode, **options)


@pytest.fixture(params=["nameless", "part", "no links"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kind of file system: with O_TMPFILE, without it, and without hard links as well."""
    if request.param != "nameless":
        monkeypatch.setattr(os, "open", _no_tmpfile)
    if request.param == "no links":

        def link(*_names: object, **_options: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", link)
    return str(request.param)


def _write(path: Path, data: bytes = b"new", **options: object) -> None:
    with Output(path, **options) as out:  # type: ignore[arg-type]
        os.pwrite(out.fd, data, 0)
        out.commit()


def test_a_committed_file_is_there_alone(kind: str, tmp_path: Path) -> None:
    """VMP-WRITE-1."""
    _write(tmp_path / "x", mode=0o444)
    assert (tmp_path / "x").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o444
    _write(tmp_path / "x", b"newer", force=True)
    assert (tmp_path / "x").read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_without_commit_nothing_happened(
    kind: str, error: type[BaseException] | None, tmp_path: Path
) -> None:
    """VMP-WRITE-1: an early return, an error, Ctrl-C."""
    target = tmp_path / "x"
    target.write_bytes(b"old")
    for path in (target, tmp_path / "y"):
        try:
            with Output(path, force=True) as out:
                os.pwrite(out.fd, b"new", 0)
                if error is not None:
                    raise error
        except (ValueError, KeyboardInterrupt, SystemExit):
            assert error is not None
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_an_existing_file_needs_force(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already") as caught:
        _write(target)
    assert caught.value.hint == "--force replaces it"
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_file_that_appears_meanwhile_is_kept(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "x"
    with Output(target) as out:
        os.pwrite(out.fd, b"new", 0)
        target.write_bytes(b"somebody else's")
        with pytest.raises(OutputError, match="exists already"):
            out.commit()
    assert target.read_bytes() == b"somebody else's"
    assert os.listdir(tmp_path) == ["x"]


def test_two_runs_for_one_name_do_not_disturb_each_other(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "x"
    with Output(target, force=True) as first, Output(target, force=True) as second:
        os.pwrite(first.fd, b"first", 0)
        os.pwrite(second.fd, b"second", 0)
        second.commit()
        first.commit()
    assert target.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x"]


def test_a_killed_runs_part_goes_and_a_living_runs_part_stays(kind: str, tmp_path: Path) -> None:
    """hostile: 50. Parts of a bundle are read-only; what only looks like one is left alone."""
    stale = tmp_path / ".x.01234567.vmpack-part"
    stale.write_bytes(b"half")
    stale.chmod(0o444)
    living = tmp_path / ".x.89abcdef.vmpack-part"
    living.write_bytes(b"at work")
    others = [".x.0.vmpack-part", ".y.01234567.vmpack-part", ".x.01234567.part", "x.vmpack-part"]
    for name in others:
        (tmp_path / name).write_bytes(b"other")
    os.mkdir(tmp_path / ".x.aaaaaaaa.vmpack-part")
    os.mkfifo(tmp_path / ".x.bbbbbbbb.vmpack-part")
    (tmp_path / ".x.cccccccc.vmpack-part").symlink_to("x.vmpack-part")
    with living.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _write(tmp_path / "x")
    left = set(os.listdir(tmp_path))
    assert stale.name not in left
    assert {living.name, "x", *others, ".x.cccccccc.vmpack-part"} <= left


UNPRIVILEGED = """
import os, sys
from vmpack.output import Output
os.setgid(65534); os.setuid(65534)
with Output(sys.argv[1], mode=0o444) as out:
    out.commit()
print(sorted(os.listdir(os.path.dirname(sys.argv[1]))))
"""


def test_an_ordinary_user_removes_read_only_parts() -> None:
    """hostile: 50. Root may open anything: it hides what everybody else meets."""
    if os.geteuid():
        missing("the right to become another user", "run the tests as root")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        stale = Path(folder) / ".x.01234567.vmpack-part"
        stale.write_bytes(b"half")
        for path, mode in ((stale, 0o444), (Path(folder), 0o755)):
            os.chown(path, 65534, 65534)
            path.chmod(mode)
        done = run([sys.executable, "-c", UNPRIVILEGED, f"{folder}/x"], cwd=os.getcwd())
    assert done.stdout.decode().strip() == "['x']"


def test_input_and_output_are_never_one_file(tmp_path: Path) -> None:
    """hostile: 50: by name, by hard link, by symbolic link, with and without force."""
    target = tmp_path / "x"
    target.write_bytes(b"precious")
    (tmp_path / "hard").hardlink_to(target)
    (tmp_path / "soft").symlink_to("x")
    with ByteSource.open(target) as source:
        for name in ("x", "hard", "soft"):
            for force in (False, True):
                with pytest.raises(UsageError, match="input and output are the same file"):
                    Output(tmp_path / name, force=force, inputs=[source])
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (os.mkdir, "is a folder"),
        (os.mkfifo, "not a regular file"),
        (lambda path: os.symlink("/dev/null", path), "not a regular file"),
        (lambda path: os.symlink("/dev/tty", path), "not a regular file"),
        (lambda path: os.symlink("x", path), "[Tt]oo many levels"),
        (lambda path: os.symlink("no/such/folder", path), "[Nn]o such file"),
    ],
    ids=["folder", "fifo", "null", "terminal", "loop", "dangling"],
)
def test_what_is_no_place_for_a_file(
    make: Callable[[Path], None], text: str, tmp_path: Path
) -> None:
    """VMP-WRITE-2: pipes are refused, and nothing waits for a reader."""
    make(tmp_path / "x")
    before = os.lstat(tmp_path / "x")
    for force in (False, True):
        with pytest.raises(OutputError, match=text) as caught:
            Output(tmp_path / "x", force=force)
        assert caught.value.path == str(tmp_path / "x")
    assert os.lstat(tmp_path / "x") == before


@pytest.mark.parametrize("name", ["", "x/", "./"])
def test_names_of_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="names no file"):
        Output(name, force=True)
    assert os.listdir(tmp_path) == []


def test_a_symbolic_link_stays_one(kind: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "y").write_bytes(b"old")
    (tmp_path / "x").symlink_to("real/y")
    (tmp_path / "new").symlink_to("real/z")
    _write(tmp_path / "x", force=True)
    _write(tmp_path / "new")
    assert (tmp_path / "x").is_symlink()
    assert (tmp_path / "real" / "y").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path / "real")) == ["y", "z"]


@pytest.mark.parametrize(
    "name", ["a\nb", "a\x1b[2Jb", " ", "-rf", "é" * 100, "日" * 85, "x" * 255, "\udcff"]
)
def test_names_that_nobody_expects(kind: str, name: str, tmp_path: Path) -> None:
    _write(tmp_path / name)
    _write(tmp_path / name, b"newer", force=True)
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name too long"):
        _write(tmp_path / ("x" * 256))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such file") as caught:
        _write(tmp_path / "no" / "x")
    assert caught.value.hint == "create the folder first"


FULL = """
import os, sys
from vmpack.errors import OutputError
from vmpack.ops.pack import pack
try:
    pack([sys.argv[1]], sys.argv[2], force=True)
except OutputError as exc:
    print(exc.message, exc.hint, exc.path == sys.argv[2], sep="|")
print(sorted(os.listdir(os.path.dirname(sys.argv[2]))), open(sys.argv[2]).read())
"""


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    source = tmp_path / "noise.raw"
    source.write_bytes(os.urandom(3 << 20))
    return source


def test_a_full_disk(noise: Path, tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    """hostile: 50: a clear error, the old file untouched, nothing left."""
    small = tmp_path / "small"
    small.mkdir()
    script = (
        f'mount -t tmpfs -o size=1m none "{small}" && echo old > "{small}/x" && '
        f'exec "$0" -c "$1" "{noise}" "{small}/x"'
    )
    words = [require_tool("unshare"), "-rm", "sh", "-c", script, sys.executable, FULL]
    done = run(words, timeout_s=60)
    first, second = done.stdout.decode().splitlines()[:2]
    assert first.lower() == (
        "no space left on device|free some space, or write to another file system|true"
    )
    assert second == "['x'] old"


def test_a_file_size_limit(noise: Path, tmp_path: Path) -> None:
    """hostile: 50: the signal that the kernel sends does not kill the program."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "x").write_text("old\n")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(noise), str(folder / "x")],
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
        check=True,
    )
    first, second = done.stdout.decode().splitlines()[:2]
    assert first.lower().startswith("file too large|raise the file-size limit")
    assert second == "['x'] old"


@pytest.mark.parametrize("call", ["fsync", "link", "rename"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_fails_at_the_end(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "x").write_bytes(b"old")
    with Output(tmp_path / "x", force=True) as out:
        os.pwrite(out.fd, b"new", 0)
        monkeypatch.setattr(os, call, fail)
        with pytest.raises(OutputError) as caught:
            out.commit()
    monkeypatch.undo()
    assert os.strerror(code).lower() in caught.value.message.lower()
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_folder_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems refuse fsync of a folder; the file is complete all the same."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    _write(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"new"


def test_no_descriptor_is_left_open(kind: str, tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    _write(tmp_path / "x")
    with pytest.raises(VmpackError):
        _write(tmp_path / "x")
    with Output(tmp_path / "y"):
        pass
    assert count() == before


@pytest.fixture
def device(tmp_path: Path, loop_device: Callable[[Path], str]) -> str:
    image = tmp_path / "device.img"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    return loop_device(image)


def test_a_block_device_needs_force(device: str) -> None:
    """VMP-WRITE-2."""
    with pytest.raises(OutputError, match="is a block device"):
        Output(device)
    with Output(device, force=True) as out:
        assert out.device_size == 1 << 20
        os.pwrite(out.fd, b"new", 4096)
        out.commit()
    assert stat.S_ISBLK(os.stat(device).st_mode)


def test_a_block_device_is_never_input_and_output(device: str, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(device)
    with ByteSource.open(device) as source:
        for name in (device, tmp_path / "other"):
            with pytest.raises(UsageError, match="same file"):
                Output(name, force=True, inputs=[source])


def test_a_device_that_is_too_small(
    noise: Path, tmp_path: Path, loop_device: Callable[[Path], str]
) -> None:
    """A clear error, and no bundle on it: also when not even its head fits."""
    from vmpack.bundle.reader import Bundle
    from vmpack.ops.pack import pack

    for size in (512, 4096, 1 << 20):
        image = tmp_path / f"{size}.img"
        image.write_bytes(b"\x55" * size)
        target = loop_device(image)
        with pytest.raises(OutputError, match=r"(?i)no space") as caught:
            pack([noise], target, force=True)
        assert caught.value.path == target
        with pytest.raises(VmpackError):
            Bundle.open(target)
