"""Mutated images: whatever a byte says, a reader ends in success or in vmpack's own error.

An image is changed where it lies and put back afterwards, so a large sparse one costs no more than
a small one. Checksums are made right again most of the time: else they would be all that is tried.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fuzz_checksums import corrected
from tests.support.fuzz_patient import Patient, Specimen
from tests.support.hostile import WATCH
from vmpack.errors import VmpackError
from vmpack.formats.base import ImageReader, OpenOptions
from vmpack.ops.check import check
from vmpack.ops.info import info
from vmpack.ops.opening import open_image

READ_LIMIT = 1 << 20
EXTENTS = 64
INFO_LIMIT = 1 << 20
CPU_LIMIT_S = 5.0
"""Seconds of this process's own time that one image may take: no load of the machine counts."""
MEMORY_LIMIT = 200 << 20
"""Bytes of address space that images may add to what the process has after the sound ones."""
INTERESTING = (0, 1, 2, 3, 8, 9, 16, 21, 22, 64, 72, 104, 255, 256, 511, 512, 513, 4096, 65535)
WIDE = (0, 1, 1 << 31, (1 << 32) - 1, 1 << 33, (1 << 62) - 1, 1 << 62, 1 << 63, (1 << 64) - 1)

TEXTS = (b"0", b"-1", b"99999999999999999999", b'"', b"\n", b"=", b"\xff", b"../", b"%")


class TooSlowError(BaseException):
    """An image took more than its time; not an ``Exception``, so that no reader catches it."""


@dataclass
class Report:
    """What a run of the fuzzer saw."""

    tried: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)


def mutate(rng: random.Random, patient: Patient) -> None:
    """One to six changes, most of them in the hot ranges."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        part = 0 if rng.random() < 0.7 else rng.randrange(len(patient.specimen.parts))
        hot = patient.specimen.parts[part].hot
        size = len(patient.now[part])
        start, length = rng.choice(hot) if hot and rng.random() < 0.85 else (0, size)
        length = min(length, size - start)
        if length < 1:
            continue
        at = start + rng.randrange(length)
        for _ in range(3):
            # What is zero is padding as a rule, and means something now and then.
            if not patient.now[part][at]:
                at = start + rng.randrange(length)
        _CHANGES[rng.randrange(len(_CHANGES))](rng, patient, part, at)
    if rng.random() < 0.8:
        correct(patient)


def correct(patient: Patient) -> None:
    """Make the checksums of all files of the image right."""
    for part, now in enumerate(patient.now):
        for at, data in corrected(patient.specimen.format, now):
            patient.put(part, at, data)


def _flip(rng: random.Random, patient: Patient, part: int, at: int) -> None:
    patient.put(part, at, bytes([patient.now[part][at] ^ 1 << rng.randrange(8)]))


def _byte(rng: random.Random, patient: Patient, part: int, at: int) -> None:
    patient.put(part, at, bytes([rng.randrange(256)]))


def _word(rng: random.Random, patient: Patient, part: int, at: int) -> None:
    width = rng.choice((2, 4, 4, 8, 8))
    value = rng.choice(INTERESTING if rng.random() < 0.5 else WIDE)
    if rng.random() < 0.4:
        value = rng.randrange(len(patient.now[part]) // 512 + 2) * rng.choice((1, 512))
    data = (value % (1 << 8 * width)).to_bytes(width, "big")
    patient.put(part, at // width * width, data if rng.random() < 0.5 else data[::-1])


def _copy(rng: random.Random, patient: Patient, part: int, at: int) -> None:
    length = rng.choice((4, 8, 16, 48, 512))
    now = patient.now[part]
    hot = patient.specimen.parts[part].hot
    source = rng.choice(hot)[0] if hot and rng.random() < 0.5 else rng.randrange(len(now))
    patient.put(part, at, bytes(now[source : source + length]))


def _digits(rng: random.Random, patient: Patient, part: int, at: int) -> None:
    """A number of a text (descriptors), or its punctuation, becomes another one."""
    text = rng.choice(
        (b"0", b"-1", b"99999999999999999999", b'"', b"\n", b"=", b"\xff", b"../", b"%")
    )
    patient.put(part, at, text)


def _cut(rng: random.Random, patient: Patient, part: int, at: int) -> None:
    if rng.random() < 0.3:
        patient.cut(part, at)


_CHANGES: tuple[Callable[[random.Random, Patient, int, int], None], ...] = (
    _flip, _byte, _word, _word, _word, _copy, _digits, _cut,
)  # fmt: skip


def exercise(path: Path, format_name: str, parents: Sequence[str] = (), *, all_ways: bool) -> bool:
    """Do with the image all that a user may; whether any of it was refused.

    ``all_ways``: snapshots and names inside the image are followed as well.
    """
    refused = 0
    steps: list[Callable[[], object]] = [
        lambda: _info(path, format_name),
        lambda: check(path, format=format_name),
        lambda: _read(path, format_name, OpenOptions(parents=tuple(parents))),
    ]
    if all_ways:
        steps += [
            lambda: _read(path, format_name, OpenOptions(snapshot="1")),
            lambda: _read(path, format_name, OpenOptions(allow_backing=True)),
        ]
    for step in steps:
        try:
            step()
        except VmpackError as exc:
            # The path is shown by the command line, which escapes it.
            if not f"{exc.message}{exc.field}{exc.hint}".isprintable():
                raise AssertionError(f"{exc!r} is not fit for a terminal") from exc
            refused += 1
    return refused > 0


def _info(path: Path, format_name: str) -> None:
    text = json.dumps(info(path, format=format_name).as_dict())
    assert len(text) < INFO_LIMIT, f"info prints {len(text)} bytes"


def _read(path: Path, format_name: str, options: OpenOptions) -> None:
    reader = open_image(path, format=format_name, options=options)
    try:
        left = READ_LIMIT
        for offset, length in _wanted(reader):
            take = min(length, left)
            assert len(reader.read(offset, take)) == take
            left -= take
            if not left:
                break
        position = 0
        for number, run in enumerate(reader.map_runs(0, reader.virtual_size)):
            assert (run.offset, run.length > 0) == (position, True), run
            position += run.length
            if number == EXTENTS:
                break
    finally:
        reader.close()


def _wanted(reader: ImageReader) -> Iterator[tuple[int, int]]:
    """The first extents, then the disk's end."""
    position = 0
    for number, extent in enumerate(reader.extents()):
        assert (extent.offset, extent.length > 0) == (position, True), extent
        if number == EXTENTS:
            break
        position = extent.end
        yield extent.offset, extent.length
    tail = min(reader.virtual_size, 65536)
    yield reader.virtual_size - tail, tail


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`TooSlowError` in the main thread once this process has worked that long."""

    def stop(*_: object) -> None:
        raise TooSlowError(f"still at work after {seconds} s of CPU time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def limit_memory(extra: int = MEMORY_LIMIT) -> None:
    """From here on this process may map ``extra`` bytes more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))


def attempt(patient: Patient, *, all_ways: bool, folder: Path) -> bool:
    """:func:`exercise` the patient within its limits; nothing outside ``folder`` is opened."""
    specimen = patient.specimen
    parents = [str(patient.path(name)) for name in specimen.parents]
    with WATCH.opened() as opened, cpu_limit(CPU_LIMIT_S):
        refused = exercise(
            patient.path(), specimen.format, parents, all_ways=all_ways or bool(parents)
        )
    strangers = [name for name in opened if not name.startswith(str(folder))]
    assert not strangers, f"opened {strangers}"
    return refused


def fuzz(
    corpus: Sequence[Specimen],
    folder: Path,
    *,
    seed: int,
    keep: Path | None = None,
    count: int | None = None,
    seconds: float | None = None,
) -> Report:
    """Mutate the specimens in turn until ``count`` or ``seconds`` are reached.

    They are laid out in ``folder``; a failing one is copied into ``keep`` (``folder`` where none
    is given) under a name that the report gives.
    """
    rng = random.Random(seed)
    report = Report()
    patients = [Patient(one, folder / one.format / one.name) for one in corpus]
    # What a reader spools belongs into the folder that it may touch.
    tempfile.tempdir = os.fspath(folder)
    for patient in patients:
        # What is read for the first time imports modules: not while memory is limited.
        attempt(patient, all_ways=True, folder=folder)
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit_memory()
    begin = time.monotonic()
    try:
        while (count is None or report.tried < count) and (
            seconds is None or time.monotonic() - begin < seconds
        ):
            patient = patients[report.tried % len(patients)]
            _one(rng, patient, report, seed, folder, keep or folder)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        for patient in patients:
            patient.close()
    return report


def _one(
    rng: random.Random, patient: Patient, report: Report, seed: int, folder: Path, keep: Path
) -> None:
    mutate(rng, patient)
    patient.write()
    all_ways = rng.random() < 0.15
    started = time.process_time()
    try:
        report.refused += attempt(patient, all_ways=all_ways, folder=folder)
    except (Exception, TooSlowError):
        report.failures.append(_kept(patient, keep, f"{seed}-{report.tried}"))
    report.slowest_s = max(report.slowest_s, time.process_time() - started)
    report.tried += 1
    patient.restore()


def _kept(patient: Patient, keep: Path, name: str) -> str:
    text = traceback.format_exc()
    specimen = patient.specimen
    target = keep / f"failure-{specimen.format}-{specimen.name}-{name}"
    shutil.copytree(patient.folder, target, dirs_exist_ok=True)
    return f"{os.fspath(target / specimen.parts[0].name)}\n{text}"
