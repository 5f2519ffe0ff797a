"""Reads configs, and says what is wrong with them in the terms of whoever wrote them.

What pydantic says never reaches a user: its errors become one :class:`UsageError` (a person's
config) or :class:`DamagedError` (a bundle's), with the field as the config spells it, what is
allowed, and a guess at what was meant.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args

from vmpack.errors import DamagedError, UnsupportedError, UsageError, from_os_error
from vmpack.machine.names import CPU_FAMILIES, CPU_PATTERN, MACHINE_PATTERN
from vmpack.machine.scalars import PATTERN_MEANINGS, Part

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from vmpack.machine.config import MachineConfig

__all__ = ["from_bundle", "from_person", "parse_json", "parse_toml", "read_text"]

MAX_FILE_BYTES = 4 << 20
"""Longest config file that is read, in bytes."""

_SHOWN = 60
_Config = TypeVar("_Config", bound="MachineConfig")
_Part = TypeVar("_Part", bound=Part)


def read_text(path: str | os.PathLike[str]) -> str:
    """The UTF-8 text of a config file of at most :data:`MAX_FILE_BYTES`."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise from_os_error(exc, path=name) from exc
    if len(raw) > MAX_FILE_BYTES:
        raise UsageError(f"a config has at most {MAX_FILE_BYTES} bytes", path=name)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UsageError(
            "is not UTF-8", path=name, offset=exc.start, hint="save it as UTF-8"
        ) from exc


def parse_toml(text: str, *, path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The table that ``text`` is; raises :class:`UsageError` with line and column."""
    try:
        return tomllib.loads(text)
    except ValueError as exc:  # tomllib.TOMLDecodeError is one; so is an integer of 5,000 digits
        found = re.search(r"^(.*?) \(at (line \d+, column \d+|end of document)\)$", str(exc), re.S)
        message, where = found.groups() if found else ("a value is out of range", None)
        raise UsageError(
            f"not TOML: {message[:1].lower()}{message[1:]}",
            path=path,
            field=where,
            hint="strings need quotes; tables are written [cpu], lists of tables [[disk]]",
        ) from exc
    except RecursionError as exc:
        raise UsageError("nested too deeply", path=path) from exc


def parse_json(text: str, *, path: str | os.PathLike[str] | None = None) -> Any:
    """The JSON value that a person wrote; raises :class:`UsageError` with line and column."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        raise UsageError(f"not JSON: {exc.msg.lower()}", path=path, field=where) from exc
    except ValueError as exc:
        raise UsageError(f"not JSON: {exc}", path=path) from exc
    except RecursionError as exc:
        raise UsageError("nested too deeply", path=path) from exc


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return result


def from_person(
    cls: type[_Part], data: object, *, path: str | os.PathLike[str] | None = None
) -> _Part:
    """Validate what a person wrote; raises :class:`UsageError`."""
    from pydantic import ValidationError

    try:
        return cls.model_validate(data, context={"person": True}, by_alias=True, by_name=False)
    except ValidationError as exc:
        problem = _Problem(cls, data, exc)
        raise UsageError(
            problem.message,
            path=path,
            field=problem.field,
            clause=problem.clause,
            hint=problem.hint,
        ) from exc
    except UsageError as exc:  # a size that is none
        raise UsageError(exc.message, path=path, field="memory", hint=exc.hint) from exc


def from_bundle(
    cls: type[_Config], data: Mapping[str, object], *, path: str | None = None
) -> _Config:
    """Validate a bundle's config, strictly; raises :class:`DamagedError`."""
    from pydantic import ValidationError

    version = data.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version > 1:
        raise UnsupportedError(
            f"config of version {version}, version 1 is known",
            path=path,
            field="config.version",
            clause="CFG-VER-1",
            hint="a newer vmpack reads it",
        )
    try:
        config = cls.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as exc:
        problem = _Problem(cls, data, exc)
        raise DamagedError(
            problem.message,
            path=path,
            field=f"config.{problem.field}" if problem.field else "config",
            clause=problem.clause or "CFG-VER-2",
            hint="the bundle was written by another program, or by a newer vmpack",
        ) from exc
    _require_canonical(config.to_json_dict(), data, path)
    return config


def _require_canonical(expected: object, found: object, path: str | None) -> None:
    where = _difference(expected, found, "config")
    if where is not None:
        raise DamagedError(
            "not the canonical form of this value",
            path=path,
            field=where,
            clause="CFG-FORM-2",
            hint="leave absent fields out, sort CPU flags, and write version",
        )


def _difference(expected: object, found: object, field: str) -> str | None:
    """The first field where two JSON values differ, types included (``True`` is not 1)."""
    if isinstance(expected, dict) and isinstance(found, Mapping):
        for key in sorted(expected.keys() | found.keys()):
            if key not in expected or key not in found:
                return f"{field}.{key}"
            where = _difference(expected[key], found[key], f"{field}.{key}")
            if where is not None:
                return where
        return None
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, pair in enumerate(zip(expected, found, strict=True)):
            where = _difference(*pair, f"{field}[{index}]")
            if where is not None:
                return where
        return None
    return None if type(expected) is type(found) and expected == found else field


class _Problem:
    """The first problem that pydantic found, in the config's own terms."""

    def __init__(self, cls: type[Part], data: object, exc: Any):
        errors: list[ErrorDetails] = exc.errors(include_url=False)
        # A misspelt field is the cause of the "missing" one beside it.
        first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
        self._cls = cls
        self._value = _at(data, first["loc"])
        self._context: dict[str, Any] = first.get("ctx") or {}
        self.clause: str | None = self._context.get("clause")
        self.hint: str | None = self._context.get("hint")
        self.field = _spell(first["loc"]) or None
        if first["type"] == "conflict":
            self.field = self._context["field"]
        self.message = self._message(first)
        if len(errors) > 1:
            self.message += f" (and {len(errors) - 1} more problems)"

    def _message(self, error: ErrorDetails) -> str:
        kind, context = error["type"], self._context
        if kind == "extra_forbidden":
            key = str(error["loc"][-1])
            self._guess(key, _fields_at(self._cls, error["loc"][:-1]))
            return "unknown field"
        if kind == "literal_error":
            allowed = re.findall(r"'([^']*)'|(\d+)", str(context["expected"]))
            names = [text or number for text, number in allowed]
            if isinstance(self._value, str):
                self._guess(self._value, names)
            elif str(self._value) in names:
                self.hint = f'write it in quotes: "{self._value}"'
            return f"{_show(self._value)} is not one of {', '.join(names)}"
        if kind == "string_pattern_mismatch":
            return self._pattern(str(context["pattern"]))
        if kind == "missing":
            return "is missing"
        if kind in _TYPES:
            return f"{_TYPES[kind]} is needed, not {_show(self._value)}"
        text = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
        return text[:1].lower() + text[1:]

    def _pattern(self, pattern: str) -> str:
        value = self._value if isinstance(self._value, str) else ""
        if pattern == CPU_PATTERN:
            near = difflib.get_close_matches(value, CPU_FAMILIES, 1, 0.5)
            self.hint = f"did you mean {near[0]}-v1?" if near else None
        if pattern == MACHINE_PATTERN and value in ("q35", "pc", "pc-q35", "pc-i440fx"):
            self.hint = f"did you mean pc-{'q35' if 'q35' in value else 'i440fx'}-7.2?"
        return f"{_show(self._value)} is not {PATTERN_MEANINGS.get(pattern, pattern)}"

    def _guess(self, value: str, names: list[str]) -> None:
        near = difflib.get_close_matches(value.lower().replace("_", "-"), names, 1, 0.5)
        if near:
            self.hint = f"did you mean {near[0]}?"
        elif names:
            self.hint = f"known here: {', '.join(names)}"


_TYPES = {
    "string_type": "a string",
    "string_unicode": "a string without lone surrogates",
    "int_type": "an integer",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def _show(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _spell(loc: tuple[int | str, ...]) -> str:
    """``("disk", 1, "bus")`` as ``disk[1].bus``; strange keys are escaped."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":
            shown = part if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", part) else _show(part)
            text += f".{shown}" if text else shown
    return text


def _at(data: Any, loc: tuple[int | str, ...]) -> object:
    """The value at ``loc``, as far as there is one; a key itself where ``loc`` says so."""
    for position, part in enumerate(loc):
        if part == "[key]":
            return loc[position - 1]
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _fields_at(cls: type[Part], loc: tuple[int | str, ...]) -> list[str]:
    """The field names of the table at ``loc``."""
    for part in loc:
        if isinstance(part, int):
            continue
        field = next((one for one in cls.model_fields.values() if one.alias == part), None)
        inner = _part_in(field.annotation) if field else None
        if inner is None:
            continue
        cls = inner
    return [one.alias or name for name, one in cls.model_fields.items()]


def _part_in(annotation: object) -> type[Part] | None:
    """The table class somewhere inside a type such as ``tuple[Disk, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    for inner in get_args(annotation):
        found = _part_in(inner)
        if found is not None:
            return found
    return None


def refuse(message: str, field: str, hint: str | None = None) -> NoReturn:
    """Raise the :class:`UsageError` of a config that does not fit its disks."""
    raise UsageError(message, field=field, hint=hint)
