"""Builds a :class:`MachineConfig` from what a foreign config says, value by value.

A foreign config may say what no machine of vmpack's can: such a value is dropped and reported,
never fatal, and never changed without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vmpack.errors import UsageError
from vmpack.hypervisors.base import FileRef, Imported
from vmpack.hypervisors.report import Report
from vmpack.machine.names import safe_id, safe_name

MAX_REPAIRS = 512
MAX_VERBATIM = 4096
MAX_VERBATIM_BYTES = 1 << 20
"""CFG-RULE-9."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Draft:
    """A config under construction; ``data`` is config-v1's JSON form (kebab-case keys)."""

    def __init__(self, hypervisor: str):
        self.report = Report("import", hypervisor)
        self.hypervisor = hypervisor
        self.data: dict[str, Any] = {}
        self.disks: dict[str, FileRef] = {}
        self.blobs: dict[str, FileRef] = {}
        self.running = False
        self.running_hint = ""
        self.manifest: dict[str, tuple[str, str]] = {}
        self._verbatim: list[dict[str, str]] = []
        self._verbatim_bytes = 0
        self._sources: dict[str, str] = {}

    def set(self, path: str, value: object, source: str, *, how: str = "") -> None:
        """``path`` (``cpu.cores``) becomes ``value``, from the source's field ``source``.

        ``how`` says what was approximated; empty: the field is kept as it is.
        """
        at: dict[str, Any] = self.data
        *parents, last = path.split(".")
        for name in parents:
            at = at.setdefault(name, {})
        at[last] = value
        self._note(path, source, how)

    def add(self, path: str, value: Mapping[str, object], source: str, *, how: str = "") -> int:
        """Append to the list ``path`` (``disk``, ``nic``, ``ova.property``); its index there.

        Members that are ``None`` are left out.
        """
        at: dict[str, Any] = self.data
        *parents, last = path.split(".")
        for name in parents:
            at = at.setdefault(name, {})
        found: list[Any] = at.setdefault(last, [])
        found.append({key: item for key, item in value.items() if item is not None})
        self._note(f"{path}[{len(found) - 1}]", source, how)
        return len(found) - 1

    def set_source(self, path: str, source: str) -> None:
        """Say which field of the source ``path`` (``nic[0].mac``) is, for when it is refused."""
        self._sources[path] = source

    def add_disk(
        self,
        wanted_id: str,
        file: FileRef | None,
        source: str,
        *,
        how: str = "",
        **values: object,
    ) -> str:
        """Append a disk; its id, made of ``wanted_id`` and unique. No file: an empty drive."""
        disk_id = self.free_id(wanted_id)
        members = {name.replace("_", "-"): value for name, value in values.items()}
        if file is None:
            members |= {"kind": "cdrom", "empty": True}
        else:
            self.disks[disk_id] = file
        self.add("disk", {"id": disk_id, **members}, source, how=how)
        return disk_id

    def free_id(self, wanted: str) -> str:
        """``wanted`` as an id that no disk has yet."""
        base = safe_id(wanted)
        taken = {one["id"] for one in self.data.get("disk", ())}
        found, number = base, 1
        while found in taken:
            number += 1
            found = f"{base[: 31 - len(str(number))]}-{number}"
        return found

    def name(self, text: str, source: str) -> None:
        """The machine's name, in characters that a name may have."""
        found = safe_name(text)
        self.set("name", found, source, how="" if found == text else f"written {found!r}")

    def verbatim(self, key: str, value: str, *, secret: bool = False) -> None:
        """Carry a field that vmpack does not model: the same hypervisor gets it back.

        What is too long for that, or names a host's path (``secret``), is dropped and said.
        """
        if secret:
            self.report.dropped(key, "it names a file, device or socket of the host")
            return
        clean = _CONTROL.sub("", value)
        if len(self._verbatim) >= MAX_VERBATIM or len(clean) > 8192 or not 0 < len(key) <= 512:
            self.report.dropped(key, "too long, or one of too many, to carry along")
            return
        if _CONTROL.search(key) or "\n" in key or "\t" in key:
            self.report.dropped(key, "its name has control characters")
            return
        size = len(key.encode("utf-8", "replace")) + len(clean.encode("utf-8", "replace"))
        if self._verbatim_bytes + size > MAX_VERBATIM_BYTES:
            self.report.dropped(key, "all that is carried along may have 1 MiB together")
            return
        self._verbatim_bytes += size
        self._verbatim.append({"key": key, "value": clean})
        if clean != value:
            self.report.approximated(key, "carried along without its control characters")
        else:
            self.report.kept(key, f"carried along for {self.hypervisor}")

    def dropped(self, source: str, why: str) -> None:
        """A field that has no place, and that nobody could use again."""
        self.report.dropped(source, why)

    def _note(self, path: str, source: str, how: str) -> None:
        self._sources[path] = source
        if how:
            self.report.approximated(source, how)
        else:
            self.report.kept(source, path)

    def build(self) -> Imported:
        """The import's result; values that vmpack's config refuses are dropped and reported."""
        if self._verbatim:
            self.data["verbatim"] = {self.hypervisor: self._verbatim}
        config = self._validated()
        kept = {disk.id for disk in config.disks or () if not disk.empty}
        return Imported(
            config=config,
            disks={disk_id: file for disk_id, file in self.disks.items() if disk_id in kept},
            report=self.report,
            blobs=self.blobs,
            running=self.running,
            running_hint=self.running_hint,
            manifest=self.manifest,
        )

    def _validated(self) -> Any:
        from vmpack.machine import MachineConfig
        from vmpack.machine.reading import from_person

        for _ in range(MAX_REPAIRS):
            try:
                return from_person(MachineConfig, self.data)
            except UsageError as exc:
                if not exc.field or not self._remove(exc.field):
                    raise
                source = self._source_of(exc.field)
                self.report.items[:] = [one for one in self.report.items if one.field != source]
                self.report.dropped(source, f"{exc.field}: {exc.message}")
        raise UsageError("the config holds too many values that no machine of vmpack's can have")

    def _remove(self, path: str) -> bool:
        """Take out what the schema refuses; a list's whole element where a needed member is bad."""
        at: Any = self.data
        trail: list[tuple[Any, Any]] = []
        for part in re.findall(r"[^.\[\]]+", path):
            key: Any = int(part) if isinstance(at, list) and part.isdigit() else part
            try:
                trail.append((at, key))
                at = at[key]
            except (KeyError, IndexError, TypeError):
                break
        if not trail:
            return False
        holder, key = trail[-1]
        if isinstance(holder, dict) and key in holder and not _is_id(trail, key):
            del holder[key]
            return True
        for holder, key in reversed(trail):
            if isinstance(holder, list) and isinstance(key, int) and key < len(holder):
                del holder[key]
                self._shift(path.split("[", 1)[0], key)
                return True
        holder, key = trail[0]
        return holder.pop(key, None) is not None

    def _shift(self, name: str, gone: int) -> None:
        """Element ``gone`` of the list ``name`` is out: those behind it moved up."""
        moved = {}
        for path, source in self._sources.items():
            found = re.fullmatch(re.escape(name) + r"\[(\d+)\](.*)", path)
            number = int(found[1]) if found else -1
            if found and number > gone:
                moved[f"{name}[{number - 1}]{found[2]}"] = source
            elif number != gone:
                moved[path] = source
        self._sources = moved

    def _source_of(self, path: str) -> str:
        while path:
            if path in self._sources:
                return self._sources[path]
            cut = max(path.rfind("."), path.rfind("["))
            path = path[:cut] if cut > 0 else ""
        return "config"


def _is_id(trail: list[tuple[Any, Any]], key: object) -> bool:
    return key == "id" and any(isinstance(holder, list) for holder, _ in trail)
