"""What another machine's vmpack reports, read as a stranger's: bounded, typed, escaped.

Profile: specs/hosts-v1.md, HOSTS-BACK-*. Its verdicts are taken for what they are, observations;
whether they are as recorded is decided here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, cast, get_args

from vmpack.binary import escape
from vmpack.containers.base import Member
from vmpack.containers.tar import members
from vmpack.errors import RemoteError, VmpackError
from vmpack.runner.milestones import Reached
from vmpack.runner.options import EXIT_CODES, Ending, Kind, Where
from vmpack.runner.preflight import Pin
from vmpack.source import ByteSource
from vmpack.verify.boot import LOG_KEPT, Boot, End, Expectation
from vmpack.verify.checks import CheckResult, Verdict
from vmpack.verify.model import HostFacts, Observation
from vmpack.verify.result import HostResult

if TYPE_CHECKING:
    from vmpack.bundle import Bundle
    from vmpack.verify.model import Comparison
    from vmpack.verify.record import Record
    from vmpack.verify.remote import Order

__all__ = ["host_result"]

MAX_DOCUMENT = 64 << 20
MAX_PICTURE = 32 << 20
MAX_ITEMS = 10_000
MAX_TEXT = 4096
STATUS = ("available", "deprecated", "unavailable")
HERE = "report/here"
"""Where a report has the files of the host that wrote it."""


def host_result(
    name: str, archive: IO[bytes], size: int, order: Order, bundle: Bundle
) -> HostResult:
    """The result of the host ``name``, from the archive of ``size`` bytes that it sent.

    Raises :class:`RemoteError` for what no vmpack of this version sends.
    """
    try:
        with ByteSource(archive.fileno(), path=f"report of {name}", size=size) as source:
            files = _Files(source)
            document = files.document("result.json")
            if "error" in document:
                return _refusal(name, document["error"])
            return _result(name, document, files, order, bundle)
    except RemoteError:
        raise
    except (VmpackError, KeyError, TypeError, ValueError, IndexError, RecursionError) as exc:
        raise RemoteError(
            f"{name} sent a report that cannot be read: {escape(str(exc)[:200])}",
            hint="install the same version of vmpack on both machines",
        ) from exc


class _Files:
    """The members of the archive, each read when it is asked for, within its bound."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._members: dict[str, Member] = members(source)

    def read(self, name: str, most: int) -> bytes | None:
        """The file's bytes, cut at ``most``; ``None`` when there is none."""
        found = self._members.get(name)
        return None if found is None else self._source.pread(found.offset, min(found.size, most))

    def document(self, name: str) -> dict[str, Any]:
        """The JSON object in the file; what else the command said, where there is none."""
        data = self.read(name, MAX_DOCUMENT) or b""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        said = (self.read("stderr.txt", 2000) or b"").decode(errors="replace")
        code = (self.read("code", 20) or b"").decode(errors="replace")
        words = escape(" ".join(said.split())) or "without a word"
        raise RemoteError(
            f"the vmpack there ended with {escape(code.strip())}: {words}",
            hint="try it there by hand: vmpack doctor; is its disk full?",
        )


def _refusal(name: str, error: object) -> HostResult:
    """What the vmpack there could not do, in its words."""
    told = _mapping(error)
    fields = {key: told.get(key) for key in VmpackError("").as_dict()}
    shown = {key: _text(value) for key, value in fields.items() if isinstance(value, str)}
    offset = fields["offset"]
    found: dict[str, object] = {key: shown.get(key) for key in fields}
    found["offset"] = offset if isinstance(offset, int) else None
    found["kind"] = shown.get("kind", RemoteError.kind)
    if found["kind"] == "usage":
        found["kind"] = RemoteError.kind
        found["hint"] = "install the same version of vmpack on both machines"
    return HostResult(name, error=found)


def _result(
    name: str, document: Mapping[str, Any], files: _Files, order: Order, bundle: Bundle
) -> HostResult:
    if document.get("machine-id") != bundle.machine_id:
        raise RemoteError(f"{name} verified another machine", hint="remove the bundle there")
    (told,) = _objects(document["hosts"])
    error = told.get("error")
    facts = told.get("facts")
    boots = tuple(
        _boot(name, one, files, number) for number, one in enumerate(_objects(told["boots"]), 1)
    )
    result = _refusal(name, error) if error is not None else HostResult(name)
    return replace(
        result,
        boots=boots,
        comparison=_comparison(boots, order.expected),
        pins=tuple(_pin(one) for one in _objects(told["pins"])),
        facts=None if facts is None else _facts(_mapping(facts)),
        notes=tuple(_text(one) for one in _list(told.get("notes", []))),
    )


def _comparison(boots: tuple[Boot, ...], expected: Record | None) -> Comparison | None:
    """With the record: of the first boot that differs, otherwise of the first boot."""
    from vmpack.verify.compare import compare

    if expected is None:
        return None
    seen = [one.observation for one in boots if one.observation is not None]
    all_of_them = [compare(expected.observation, one) for one in seen]
    differing = (one for one in all_of_them if not one.good)
    return next(differing, all_of_them[0] if all_of_them else None)


def _boot(name: str, told: Mapping[str, Any], files: _Files, number: int) -> Boot:
    stem = f"{HERE}/boot-{number}"
    expected = _mapping(told["expected"])
    milestones = [*_objects(told["milestones"])]
    observation, end = _observation(name, files, f"{stem}.observation.json")
    return Boot(
        ending=_ending(_mapping(told["ending"]), files.read(f"{stem}.png", MAX_PICTURE)),
        expectation=Expectation(
            tuple(_text(one) for one in _list(expected["milestones"])),
            _text(expected["ending"]),
            generic=expected["generic"] is True,
            timeout_s=_number(expected["timeout"]),
        ),
        reached=tuple(_reached(milestones)),
        missing=tuple(_text(one["name"]) for one in milestones if one.get("milliseconds") is None),
        seen=tuple(_reached(_objects(told["seen"]))),
        checks=tuple(_check(one, files, stem) for one in _objects(told["checks"])),
        console=files.read(f"{stem}.console.txt", LOG_KEPT) or b"",
        console_total=_whole(told["console-bytes"]),
        qemu=_text(told["qemu"]),
        accel=_text(told["accel"]),
        accel_reason=_text(told["accel-reason"]),
        host=observation.host if observation is not None else _host(name, told),
        end=end,
        observation=observation,
        problems=tuple(_text(one) for one in _list(told.get("problems", []))),
    )


def _observation(name: str, files: _Files, path: str) -> tuple[Observation | None, End]:
    from vmpack.verify.record import Record

    data = files.read(path, MAX_DOCUMENT)
    if data is None:
        return None, "login"
    record = Record.from_dict(_mapping(json.loads(data)), path=path)
    seen = record.observation
    return replace(seen, host=replace(seen.host, name=name)), record.end


def _host(name: str, told: Mapping[str, Any]) -> HostFacts:
    return HostFacts(_text(told["qemu"]), _text(told["accel"]), "", name=name)


def _ending(told: Mapping[str, Any], picture: bytes | None) -> Ending:
    kind = told["kind"]
    if kind not in EXIT_CODES:
        raise ValueError(f"an ending that is not known here: {kind}")
    reason, where = told.get("reason"), told.get("where")
    return Ending(
        kind=cast(Kind, kind),
        message=_text(told["message"]),
        reason=None if reason is None else _text(reason),
        seconds=_whole(told["milliseconds"]) / 1000,
        console_tail=tuple(_text(one) for one in _list(told["console-tail"])),
        picture=picture,
        stderr="\n".join(_text(line) for line in str(told["stderr"])[:65536].splitlines()),
        resets=_whole(told["resets"]),
        where=cast(Where, where) if where in get_args(Where) else None,
    )


def _check(told: Mapping[str, Any], files: _Files, stem: str) -> CheckResult:
    verdict = told["verdict"]
    if verdict not in get_args(Verdict):
        raise ValueError(f"a verdict that is not known here: {verdict}")
    name = _text(told["name"])
    return CheckResult(
        name=name,
        kind=_text(told["kind"]),
        verdict=cast(Verdict, verdict),
        message=_text(told["message"]),
        seconds=_whole(told["milliseconds"]) / 1000,
        picture=files.read(f"{stem}.{name.replace(' ', '-')}.png", MAX_PICTURE),
    )


def _reached(told: list[Mapping[str, Any]]) -> Iterator[Reached]:
    for one in told:
        if one.get("milliseconds") is not None:
            yield Reached(_text(one["name"]), _whole(one["milliseconds"]) / 1000)


def _pin(told: Mapping[str, Any]) -> Pin:
    status = told["status"]
    if status not in STATUS:
        raise ValueError(f"a status that is not known here: {status}")
    hint, expires = told.get("hint"), told.get("expires")
    return Pin(
        pin=_text(told["pin"]),
        value=_text(told["value"]),
        status=status,
        message=_text(told["message"]),
        hint=None if hint is None else _text(hint),
        expires=None if expires is None else _text(expires),
    )


def _facts(told: Mapping[str, Any]) -> dict[str, object]:
    names = ("qemu", "accel", "accel-reason", "firmware")
    return {name: None if told.get(name) is None else _text(told[name]) for name in names}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is needed, not {type(value).__name__}")
    return escape(value[:MAX_TEXT])


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
        raise TypeError("a whole number is needed")
    return value


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e9:
        raise TypeError("a number is needed")
    return float(value)


def _list(value: object) -> list[object]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise TypeError("a list is needed")
    return value


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("an object is needed")
    return value


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [_mapping(one) for one in _list(value)]
