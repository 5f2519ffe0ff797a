"""The folder of a report: what each boot left behind, the whole as JSON, and one page for people.

Profile: specs/report-v1.md, REP-DIR-1 to REP-DIR-3.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vmpack.errors import from_os_error

if TYPE_CHECKING:
    from vmpack.verify.boot import Boot
    from vmpack.verify.model import Observation
    from vmpack.verify.result import HostResult, VerifyResult

__all__ = ["ReportInput", "filled", "folder_names", "write_file", "write_report"]

PathLike = str | os.PathLike[str]

NAME = 64
"""Characters of a file's name that come from a host's or a check's name."""

TAKEN = ("index.html", "report.json", "junit.xml")
"""Names at the top of the folder that are no host's."""


@dataclass(frozen=True, slots=True)
class ReportInput:
    """All that a report is made of."""

    result: VerifyResult
    times: Mapping[str, int] = field(default_factory=dict)
    """Milestone -> milliseconds after the start when the record was made; may be empty."""

    @property
    def expected(self) -> Observation | None:
        """The record that the boots were compared with."""
        record = self.result.record
        return None if record is None else record.record.observation


def write_report(folder: PathLike, report: ReportInput) -> tuple[str, ...]:
    """Write the report into ``folder``, which is made where it is missing; the paths.

    Files of an earlier report with the same names are replaced, each atomically; ``index.html`` is
    the last one. The same input gives the same bytes. Raises :class:`OutputError`.
    """
    from vmpack.verify.report.page import page

    result = filled(report.result, folder)
    files: dict[str, bytes] = {}
    for host, name in zip(result.hosts, folder_names(result.hosts), strict=True):
        files |= {f"{name}/{file}": data for file, data in _files(host, result.machine_id)}
    files["report.json"] = json.dumps(result.as_dict(), indent=2).encode() + b"\n"
    files["index.html"] = page(replace(report, result=result)).encode()
    for name, data in files.items():
        write_file(os.path.join(folder, name), data)
    return result.report


def filled(result: VerifyResult, folder: PathLike) -> VerifyResult:
    """``result`` with the paths of the report that :func:`write_report` makes of it."""
    hosts = []
    for host, name in zip(result.hosts, folder_names(result.hosts), strict=True):
        names = tuple(f"{name}/{file}" for file, _ in _files(host, result.machine_id))
        hosts.append(replace(host, artefacts=names))
    names = (*(name for host in hosts for name in host.artefacts), "report.json", "index.html")
    paths = tuple(os.path.join(folder, name) for name in names)
    return replace(result, hosts=tuple(hosts), report=paths)


def folder_names(hosts: tuple[HostResult, ...]) -> tuple[str, ...]:
    """A name for each host's folder: safe on every file system, and no two alike."""
    taken = {name.casefold() for name in TAKEN}
    return tuple([_unique(host.name, taken, "host") for host in hosts])


def _unique(text: str, taken: set[str], default: str) -> str:
    """``text`` as a file's name that is not in ``taken``, and goes into it."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:NAME].strip(".-") or default
    name, number = safe, 2
    while name.casefold() in taken:
        name, number = f"{safe}-{number}", number + 1
    taken.add(name.casefold())
    return name


def _files(host: HostResult, machine_id: str) -> Iterator[tuple[str, bytes]]:
    for number, boot in enumerate(host.boots, 1):
        for suffix, data in _boot_files(boot, machine_id):
            yield f"boot-{number}.{suffix}", data


def _boot_files(boot: Boot, machine_id: str) -> Iterator[tuple[str, bytes]]:
    from vmpack.runner.sanitize import Sanitizer

    yield "console.txt", Sanitizer(drawing=False).feed(boot.console, last=True).encode()
    if boot.ending.stderr:
        yield "qemu.txt", boot.ending.stderr.encode(errors="backslashreplace") + b"\n"
    if boot.ending.picture:
        yield "png", boot.ending.picture
    taken: set[str] = set()
    for check in boot.checks:
        if check.picture:
            yield f"{_unique(check.name, taken, 'check')}.png", check.picture
    if boot.observation is not None:
        yield "observation.json", _observation(boot, boot.observation, machine_id)


def _observation(boot: Boot, observation: Observation, machine_id: str) -> bytes:
    """A record of this one boot, which ``vmpack verify --against`` takes."""
    from vmpack.verify.record import Record

    record = Record(
        observation=observation,
        machine_id=machine_id,
        end=boot.end,
        ending=boot.expectation.ending,
        vmpack=observation.host.vmpack,
        replay=None,
    )
    return json.dumps(record.as_dict(), indent=2).encode() + b"\n"


def write_file(path: str, data: bytes) -> None:
    """Write ``path``, and the folders above it that are missing; whole, or not at all."""
    from vmpack.copy import write_all
    from vmpack.formats.base import Job
    from vmpack.output import Output

    above = os.path.dirname(path)
    try:
        if above:
            os.makedirs(above, exist_ok=True)
    except OSError as exc:
        raise from_os_error(exc, path=above, writing=True) from exc
    with Output(path, force=True) as out:
        write_all(out.fd, Job(0, data), out.name)
        out.commit()
