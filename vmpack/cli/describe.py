"""The words of ``vmpack info`` for people, from its JSON document.

What a file says is data of any shape here: a config inside a bundle is not validated by ``info``,
so each value is looked at before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vmpack.binary import escape
from vmpack.cli.console import BOLD, Console
from vmpack.cli.human import MOST, clip, exact_size, fields, plain, table
from vmpack.units import format_size

Document = Mapping[str, object]

SIZES = frozenset({"virtual-size", "actual-size", "cluster-size", "vm-state-size"})


def describe(document: Document, console: Console) -> Iterator[str]:
    """Lines about an image, its chain of backing files or a bundle."""
    if isinstance(document.get("report"), Mapping):
        yield from _machine(document, console)
        return
    yield from (_bundle if document.get("format") == "vmpack" else _image)(document, console)
    for backing in _maps(document.get("chain")):
        yield ""
        yield from _image(backing, console)


def machine_line(config: object) -> str:
    """``pc-q35-7.2, x86_64, UEFI, 2 CPUs, 2 GiB`` of a config, whatever of it is there."""
    parts = [_text(config, "machine"), _text(config, "architecture")]
    kind = _text(config, "firmware", "kind").upper()
    secure = _at(config, "firmware", "secure-boot") is True
    parts.append(f"{kind} with Secure Boot" if secure else kind)
    cpus = 1
    for level in ("sockets", "dies", "cores", "threads"):
        factor = _at(config, "cpu", level)
        cpus *= factor if isinstance(factor, int) else 1
    if _at(config, "cpu"):
        model = _text(config, "cpu", "model")
        parts.append(f"{cpus} CPU{'' if cpus == 1 else 's'}{f' ({model})' if model else ''}")
    memory = _at(config, "memory")
    if isinstance(memory, int):
        parts.append(f"{format_size(memory)} of memory")
    return ", ".join(part for part in parts if part)


def _bundle(document: Document, console: Console) -> Iterator[str]:
    rows = [
        ("bundle", console.style(_text(document, "filename"), BOLD)),
        ("version", _text(document, "version")),
        ("name", _text(document, "name")),
        ("size", _size(document.get("size"))),
        ("machine", machine_line(document.get("config"))),
        ("network", _nics(document.get("config"))),
        ("made by", _provenance(document.get("provenance"))),
        ("record", _record(document)),
        ("id", _text(document, "id")),
        ("machine-id", _text(document, "machine-id")),
    ]
    yield from fields((name, value) for name, value in rows if value)
    yield from _disks(_maps(document.get("disks")))
    yield from _nvram(document.get("nvram"))
    blobs = _maps(document.get("blobs"))
    if blobs:
        yield ""
        yield from table(
            ("file", "size", "stored"),
            [
                (_text(blob, "name"), _short(blob.get("size")), _short(blob.get("stored-size")))
                for blob in blobs
            ],
            right=("size", "stored"),
            most=MOST,
        )


def _record(document: Document) -> str:
    """How it was recorded to behave: ``3 boots on QEMU 7.2.22, tcg``."""
    record = document.get("behaviour")
    if not isinstance(record, Mapping):
        return ""
    boots = _text(record, "boots") or "?"
    qemu, accel = _text(record, "host", "qemu") or "?", _text(record, "host", "accel") or "?"
    parts = [f"{boots} boot{'' if boots == '1' else 's'} on QEMU {qemu}, {accel}"]
    if _at(record, "replay"):
        parts.append("with one to replay")
    if record.get("machine-id") != document.get("machine-id"):
        parts.append("of another machine: this one has changed since")
    return "; ".join(parts)


def _nvram(state: object) -> Iterator[str]:
    """What the firmware was told to start."""
    if not isinstance(state, Mapping):
        return
    yield ""
    if "problem" in state:
        yield f"NVRAM: {_text(state, 'problem')}"
        return
    secure = "on" if _at(state, "secure-boot") is True else "off"
    keys = "" if _at(state, "platform-key") is True else ", no platform key"
    yield f"NVRAM: Secure Boot {secure}{keys}"
    rows = [
        (_text(one, "name"), clip(_text(one, "description")), clip(_text(one, "path")))
        for one in _maps(_at(state, "boot-entries"))
    ]
    if rows:
        yield from table(("entry", "description", "device path"), rows, most=MOST)


def _machine(document: Document, console: Console) -> Iterator[str]:
    """A machine of another hypervisor, as it would be packed."""
    from vmpack.cli.reports import report_lines

    rows = [
        ("machine", console.style(_text(document, "filename"), BOLD)),
        ("of", _text(document, "title")),
        ("name", _text(document, "name")),
        ("state", "running: it cannot be packed" if document.get("running") is True else ""),
        ("hardware", machine_line(document.get("config"))),
        ("network", _nics(document.get("config"))),
    ]
    yield from fields((name, value) for name, value in rows if value)
    disks = [
        (
            _text(disk, "id"),
            clip(_text(disk, "filename")),
            "volume" if disk.get("volume") is True else "" if disk.get("found") else "not there",
        )
        for disk in _maps(document.get("disks"))
    ]
    if disks:
        yield ""
        yield from table(("disk", "file", ""), disks, most=MOST)
        yield ""
    report = document.get("report")
    if isinstance(report, Mapping):
        yield from report_lines(report)


def _disks(disks: Sequence[Document]) -> Iterator[str]:
    if not disks:
        return
    header = ("disk", "virtual size", "stored", "cluster", "bus", "window")
    rows = [
        (
            _text(disk, "id"),
            _short(disk.get("virtual-size")),
            _short(disk.get("stored-size")),
            _short(disk.get("cluster-size")),
            _text(disk, "bus"),
            f"{_text(disk, 'window', 'offset')}+{_text(disk, 'window', 'size')}",
        )
        for disk in disks
    ]
    yield ""
    yield from table(header, rows, right=header[1:4], most=MOST)
    yield ""
    digests = [(_text(disk, "id"), _text(disk, "content-digest")) for disk in disks[:MOST]]
    yield from fields(digests)


def _nics(config: object) -> str:
    cards = _maps(_at(config, "nic"))
    words = [" ".join(filter(None, (_text(c, "model"), _text(c, "mac")))) for c in cards[:MOST]]
    return clip(", ".join(words))


def _provenance(value: object) -> str:
    version = _text(value, "vmpack")
    return f"vmpack {version}" if version else ""


def _image(document: Document, console: Console) -> Iterator[str]:
    rows = []
    for key, value in document.items():
        if key in {"format-specific", "snapshots", "chain"} or value is None:
            continue
        shown = _size(value) if key in SIZES else plain(value)
        name = {"filename": "image"}.get(key, key.replace("-", " "))
        rows.append((name, console.style(shown, BOLD) if key == "filename" else shown))
    yield from fields(rows)
    data = _at(document, "format-specific", "data")
    if isinstance(data, Mapping) and data:
        yield f"{_text(document, 'format-specific', 'type')}:"
        yield from fields(
            [(escape(str(key)).replace("-", " "), plain(item)) for key, item in data.items()],
            indent=2,
        )
    snapshots = _maps(document.get("snapshots"))
    if snapshots:
        yield "snapshots:"
        rows = [(_text(each, "id"), _text(each, "name")) for each in snapshots]
        yield from (f"  {line}" for line in table(("id", "name"), rows, most=MOST))


def _at(value: object, *keys: str) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(value: object, *keys: str) -> str:
    found = _at(value, *keys)
    return "" if found is None or isinstance(found, (Mapping, list, tuple)) else plain(found)


def _maps(value: object) -> list[Document]:
    items = value if isinstance(value, (list, tuple)) else ()
    return [item for item in items if isinstance(item, Mapping)]


def _size(value: object) -> str:
    return exact_size(value) if isinstance(value, int) else plain(value)


def _short(value: object) -> str:
    return format_size(value) if isinstance(value, int) else ""
