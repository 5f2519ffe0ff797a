"""Bundles as a liar would write them: any field changed, every digest correct again."""

from __future__ import annotations

import copy
import hashlib
import random
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import write_bundle
from vmpack.bundle.reader import Bundle
from vmpack.bundle.structs import RECORD, RECORD_SIZE, Header
from vmpack.errors import VmpackError
from vmpack.machine import MachineConfig, canonical, machine_id
from vmpack.ops.unpack import unpack

CLUSTER = 4096
Json = dict[str, Any]


def good_bundle(folder: Path, *, compress: Callable[[bytes], bytes] | None = None) -> bytes:
    """Two disks of 4 KiB clusters that share, and two blobs; ``compress`` makes the frames."""
    text = b"".join(b"line %06d of a file that compresses\n" % n for n in range(400))
    (folder / "a.raw").write_bytes(text[:9000] + bytes(9000))
    noise = random.Random(1).randbytes(4500)
    (folder / "b.raw").write_bytes(text[:4096] + bytes(4096) + noise)
    plan = [("a", folder / "a.raw", CLUSTER), ("b", folder / "b.raw", CLUSTER)]
    blobs = {"nvram": text[:3000], "notes.txt": noise + noise}
    with pytest.MonkeyPatch.context() as patch:
        if compress is not None:
            make = compress
            patch.setattr(
                "vmpack.bundle.writer.zstd_compressor", lambda *_: lambda data: make(bytes(data))
            )
        return write_bundle(folder / "good.vmpack", plan, blobs=blobs).read_bytes()


class Hostile:
    """The parts of a bundle, to be changed at will; :meth:`signed` makes a file of them."""

    def __init__(self, raw: bytes):
        header = Header.decode(raw[:4096])
        at, end = header.index_offset, header.manifest_offset
        self.body = bytearray(raw[:at])
        """Everything before the index; the first 4096 bytes are replaced by :attr:`header`."""
        self.manifest: Json = canonical.loads(raw[end:])  # type: ignore[assignment]
        records = [list(record) for record in RECORD.iter_unpack(raw[at:end])]
        count = self.manifest["index"]["frames"]
        self.frames, self.segments = records[:count], records[count:]
        self.header: Json = {name: getattr(header, name) for name in Header.__slots__}
        self.header_patch: dict[int, bytes] = {}
        """Bytes of the header by offset, for what :class:`Header` would not write."""
        self.manifest_raw: bytes | None = None
        """In place of the canonical form of :attr:`manifest`."""
        self.tail = b""
        self.before_signing: list[Callable[[], None]] = []

    @property
    def disks(self) -> list[Json]:
        return self.manifest["disks"]  # type: ignore[no-any-return]

    def view(self, disk: int, offset: int) -> int:
        """The file's offset of a view's offset."""
        return int(self.disks[disk]["window"]["offset"]) + offset

    def l1(self, disk: int) -> int:
        return self.view(disk, self.disks[disk]["view"]["l1-offset"])

    def l2(self, disk: int) -> int:
        return self.view(disk, self.word(self.l1(disk)) & (1 << 56) - 512)

    def refcount_table(self, disk: int) -> int:
        return self.view(disk, self.disks[disk]["view"]["refcount-table-offset"])

    def word(self, at: int) -> int:
        """The big-endian 64-bit word at ``at``, as views have them."""
        return int.from_bytes(self.body[at : at + 8], "big")

    def put(self, at: int, value: int, size: int = 8) -> None:
        self.body[at : at + size] = value.to_bytes(size, "big")

    def patch(self, at: int, data: bytes) -> None:
        self.body[at : at + len(data)] = data

    def signed(self, *, machine: bool = False) -> bytes:
        """The file with the digests of segments, index, manifest and header made right.

        ``machine``: ``machine-id`` as well.
        """
        for segment in self.segments:
            offset, size = segment[:2]
            if 4096 <= offset <= offset + size <= len(self.body):
                segment[3] = hashlib.sha256(self.body[offset : offset + size]).digest()
        index = b"".join(RECORD.pack(*record) for record in [*self.frames, *self.segments])
        if isinstance(self.manifest.get("index"), dict) and "digest" in self.manifest["index"]:
            self.manifest["index"]["digest"] = "sha256:" + hashlib.sha256(index).hexdigest()
        if machine:
            self.manifest["machine-id"] = self._machine_id()
        raw = self.manifest_raw
        if raw is None:
            raw = canonical.dumps(self.manifest)
        fields = dict(self.header)
        fields["manifest_sha256"] = hashlib.sha256(raw).digest()
        if fields["manifest_size"] == self._original("manifest_size"):
            fields["manifest_size"] = len(raw)
        if fields["total_size"] == self._original("total_size"):
            end = fields["index_offset"] + len(index) + len(raw)
            fields["total_size"] = end % (1 << 64)
        head = bytearray(Header(**fields).encode())
        for at, data in self.header_patch.items():
            head[at : at + len(data)] = data
        head[4064:] = hashlib.sha256(head[:4064]).digest()
        return bytes(head) + bytes(self.body[4096:]) + index + raw + self.tail

    def _original(self, name: str) -> object:
        return Header.decode(bytes(self.body[:4096]), path=None).__getattribute__(name)

    def _machine_id(self) -> str:
        blobs = {one["name"]: one["digest"].removeprefix("sha256:") for one in self.blobs}
        return machine_id(
            MachineConfig.from_json_dict(copy.deepcopy(self.manifest["config"])).observable(),
            [(disk["id"], disk["content-digest"]) for disk in self.disks],
            nvram=blobs.get("nvram"),
            tpm_state=blobs.get("tpm-state"),
        )

    @property
    def blobs(self) -> list[Json]:
        return self.manifest["blobs"]  # type: ignore[no-any-return]


def survey(path: Path, *, take_out: bool = True) -> list[str]:
    """Everything that a program may do with a bundle; the clauses of all complaints, in order.

    A complaint without a clause gives its message. Anything but the project's own error escapes.
    """
    said: list[str] = []
    try:
        bundle = Bundle.open(path)
    except VmpackError as exc:
        return [exc.clause or str(exc)]
    with bundle:
        for step in (
            bundle.info_dict,
            lambda: bundle.config,
            bundle.index,
            lambda: said.extend(
                one.clause or one.message for one in bundle.check(full=True, workers=1)
            ),
            *(lambda disk=disk: _read_all(bundle, disk.id) for disk in bundle.disks),
            *(lambda blob=blob: bundle.blob(blob.name) for blob in bundle.manifest.blobs),
        ):
            _attempt(step, said)
    for target in ("raw", "qcow2") if take_out else ():
        out = Path(tempfile.mkdtemp(dir=path.parent)) / target
        before = len(said)
        _attempt(lambda: unpack(path, out, to=target, workers=1), said)  # noqa: B023
        assert len(said) == before or not out.exists(), "a failed unpack left something"
    return said


def _attempt(step: Callable[[], object], said: list[str]) -> None:
    try:
        step()
    except VmpackError as exc:
        said.append(exc.clause or str(exc))


def _read_all(bundle: Bundle, disk_id: str) -> None:
    reader = bundle.disk(disk_id)
    step = 1 << 20
    # What a liar's disk of petabytes would give is zeros: its first and last MiB are enough.
    size = reader.virtual_size
    for offset in {0, max(0, size - step)}:
        reader.read(offset, min(step, size - offset))
    for _ in zip(range(1000), reader.extents(), strict=False):
        pass


class Watch:
    """Records every file that this process opens and every process or socket that it starts."""

    def __init__(self) -> None:
        self._seen: list[str] | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self._seen is None:
            return
        if event == "open" and isinstance(args[0], str | bytes):
            name = args[0].decode() if isinstance(args[0], bytes) else args[0]
            if not name.endswith((".py", ".pyc", ".so")):
                self._seen.append(name)
        elif event in ("subprocess.Popen", "os.system", "os.exec", "socket.connect", "os.fork"):
            self._seen.append(f"{event} {args!r}")

    @contextmanager
    def opened(self) -> Iterator[list[str]]:
        """What is opened meanwhile; Python's own modules are left out."""
        seen: list[str] = []
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None


WATCH = Watch()
MEMORY = 24 << 20
"""Bytes that a bundle of 50 KiB may make its reader allocate: zstd's contexts are most of it."""
Edit = Callable[[Hostile], object]


class Cases(list[Any]):
    """A table of lies: parameters ``(edit, clause)`` for a test."""

    def add(self, name: str, clause: str, edit: Edit) -> None:
        """What ``edit`` does must be found, under ``clause``."""
        self.append(pytest.param(edit, clause, id=name))

    def case(self, name: str, clause: str) -> Callable[[Edit], Edit]:
        """The same as a decorator."""

        def add(edit: Edit) -> Edit:
            self.add(name, clause, edit)
            return edit

        return add


def complaints(edit: Edit, good: bytes, folder: Path) -> list[str]:
    """What is said of the bundle that ``edit`` makes; nothing else opened, memory bounded."""
    hostile = Hostile(good)
    edit(hostile)
    path = folder / "x.vmpack"
    path.write_bytes(hostile.signed())
    tracemalloc.start()
    try:
        with WATCH.opened() as opened:
            said = survey(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [name for name in opened if not name.startswith(str(folder))] == []
    assert peak < MEMORY
    return said


__all__ = [
    "CLUSTER",
    "RECORD_SIZE",
    "WATCH",
    "Cases",
    "Edit",
    "Hostile",
    "complaints",
    "good_bundle",
    "survey",
]
