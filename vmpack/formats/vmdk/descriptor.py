"""The text that describes a VMDK: its identity, its extents, its disk database.

A descriptor is a file of its own or lies inside a sparse extent. Parsing is strict: a line is of a
known shape or the text is refused, and nothing that counts may stand twice.
Source: VMware, Virtual Disk Format 1.1 and 5.0, "The Descriptor File". Profile: specs/vmdk.md,
VMDK-DESC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsupportedError, UsageError
from vmpack.formats.vmdk.structs import SECTOR

SIGNATURE = "# Disk DescriptorFile"
MAX_BYTES = 1 << 20
"""A descriptor is shorter than this."""
MAX_EXTENTS = 4096
"""What a disk of 8 TiB has at 2 GiB each."""
MAX_NAME = 1024
NO_PARENT = 0xFFFF_FFFF
"""The ``parentCID`` of a disk without a parent."""

FLAT_KINDS = ("FLAT", "VMFS")
SPARSE_KINDS = ("SPARSE", "VMFSSPARSE", "SESPARSE")
DEVICE_KINDS = ("VMFSRDM", "VMFSRAW", "VMFSRAWRDM")
CREATE_TYPES = (
    "monolithicSparse",
    "monolithicFlat",
    "streamOptimized",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "2GbMaxExtentSparse",
    "2GbMaxExtentFlat",
    "vmfs",
    "vmfsThin",
    "vmfsPreallocated",
    "vmfsEagerZeroedThick",
    "vmfsSparse",
    "seSparse",
)
DEVICE_TYPES = (
    "custom",
    "fullDevice",
    "partitionedDevice",
    "vmfsRaw",
    "vmfsRDM",
    "vmfsRDMP",
    "vmfsRawDeviceMap",
    "vmfsPassthroughRawDeviceMap",
)
"""Types whose data is a device of the host that wrote them, or anything at all."""

_ENCODINGS = frozenset(
    (
        *("utf-8", "us-ascii", "ascii", "gbk", "gb2312", "gb18030", "big5"),
        *("shift_jis", "euc-jp", "euc-kr", "iso-2022-jp"),
        *(f"windows-{page}" for page in (874, 932, 936, 949, 950, *range(1250, 1259))),
        *(f"iso-8859-{part}" for part in (*range(1, 12), 13, 14, 15, 16)),
    )
)
_PYTHON_NAMES = {f"windows-{page}": f"cp{page}" for page in (874, 932, 936, 949, 950)}
_HEADER_KEYS = frozenset(
    (
        *("version", "encoding", "CID", "parentCID", "isNativeSnapshot", "createType"),
        *("parentFileNameHint", "changeTrackPath"),
    )
)
_ENCRYPTION_KEYS = frozenset(("encryptionKeys", "encryption.keySafe", "encryption.data"))
_ENCODING = re.compile(rb'^[ \t]*encoding[ \t]*=[ \t]*"?([\w.-]+)"?[ \t]*\r?$', re.MULTILINE)
_ENTRY = re.compile(r'([A-Za-z_][\w.:-]*)[ \t]*=[ \t]*(?:"([^"]*)"|([^\s"]*))', re.ASCII)
_EXTENT = re.compile(
    r"(RW|RDONLY|NOACCESS)[ \t]+(\d{1,19})[ \t]+([A-Z0-9_]+)"
    r'(?:[ \t]+"([^"]*)"(?:[ \t]+(\d{1,19})((?:[ \t]+[^\s"]+|[ \t]+"[^"]*"){0,2}))?)?',
    re.ASCII,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n|\Z)")


@dataclass(frozen=True, slots=True)
class ExtentLine:
    """One extent: ``sectors`` of the disk, kept in the file ``name`` from sector ``offset`` on."""

    sectors: int
    kind: str
    """``FLAT``, ``SPARSE``, ``ZERO``, ``VMFS``, ``VMFSSPARSE`` or ``SESPARSE``."""
    name: str | None = None
    """``None`` for ``ZERO`` alone."""
    offset: int | None = None
    """Sectors; for ``FLAT``."""
    access: str = "RW"

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self.sectors * SECTOR

    def encode(self) -> str:
        """The line, without its end."""
        words = [self.access, str(self.sectors), self.kind]
        if self.name is not None:
            words.append(f'"{_require_plain(self.name, "file name")}"')
        if self.offset is not None:
            words.append(str(self.offset))
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A whole descriptor. ``cid`` and ``parent_cid`` are 32-bit numbers."""

    cid: int
    create_type: str
    extents: Sequence[ExtentLine]
    ddb: Mapping[str, str] = field(default_factory=dict)
    """The disk database, by keys without their leading ``ddb.``."""
    parent_cid: int = NO_PARENT
    parent_hint: str | None = None
    version: int = 1
    encoding: str | None = None
    change_track_path: str | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Header entries that vmpack does not know."""

    @property
    def virtual_size(self) -> int:
        """Bytes of the disk: what its extents add up to."""
        return sum(one.size for one in self.extents)

    def encode(self) -> bytes:
        """The text, as VMware lays it out.

        Raises :class:`UsageError` for a name or value that no descriptor can hold.
        """
        lines = [SIGNATURE, f"version={self.version}"]
        if self.encoding is not None:
            lines.append(f'encoding="{self.encoding}"')
        lines += [f"CID={self.cid:08x}", f"parentCID={self.parent_cid:08x}"]
        lines.append(f'createType="{self.create_type}"')
        if self.parent_hint is not None:
            lines.append(f'parentFileNameHint="{_require_plain(self.parent_hint, "parent")}"')
        lines += ["", "# Extent description", *(one.encode() for one in self.extents)]
        if self.change_track_path is not None:
            path = _require_plain(self.change_track_path, "changeTrackPath")
            lines += ["", "# Change Tracking File", f'changeTrackPath="{path}"']
        lines += ["", "# The Disk Data Base", "#DDB", ""]
        lines += [f'ddb.{key} = "{_require_plain(v, key)}"' for key, v in self.ddb.items()]
        return ("\n".join(lines) + "\n").encode(_codec(self.encoding or "utf-8") or "utf-8")


def _require_plain(text: str, what: str) -> str:
    if '"' in text or not text.isprintable() or len(text) > MAX_NAME:
        raise UsageError(f"a VMDK descriptor cannot hold the {what} {escape(text[:80])!r}")
    return text


def _codec(name: str) -> str | None:
    """Python's name of a descriptor's encoding; ``None`` for one that vmpack does not take."""
    plain = name.lower()
    return _PYTHON_NAMES.get(plain, plain) if plain in _ENCODINGS else None


def parse(raw: bytes, *, path: str, offset: int = 0) -> Descriptor:
    """The descriptor at the start of ``raw``, which ends it or pads it with NUL bytes.

    ``path`` and ``offset`` (bytes) say in errors where ``raw`` lies. Raises :class:`DamagedError`
    for text that is no descriptor and :class:`UnsupportedError`, by name, for a disk type, extent
    type, encoding or encryption that vmpack does not read.
    """
    return _Parser(path, offset).parse(raw)


class _Parser:
    """Collects a descriptor's lines."""

    def __init__(self, path: str, offset: int):
        self._path = path
        self._offset = offset
        self._header: dict[str, str] = {}
        self._unknown: dict[str, str] = {}
        self._ddb: dict[str, str] = {}
        self._extents: list[ExtentLine] = []

    def _damaged(self, message: str, clause: str, *, line: int | None = None) -> NoReturn:
        where = "" if line is None else f"line {line}: "
        raise DamagedError(
            f"descriptor: {where}{message}",
            path=self._path,
            offset=self._offset,
            clause=f"VMDK-DESC-{clause}",
        )

    def _unsupported(self, what: str, clause: str, hint: str | None = None) -> NoReturn:
        raise UnsupportedError(
            what, path=self._path, offset=self._offset, clause=f"VMDK-DESC-{clause}", hint=hint
        )

    def parse(self, raw: bytes) -> Descriptor:
        if not raw.startswith(SIGNATURE.encode()):
            self._damaged(f"does not begin with {SIGNATURE!r}", "1")
        text = self._text(raw)
        for number, line in enumerate(text.split("\n"), 1):
            stripped = line.strip(" \t\r")
            if stripped and not stripped.startswith("#"):
                self._line(stripped, number)
        return self._descriptor()

    def _text(self, raw: bytes) -> str:
        raw = raw.split(b"\0", 1)[0]
        if len(raw) >= MAX_BYTES:
            self._damaged(f"{len(raw)} bytes are too long; the limit is 1 MiB", "2")
        found = _ENCODING.search(raw)
        name = found[1].decode("ascii", "replace") if found else "utf-8"
        codec = _codec(name)
        if codec is None:
            self._unsupported(f"descriptor in the encoding {escape(name[:40])!r}", "3")
        try:
            text = raw.decode(codec)
        except (UnicodeDecodeError, LookupError):
            self._damaged(f"is not text in {name}", "3")
        control = _CONTROL.search(text)
        if control:
            self._damaged(
                f"holds the control character {escape(control[0])}",
                "3",
                line=text.count("\n", 0, control.start()) + 1,
            )
        return text

    def _line(self, line: str, number: int) -> None:
        extent = _EXTENT.fullmatch(line)
        if extent:
            self._extent(extent, number)
            return
        entry = _ENTRY.fullmatch(line)
        if not entry:
            self._damaged(f"{escape(line[:80])!r} is no line of a descriptor", "4", line=number)
        key, value = entry[1], entry[2] if entry[2] is not None else entry[3]
        target = self._header if key in _HEADER_KEYS else self._unknown
        if key.startswith("ddb."):
            key, target = key.removeprefix("ddb."), self._ddb
        elif key in _ENCRYPTION_KEYS:
            self._encrypted()
        if key in target:
            self._damaged(f"{escape(key[:80])} is given twice", "5", line=number)
        target[key] = value

    def _extent(self, match: re.Match[str], number: int) -> None:
        access, kind, name = match[1], match[3], match[4]
        sectors, offset = int(match[2]), int(match[5]) if match[5] else None
        if kind in DEVICE_KINDS or match[6]:
            self._unsupported(
                f"extent of type {kind} on a device", "7", "copy the data on the host that has it"
            )
        if kind not in (*FLAT_KINDS, *SPARSE_KINDS, "ZERO"):
            self._unsupported(f"extent of type {escape(kind[:40])}", "7")
        if access == "NOACCESS":
            self._unsupported("extent that may not be read (NOACCESS)", "7")
        wrong = (kind == "ZERO") != (name is None)
        wrong |= (offset is not None) if kind not in FLAT_KINDS else False
        wrong |= kind == "FLAT" and offset is None
        if wrong or (name is not None and not 0 < len(name) <= MAX_NAME):
            self._damaged(f"{escape(match[0][:80])!r} is no {kind} extent", "8", line=number)
        if len(self._extents) == MAX_EXTENTS:
            self._damaged(f"more than {MAX_EXTENTS} extents", "8", line=number)
        self._extents.append(ExtentLine(sectors, kind, name, offset, access))

    def _encrypted(self) -> NoReturn:
        self._unsupported("encryption", "9", "decrypt the virtual machine with VMware first")

    def _descriptor(self) -> Descriptor:
        header = self._header
        if header.get("version") not in ("1", "2", "3", "4"):
            self._damaged(f"version {escape(header.get('version', '(none)')[:40])}", "1")
        self._require_readable()
        parent_cid = self._cid("parentCID", default=NO_PARENT)
        hint = header.get("parentFileNameHint")
        if hint is not None and parent_cid == NO_PARENT:
            self._damaged("names a parent and says that it has none", "10")
        if hint is not None and not 0 < len(hint) <= MAX_NAME:
            self._damaged(f"the parent's name has {len(hint)} characters", "10")
        if not self._extents:
            self._damaged("names no extent", "8")
        found = Descriptor(
            cid=self._cid("CID"),
            create_type=header["createType"],
            extents=tuple(self._extents),
            ddb=self._ddb,
            parent_cid=parent_cid,
            parent_hint=hint,
            version=int(header["version"]),
            encoding=header.get("encoding"),
            change_track_path=header.get("changeTrackPath"),
            unknown=self._unknown,
        )
        if found.virtual_size >= 1 << 63:
            self._damaged("its extents add up to 8 EiB or more", "8")
        return found

    def _require_readable(self) -> None:
        kind = self._header.get("createType")
        if kind is None:
            self._damaged("has no createType", "6")
        if kind in DEVICE_TYPES:
            self._unsupported(
                f"disk type {kind}",
                "6",
                "its data is not in files: copy it on the host that has it",
            )
        if kind not in CREATE_TYPES:
            self._unsupported(f"disk type {escape(kind[:40])!r}", "6")
        if self._header.get("isNativeSnapshot", "no").lower() != "no":
            self._unsupported("a snapshot that the storage array keeps (isNativeSnapshot)", "6")
        if "vmwarevmcrypt" in self._ddb.get("iofilters", ""):
            self._encrypted()

    def _cid(self, key: str, default: int | None = None) -> int:
        text = self._header.get(key)
        if text is None and default is not None:
            return default
        if text is None or not re.fullmatch(r"[0-9A-Fa-f]{1,8}", text):
            self._damaged(f"{key} is {escape((text or '(none)')[:40])}, not a number", "10")
        return int(text, 16)
