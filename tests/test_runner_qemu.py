"""Finding QEMU, what it says that it has, and what is remembered of it."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from tests.support.runner import HOSTS, qemu_of
from tests.support.tools import require_tool
from vmpack.errors import QemuDiedError, QemuMissingError, ZstdMissingError
from vmpack.runner import cache
from vmpack.runner.options import Qemu
from vmpack.runner.qemu import (
    cpu_features,
    cpu_models,
    features,
    find_qemu,
    foreign_root,
    missing_devices,
    require_zstd,
)

pytestmark = pytest.mark.qemu


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vmpack"


def program(path: Path, text: str) -> tuple[str, ...]:
    """A shell script in QEMU's place; ``QEMU`` in ``text`` is the real one."""
    real = require_tool("qemu-system-x86_64")
    path.write_text("#!/bin/bash\n" + text.replace("QEMU", real) + "\n")
    path.chmod(0o755)
    return (str(path),)


@pytest.mark.parametrize("host", HOSTS)
def test_every_qemu_says_what_it_has(host: str) -> None:
    qemu = qemu_of(host)
    found = features(qemu)
    assert qemu.version == found.version
    assert {"machine": 7, "trixie": 10, "trixie-backports": 11}[host] == found.version[0]
    assert found.zstd
    assert found.tcg
    machine = found.machines["pc-q35-7.2"]
    assert machine.deprecated == (found.version[0] >= 11)
    assert machine.max_cpus == 288
    models = cpu_models(qemu, "tcg")
    assert models["Nehalem-v1"] == ()
    assert "tsc-deadline" in models["SandyBridge-v1"]
    assert "avx512f" not in cpu_features(qemu, "tcg")
    assert "sse4.2" in cpu_features(qemu, "tcg")
    assert missing_devices(qemu, ["virtio-blk-pci", "no-such-device", "ide-hd"]) == [
        "no-such-device"
    ]


def test_the_first_one_in_path_is_taken_unless_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (named,) = program(tmp_path / "qemu", 'exec QEMU "$@"')
    monkeypatch.delenv("VMPACK_QEMU", raising=False)
    assert find_qemu().prefix == (require_tool("qemu-system-x86_64"),)
    monkeypatch.setenv("VMPACK_QEMU", named)
    assert find_qemu().prefix == (named,)
    for absent in (str(tmp_path / "absent"), "absent --words", "un'closed", "''"):
        monkeypatch.setenv("VMPACK_QEMU", absent)
        with pytest.raises(QemuMissingError, match=r"VMPACK_QEMU names ") as error:
            find_qemu()
        assert absent in error.value.message


def test_a_qemu_can_be_named_by_several_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = qemu_of("trixie-backports")
    # Without the words that find_qemu puts before those it is given.
    words = other.prefix[2:]
    monkeypatch.setenv("VMPACK_QEMU", shlex.join(words))
    found = find_qemu()
    assert found == other
    # A program whose name has a space in it is one word, quoted or not.
    (spaced,) = program(tmp_path / "my qemu", 'exec QEMU "$@"')
    for text in (spaced, shlex.quote(spaced)):
        monkeypatch.setenv("VMPACK_QEMU", text)
        assert find_qemu().prefix == (spaced,)


def test_without_a_qemu_the_hint_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VMPACK_QEMU", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("vmpack.runner.qemu.OTHER_PLACES", ())
    with pytest.raises(QemuMissingError, match="not installed") as error:
        find_qemu()
    assert error.value.exit_code == 125
    assert "qemu-system-x86" in (error.value.hint or "")


def test_a_program_that_is_no_qemu_is_told_by_its_words(tmp_path: Path) -> None:
    prefix = program(tmp_path / "qemu", "echo no such machine >&2; exit 3")
    with pytest.raises(QemuDiedError, match=r"ended with 3 .* no such machine"):
        find_qemu(prefix)
    prefix = program(tmp_path / "other", 'QEMU "$@" | sed -u s/major/mayor/')
    with pytest.raises(QemuDiedError, match="not QEMU's"):
        find_qemu(prefix)
    with pytest.raises(QemuMissingError, match="no such file"):
        find_qemu([str(tmp_path / "absent")])


def test_a_build_without_zstd_is_named(tmp_path: Path) -> None:
    prefix = program(tmp_path / "qemu", """QEMU "$@" | sed -u 's/"zstd"/"zst"/g'""")
    with pytest.raises(ZstdMissingError, match="without zstd"):
        require_zstd(find_qemu(prefix))
    require_zstd(qemu_of("machine"))


def test_a_build_without_tcg_is_asked_under_kvm(tmp_path: Path) -> None:
    text = """[[ "$*" == *"-accel tcg"* ]] && { echo invalid accelerator tcg >&2; exit 1; }
exec QEMU "${@/#kvm/tcg}" """
    found = features(find_qemu(program(tmp_path / "qemu", text)))
    assert not found.tcg
    assert "pc-q35-7.2" in found.machines


def counted(folder: Path) -> tuple[tuple[str, ...], Path]:
    calls = folder / "calls"
    calls.touch()
    return program(folder / "qemu", f'echo >>{calls}; exec QEMU "$@"'), calls


def test_qemu_is_asked_once_until_it_changes(tmp_path: Path, own_cache: Path) -> None:
    prefix, calls = counted(tmp_path)
    first = features(find_qemu(prefix))
    assert features(find_qemu(prefix)) == first
    assert calls.read_text() == "\n"
    assert (own_cache / "qemu.json").stat().st_mode & 0o777 == 0o600
    with open(prefix[0], "a") as script:
        script.write("# another build\n")
    assert features(find_qemu(prefix)) == first
    assert calls.read_text() == "\n\n"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"KEY": 1}', '{"KEY": {"version": {}}}'])
def test_a_spoilt_cache_is_no_cache(tmp_path: Path, own_cache: Path, content: str) -> None:
    prefix, calls = counted(tmp_path)
    first = features(find_qemu(prefix))
    (key,) = json.loads((own_cache / "qemu.json").read_text())
    (own_cache / "qemu.json").write_text(content.replace("KEY", key))
    assert features(find_qemu(prefix)) == first
    assert calls.read_text() == "\n\n"
    assert json.loads((own_cache / "qemu.json").read_text()).keys() == {key}


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert features(qemu_of("machine")).zstd
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    assert cache.cache_folder() is None
    assert features(qemu_of("machine")).zstd


def test_what_another_user_cached_is_not_believed(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store("qemu.json", {"a": 1})
    assert cache.load("qemu.json") == {"a": 1}
    me = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: me + 1)
    assert cache.load("qemu.json") == {}


@pytest.mark.parametrize(
    ("program_path", "root"),
    [
        ("/usr/bin/qemu-system-x86_64", None),
        ("/usr/local/bin/qemu-system-x86_64", None),
        ("/opt/qemu/bin/qemu-system-x86_64", None),
        ("/home/x/qemu/build/qemu-system-x86_64", None),
        ("qemu-system-x86_64", None),
        ("/srv/debian/usr/bin/qemu-system-x86_64", Path("/srv/debian")),
    ],
)
def test_a_qemu_of_another_root_is_told_by_its_path(program_path: str, root: Path | None) -> None:
    assert foreign_root((program_path,)) == root


def test_a_qemu_of_another_root_has_that_roots_files() -> None:
    qemu: Qemu = qemu_of("trixie")
    root = str(foreign_root(qemu.prefix))
    assert qemu.prefix[0] == "env"
    assert qemu.prefix[1].startswith(f"QEMU_MODULE_DIR={root}/")
    assert f"{root}/usr/share/seabios" in qemu.data_dirs
