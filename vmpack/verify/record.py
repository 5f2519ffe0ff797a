"""The behaviour record: what a machine's boots had in common, kept to hold other boots against.

Profile: specs/behaviour-v1.md, BHV-REC, BHV-LIM and BHV-VER. A record lies in the manifest of a
bundle, or in a JSON file of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from vmpack.errors import DamagedError, InputError, UnsupportedError, VmpackError, from_os_error
from vmpack.verify.bounds import MAX_TEXT, clean, clean_facts
from vmpack.verify.layers import LAYERS, LayerName
from vmpack.verify.merging import merge
from vmpack.verify.model import Facts, HostFacts, Json, Observation
from vmpack.verify.replay import Replay

__all__ = ["End", "Record", "Replay", "merge", "read_record"]

VERSION = 1
MEMBER = "vmpack-behaviour"
"""The member that says that a JSON object is a record, and its version."""

End = Literal["login", "milestones", "agent", "ending", "quiet"]
"""How the end of the boot was recognised: a login prompt; the config's milestones; the guest agent
answered; the guest ended by itself, as expected; nothing more came."""

MAX_BYTES = 16 << 20
MAX_BOOTS = 1000
MAX_TEXTS = 64
"""Entries of ``means`` and of the host's ``changed``."""
MAX_UNSTABLE = 20_000
MAX_UNKNOWN_LAYERS = 16
_MACHINE_ID = re.compile(r"sha256:[0-9a-f]{64}")
_AGAIN = "record it again with vmpack verify BUNDLE --record"


@dataclass(frozen=True, slots=True)
class Record:
    """What was observed, of which machine, and how."""

    observation: Observation
    machine_id: str
    """``sha256:HEX``: of the bundle whose boots these were."""
    end: End = "login"
    ending: str = "running"
    """How the boots ended, in the words of the config's ``expected.ending``."""
    vmpack: str = ""
    """The version that recorded."""
    replay: Replay | None = None
    extra: Mapping[str, Json] = field(default_factory=dict)
    """Members that a newer vmpack wrote: kept as they are."""

    def as_dict(self) -> dict[str, Json]:
        """The JSON object of a bundle's manifest and of a file: canonical JSON can hold it."""
        seen = clean(self.observation)
        host = seen.host
        layers: dict[str, Json] = {**seen.unknown_layers}
        layers.update({name: dict(facts) for name, facts in seen.layers.items()})
        return {
            **clean_facts("", self.extra),
            MEMBER: VERSION,
            "level": seen.level,
            "machine-id": self.machine_id,
            "vmpack": self.vmpack,
            "host": {
                "qemu": host.qemu,
                "accel": host.accel,
                "firmware": host.firmware,
                "name": host.name,
                "vmpack": host.vmpack,
                "changed": list(host.changed),
            },
            "boots": seen.boots,
            "means": list(seen.means),
            "end": self.end,
            "ending": self.ending,
            "layers": layers,
            "unstable": {name: list(keys) for name, keys in seen.unstable.items()},
            "replay": cast("Json", self.replay.as_dict()) if self.replay is not None else None,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, object], *, path: str | None = None) -> Record:
        """The record that a JSON object is; ``path`` names its file in messages.

        Raises :class:`DamagedError` naming the member that is wrong, :class:`UnsupportedError` for
        a record of a newer version.
        """
        top = _Members(dict(document), path)
        version = top.integer(MEMBER, 0, 1 << 31)
        if version != VERSION:
            raise UnsupportedError(
                f"a behaviour record of version {version}; this vmpack reads version {VERSION}",
                path=path,
                field=MEMBER,
                clause="BHV-VER-1",
                hint="a newer vmpack reads it; or " + _AGAIN,
            )
        level = top.integer("level", 1, 1 << 31)
        host = top.members("host")
        layers, unknown = _layers(top)
        observation = Observation(
            host=HostFacts(
                qemu=host.text("qemu"),
                accel=host.text("accel"),
                firmware=host.text("firmware"),
                name=host.text("name"),
                vmpack=host.text("vmpack"),
                changed=host.texts("changed", MAX_TEXTS),
            ),
            layers=layers,
            means=top.texts("means", MAX_TEXTS),
            boots=top.integer("boots", 1, MAX_BOOTS),
            unstable=_unstable(top),
            level=level,
            unknown_layers=unknown,
        )
        end = top.text("end")
        if end not in get_args(End):
            raise top.error("end", f"is none of {', '.join(get_args(End))}")
        return cls(
            observation=observation,
            machine_id=top.matching("machine-id", _MACHINE_ID),
            end=cast("End", end),
            ending=top.text("ending"),
            vmpack=top.text("vmpack"),
            replay=_replay(top, path),
            extra=top.rest(),
        )


class _Members:
    """The members of a JSON object, read one by one; each that is wrong is named."""

    def __init__(self, values: dict[str, object], path: str | None, name: str = "") -> None:
        self._values = values
        self._path = path
        self._name = name

    def error(self, member: str, message: str, clause: str = "BHV-REC-1") -> VmpackError:
        from vmpack.binary import escape

        where = escape(f"{self._name}.{member}" if self._name else member)
        return DamagedError(message, path=self._path, field=where, clause=clause, hint=_AGAIN)

    def take(self, member: str) -> object:
        if member not in self._values:
            raise self.error(member, "is missing")
        return self._values.pop(member)

    def integer(self, member: str, low: int, high: int) -> int:
        value = self.take(member)
        if type(value) is not int or not low <= value <= high:
            raise self.error(member, f"is not an integer from {low} to {high}")
        return value

    def text(self, member: str) -> str:
        value = self.take(member)
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise self.error(member, f"is not a text of at most {MAX_TEXT} characters")
        return value

    def matching(self, member: str, pattern: re.Pattern[str]) -> str:
        value = self.text(member)
        if not pattern.fullmatch(value):
            raise self.error(member, f"does not match {pattern.pattern}")
        return value

    def texts(self, member: str, most: int) -> tuple[str, ...]:
        value = self.take(member)
        if (
            not isinstance(value, list)
            or len(value) > most
            or not all(isinstance(item, str) and len(item) <= MAX_TEXT for item in value)
        ):
            raise self.error(member, f"is not an array of at most {most} texts")
        return tuple(value)

    def mapping(self, member: str) -> dict[str, object]:
        value = self.take(member)
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.error(member, "is not an object")
        return value

    def members(self, member: str) -> _Members:
        return _Members(dict(self.mapping(member)), self._path, member)

    def rest(self) -> dict[str, Json]:
        return self.cleaned("", self._values)

    def cleaned(self, name: str, values: Mapping[str, object]) -> dict[str, Json]:
        """``values`` as facts, or the error that names what no record holds."""
        facts = clean_facts(name, values)
        if facts != values:
            wrong = next((key for key in values if facts.get(key) != values[key]), name)
            raise _Members({}, self._path, name).error(
                wrong, "is more than a record may hold", "BHV-LIM-1"
            )
        return facts


def _layers(top: _Members) -> tuple[dict[LayerName, Facts], dict[str, Json]]:
    known: dict[str, LayerName] = {layer.name: layer.name for layer in LAYERS}
    layers: dict[LayerName, Facts] = {}
    unknown: dict[str, Json] = {}
    for name, facts in top.mapping("layers").items():
        if not isinstance(facts, dict) or not all(isinstance(key, str) for key in facts):
            raise top.error(f"layers.{name}", "is not an object")
        if name in known:
            layers[known[name]] = top.cleaned(name, facts)
        else:
            unknown[name] = top.cleaned(name, facts)
    if len(unknown) > MAX_UNKNOWN_LAYERS:
        raise top.error("layers", f"more than {MAX_UNKNOWN_LAYERS} unknown ones", "BHV-LIM-1")
    top.cleaned("", unknown)
    return layers, unknown


def _unstable(top: _Members) -> dict[LayerName, tuple[str, ...]]:
    members = top.members("unstable")
    names = [layer.name for layer in LAYERS]
    return {name: members.texts(name, MAX_UNSTABLE) for name in names if name in members._values}


def _replay(top: _Members, path: str | None) -> Replay | None:
    value = top.take("replay")
    return None if value is None else Replay.from_dict(value, path=path)


def read_record(path: str | os.PathLike[str]) -> Record:
    """The record in a file of JSON, or that of a bundle.

    Raises :class:`InputError` when there is none, what opening a bundle raises, and what
    :meth:`Record.from_dict` raises.
    """
    from vmpack.bundle.structs import MAGIC

    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return _of_bundle(name)
            file.seek(0)
            data = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise from_os_error(exc, path=name) from exc
    from vmpack.verify.parsing import parse

    document = parse(data, path=name, most=MAX_BYTES)
    if not isinstance(document, dict) or MEMBER not in document:
        raise DamagedError(
            "is no behaviour record",
            path=name,
            clause="BHV-REC-1",
            hint="name a bundle, or a file that vmpack verify --record-to wrote",
        )
    return Record.from_dict(document, path=name)


def _of_bundle(name: str) -> Record:
    from vmpack.bundle import Bundle

    with Bundle.open(name) as bundle:
        behaviour = bundle.manifest.behaviour
    if behaviour is None:
        raise InputError("the bundle has no behaviour record", path=name, hint=_AGAIN)
    return Record.from_dict(behaviour, path=name)
