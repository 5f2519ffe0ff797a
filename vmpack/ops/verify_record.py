"""Behaviour records: made of several boots, kept in the bundle or in a file, read again."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vmpack import __version__
from vmpack.bundle import Bundle
from vmpack.errors import RefusedError, UsageError, from_os_error
from vmpack.progress import SILENT, Progress
from vmpack.verify.result import RecordSource

if TYPE_CHECKING:
    from vmpack.ops.verify_request import Request
    from vmpack.verify.boot import Boot
    from vmpack.verify.layers import LayerName
    from vmpack.verify.model import Comparison, Json
    from vmpack.verify.record import Record

__all__ = [
    "disagreement",
    "expected_of",
    "own_record",
    "record_of",
    "require_own",
    "require_place",
    "store",
    "times_of",
    "write_record",
]

PathLike = str | os.PathLike[str]

BUNDLE = "bundle"
"""The source of a record that the bundle itself carries."""

RECORD_FIRST = "make one with: vmpack verify --record"


def own_record(bundle: Bundle) -> Record | None:
    """The record that a bundle carries. Raises what :meth:`Record.from_dict` raises."""
    from vmpack.verify.record import Record

    found = bundle.manifest.behaviour
    return None if found is None else Record.from_dict(found, path=bundle.path)


def expected_of(bundle: Bundle, against: PathLike | None) -> RecordSource | None:
    """What ``bundle`` is compared with: the record in ``against``, otherwise its own.

    Raises :class:`UsageError` when ``against`` is a bundle without a record, and what reading
    either raises.
    """
    from vmpack.verify.record import read_record

    if against is None:
        record, source = own_record(bundle), BUNDLE
    else:
        record, source = read_record(against), os.fspath(against)
    if record is None:
        return None
    return RecordSource(source, record, record.machine_id == bundle.machine_id)


def require_own(bundle: Bundle, path: PathLike) -> Record:
    """The record that a bundle carries; raises :class:`UsageError` when it has none."""
    record = own_record(bundle)
    if record is None:
        raise UsageError("holds no behaviour record", path=os.fspath(path), hint=RECORD_FIRST)
    return record


def record_of(bundle: Bundle, boots: Sequence[Boot]) -> Record:
    """What ``boots``, all of them as expected, had in common."""
    from vmpack.verify.record import Record, merge

    seen = [boot.observation for boot in boots if boot.observation is not None]
    return Record(
        observation=merge(seen),
        machine_id=bundle.machine_id,
        end=boots[0].end,
        ending=boots[0].expectation.ending,
        vmpack=__version__,
        extra={TIMES: _times(boots[0])},
    )


TIMES = "times"
"""The record's member for when the first boot came to which milestone, in milliseconds after the
start. It is shown, and never compared."""

MOST_TIMES = 1000


def _times(boot: Boot) -> dict[str, Json]:
    from vmpack.verify.bounds import clean_facts

    first: dict[str, Json] = {}
    for one in sorted((*boot.reached, *boot.seen), key=lambda reached: reached.seconds):
        if len(first) < MOST_TIMES:
            first.setdefault(one.name, round(one.seconds * 1000))
    # Names may be a guest's own words; a record has keys of printable ASCII.
    return clean_facts("milestones", first)


def times_of(record: Record) -> dict[str, int]:
    """Milestone -> milliseconds, as a record has them; empty where it says nothing sensible."""
    found = record.extra.get(TIMES)
    if not isinstance(found, dict):
        return {}
    pairs = list(found.items())[:MOST_TIMES]
    return {name: time for name, time in pairs if type(time) is int and 0 <= time < 1 << 40}


def disagreement(
    boots: Sequence[Boot], unstable: Mapping[LayerName, Sequence[str]]
) -> tuple[Comparison | None, Mapping[LayerName, tuple[str, ...]]]:
    """What stands in the way of a record: a comparison that shows it, and the items by layer.

    These are the items that were not the same in all boots although their layer promises that on
    one host. Layers that promise to be alike have the rest; a record keeps what they share.
    """
    from vmpack.verify.compare import compare
    from vmpack.verify.layers import LAYERS

    bad: dict[LayerName, tuple[str, ...]] = {}
    for row in LAYERS:
        keys = unstable.get(row.name, ())
        if promised := tuple(key for key in keys if _promised(row.name, key)):
            bad[row.name] = promised
    if not bad:
        return None, bad
    first, *rest = [boot.observation for boot in boots if boot.observation is not None]
    compared = [compare(first, other) for other in rest]
    return next((one for one in compared if not one.good), compared[0] if compared else None), bad


def _promised(layer: LayerName, key: str) -> bool:
    """Whether a host promises to repeat this item, or a member of one (``KEY > NAME``)."""
    from vmpack.verify.layers import promise

    return promise(layer, key.split(" > ")[0], same_host=True) in ("exact", "shared")


def require_place(bundle: Bundle, path: PathLike, request: Request) -> None:
    """Find out before the boots whether the record could be stored; raises as storing it does."""
    from vmpack.output import Output

    if request.record_to is None:
        _require_replaceable(bundle, path)
    place = path if request.record_to is None else request.record_to
    with Output(place, force=request.record_to is None or request.force):
        pass


def write_record(record: Record, path: PathLike, *, force: bool = False) -> str:
    """Write a record into a file of its own, whole or not at all; its path.

    Raises :class:`OutputError` when it exists already and ``force`` is not set, or cannot be
    written.
    """
    from vmpack.copy import write_all
    from vmpack.formats.base import Job
    from vmpack.output import Output

    data = json.dumps(record.as_dict(), indent=2, sort_keys=True).encode() + b"\n"
    with Output(path, force=force) as out:
        write_all(out.fd, Job(0, data), out.name)
        out.commit()
    return os.fspath(path)


def store(
    bundle: Bundle, path: PathLike, record: Record, *, progress: Progress = SILENT
) -> tuple[str, tuple[str, ...]]:
    """Put ``record`` into the bundle at ``path``, which is ``bundle``; its path, and warnings.

    A new bundle with the same disks takes the old one's place in one step, with its permissions
    and owner; a crash at any moment leaves one of the two. Where ``path`` is a symbolic link, what
    it points to is replaced.

    Raises :class:`RefusedError` when another file has taken the bundle's name meanwhile, or it is a
    device, and what :func:`vmpack.ops.derive.derive` raises.
    """
    from vmpack.ops.derive import derive
    from vmpack.verify.replay import BLOB

    before = _require_replaceable(bundle, path)
    replay = record.replay
    # A record without a replay leaves none of an older one behind.
    blobs = {BLOB: None if replay is None else replay.packed}
    derive(
        bundle,
        path,
        behaviour=record.as_dict(),
        blobs=blobs,
        like=before,
        force=True,
        progress=progress,
    )
    if before.st_nlink > 1:
        more = before.st_nlink - 1
        other = "another name" if more == 1 else f"{more} other names"
        return os.fspath(path), (f"the file had {other}: there it is still without this record",)
    return os.fspath(path), ()


def _require_replaceable(bundle: Bundle, path: PathLike) -> os.stat_result:
    """The state of the bundle's file; raises when it cannot be replaced by a new one."""
    opened = os.fstat(bundle.source.fd)
    name = os.fspath(path)
    if not stat.S_ISREG(opened.st_mode):
        hint = "store the record in a file: --record-to FILE"
        raise RefusedError("is no file that a new bundle could replace", path=name, hint=hint)
    try:
        there = os.stat(name)
    except OSError as exc:
        raise from_os_error(exc, path=name) from exc
    if (there.st_dev, there.st_ino) != (opened.st_dev, opened.st_ino):
        hint = "record it again"
        raise RefusedError("was replaced by another file meanwhile", path=name, hint=hint)
    return there
