"""Reads an ``xl`` config: every setting of it ends in the report."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from vmpack.errors import DamagedError
from vmpack.hypervisors.base import ConfigSource, FileRef, Imported
from vmpack.hypervisors.carry import names_host
from vmpack.hypervisors.draft import Draft
from vmpack.hypervisors.xen.syntax import Value, parse
from vmpack.units import MiB

MODELS = {
    "e1000": "e1000",
    "rtl8139": "rtl8139",
    "ne2k_pci": "ne2k",
    "pcnet": "pcnet",
    "virtio-net": "virtio-net",
    "virtio-net-pci": "virtio-net",
    "e1000e": "e1000e",
}
CARDS = {"stdvga": "std", "cirrus": "cirrus", "none": "none", "qxl": "qxl"}
HOST_KEYS = {
    "kernel",
    "ramdisk",
    "bootloader",
    "device_model_override",
    "firmware_override",
    "pci",
    "bios_path_override",
    "device_model_args",
    "device_model_args_hvm",
    "usbdev",
    "vfb",
}
_PREFIX = re.compile(r"(phy|file|tap2?|aio|raw|qcow2?|vhd|qed):")
_ACCESS = {"r": True, "ro": True, "w": False, "rw": False}


@dataclass(slots=True)
class DiskSpec:
    """A disk as xl-disk-configuration(5) describes it."""

    target: str = ""
    format: str = "raw"
    vdev: str = ""
    is_read_only: bool = False
    is_cdrom: bool = False
    rest: str = ""
    """Settings that vmpack does not model."""


def disk_spec(text: str) -> DiskSpec:
    """Positional (``target, format, vdev, access``), named, and the deprecated prefixes."""
    found = DiskSpec()
    rest: list[str] = []
    parts = text.split(",")
    is_old = _PREFIX.match(parts[0].strip()) is not None
    order = ("target", "vdev", "access") if is_old else ("target", "format", "vdev", "access")
    positional = iter(order)
    for number, part in enumerate(parts):
        word = part.strip()
        key, mark, value = word.partition("=")
        if mark and key.strip() == "target":
            found.target = ",".join(parts[number:]).strip()[len("target=") :].strip()
            break
        if mark and re.fullmatch(r"[a-z-]+", key.strip()):
            _named(found, key.strip(), value.strip(), rest)
        elif word in ("cdrom", "devtype=cdrom"):
            found.is_cdrom = True
        elif word in ("discard", "no-discard", "direct-io-safe"):
            rest.append(word)
        else:
            _named(found, next(positional, "more"), word, rest)
    while (prefix := _PREFIX.match(found.target)) is not None:
        found.target = found.target[prefix.end() :]
        if prefix[1] in ("qcow2", "vhd", "qed", "qcow"):
            found.format = prefix[1]
    found.is_cdrom = found.is_cdrom or found.vdev.endswith(":cdrom")
    found.vdev = found.vdev.removesuffix(":cdrom")
    found.rest = ",".join(rest)
    return found


def _named(found: DiskSpec, key: str, value: str, rest: list[str]) -> None:
    if key == "target":
        found.target = value
    elif key == "format":
        found.format = value or "raw"
    elif key == "vdev":
        found.vdev = value
    elif key == "access" and value in (*_ACCESS, ""):
        found.is_read_only = _ACCESS.get(value, False)
    elif key == "devtype":
        found.is_cdrom = value == "cdrom"
    elif value:
        rest.append(f"{key}={value}")


def read(source: ConfigSource) -> Imported:
    """The machine that an ``xl`` config describes.

    Raises :class:`DamagedError` for broken syntax.
    """
    settings = parse(source.data, path=source.name)
    if not settings:
        raise DamagedError("has no settings", path=source.name)
    return _Reading(settings).imported()


class _Reading:
    def __init__(self, settings: dict[str, Value]):
        self.settings = settings
        self.draft = Draft("xen")
        self.used: set[str] = set()
        kind = self._word("type") or self._word("builder") or "pv"
        self.is_hvm = kind == "hvm"
        self.kind = {"generic": "pv", "linux": "pv"}.get(kind, kind)

    def _word(self, key: str) -> str:
        value = self.settings.get(key)
        return str(value) if isinstance(value, str | int) else ""

    def _text(self, key: str) -> str:
        value = self._word(key)
        if value:
            self.used.add(key)
        return value

    def _number(self, key: str) -> int | None:
        value = self._word(key)
        if not re.fullmatch(r"[0-9]{1,15}", value):
            return None
        self.used.add(key)
        return int(value)

    def imported(self) -> Imported:
        """The whole machine."""
        self._board()
        for number, one in enumerate(self._list("disk")):
            self._disk(one, number)
        self._boot_order()
        for number, one in enumerate(self._list("vif")):
            self._nic(one, number)
        if "vif" not in self.settings:
            self.draft.set("nic", [], "vif")
        for key, value in self.settings.items():
            if key not in self.used:
                text = json.dumps(value, ensure_ascii=True)
                self.draft.verbatim(key, text, secret=key in HOST_KEYS or names_host(f" {text}"))
        return self.draft.build()

    def _list(self, key: str) -> list[str]:
        value = self.settings.get(key)
        if not isinstance(value, list):
            return []
        self.used.add(key)
        return [str(one) for one in value if isinstance(one, str)]

    def _board(self) -> None:
        draft = self.draft
        if self._text("name"):
            draft.name(self._word("name"), "name")
        self.used |= {"type", "builder"} & set(self.settings)
        if self.is_hvm:
            draft.report.kept("type", "a machine with firmware")
        else:
            draft.report.approximated(
                "type",
                f"{self.kind}: a machine with firmware, so its disk needs a boot loader",
            )
        if self._text("uuid"):
            draft.set("uuid", self._word("uuid").lower(), "uuid")
        most, memory = self._number("maxmem"), self._number("memory")
        size = memory if memory is not None else most
        if size is not None:
            draft.set("memory", size * MiB, "memory")
        if most is not None and most != size:
            draft.dropped("maxmem", "vmpack's machines have all their memory from the start")
        elif most is not None:
            draft.report.kept("maxmem", "memory")
        most, count = self._number("maxvcpus"), self._number("vcpus")
        number = count if count is not None else most
        if number is not None:
            draft.set("cpu.cores", number, "vcpus")
        if most is not None:
            if most == number:
                draft.report.kept("maxvcpus", "vcpus")
            else:
                draft.dropped("maxvcpus", "vmpack's machines have all their CPUs from the start")
        self._firmware()
        self._devices()

    def _firmware(self) -> None:
        draft = self.draft
        for key in ("bios", "firmware"):
            word = self._text(key)
            if word in ("ovmf", "uefi"):
                draft.set("firmware.kind", "uefi", key)
            elif word in ("seabios", "rombios", "bios"):
                how = "" if word != "rombios" else "SeaBIOS"
                draft.set("firmware.kind", "bios", key, how=how)
            elif word:
                draft.dropped(key, f"{word}: vmpack has BIOS and UEFI")
        if self.is_hvm and not self._word("bios") and not self._word("firmware"):
            draft.set("firmware.kind", "bios", "bios", how="Xen's default")
        local = self._number("localtime")
        if local is not None:
            draft.set("rtc.clock", "localtime" if local else "utc", "localtime")

    def _devices(self) -> None:
        draft = self.draft
        card = self._word("vga")
        if card in CARDS:
            draft.set("display.model", CARDS[card], "vga")
            self.used.add("vga")
        elif self._number("stdvga"):
            draft.set("display.model", "std", "stdvga")
        elif self.is_hvm:
            draft.set("display.model", "cirrus", "vga", how="Xen's default")
        serial = self._text("serial")
        if self.is_hvm and "serial" in self.settings and not serial:
            # A list of several: each is one port.
            ports = self._list("serial")[:4]
            found = [{"model": "isa-serial", "port": number} for number in range(len(ports))]
            draft.set("serial", found, "serial", how="without what the host connects to them")
        elif serial:
            how = "" if serial == "pty" else "a port, without what the host connects to it"
            draft.set("serial", [{"model": "isa-serial", "port": 0}], "serial", how=how)
        else:
            draft.set("serial", [], "serial")
        if self._word("usbdevice") in ("tablet", "mouse") or self._list("usbdevice") == ["tablet"]:
            self.used.add("usbdevice")
            draft.set("input", "usb-tablet", "usbdevice")
        tpm = self._list("vtpm") if "vtpm" in self.settings else []
        if tpm:
            draft.dropped("vtpm", "Xen's TPM is a machine of its own")

    def _disk(self, text: str, number: int) -> None:
        spec = disk_spec(text)
        where = f"disk[{number}]"
        vdev = spec.vdev or f"xvd{chr(97 + number % 26)}"
        place = re.fullmatch(r"(xvd|hd|sd|d)([a-z0-9]+)", vdev)
        letter = ord(place[2][0]) - 97 if place and len(place[2]) == 1 else 99
        bus, how = "virtio-blk", ""
        if place and place[1] == "sd":
            bus = "lsilogic"
        elif self.is_hvm and 0 <= letter < 4:
            bus = "ide"
        if spec.is_cdrom:
            bus = "ide" if bus == "virtio-blk" else bus
        if bus == "virtio-blk":
            how = "virtio-blk in place of Xen's own disk: the guest may call it otherwise"
        values: dict[str, object] = {"kind": "cdrom"} if spec.is_cdrom else {}
        if not spec.is_cdrom:
            values["read_only"] = spec.is_read_only
        if bus == "ide" and 0 <= letter < 4:
            values |= {"controller": 0, "port": letter // 2, "unit": letter % 2}
        file = None
        if spec.target:
            is_bare = not re.search(r"[/.]", spec.target) and spec.format == "raw"
            is_device = spec.target.startswith("/dev/") or is_bare
            image = spec.format if spec.format in ("qcow2", "raw", "vhd", "qed") else None
            file = FileRef(spec.target, None if spec.is_cdrom else image, is_volume=is_device)
        elif not spec.is_cdrom:
            self.draft.dropped(where, "a disk without a target")
            return
        disk_id = self.draft.add_disk(vdev, file, where, bus=bus, how=how, **values)
        if spec.rest:
            self.draft.verbatim(f"disk({disk_id})", spec.rest, secret=names_host(" " + spec.rest))

    def _boot_order(self) -> None:
        order = self._word("boot")
        if not re.fullmatch("[cdn]{1,3}", order):
            return
        self.used.add("boot")
        number = 0
        for letter in order:
            kind = {"c": "disk", "d": "cdrom"}.get(letter)
            for one in self.draft.data.get("disk", ()):
                if one.get("kind", "disk") == kind and "boot" not in one:
                    number += 1
                    one["boot"] = number
            if letter == "n":
                self.draft.report.approximated("boot n", "no card is in the boot order")
        self.draft.report.kept("boot", "disk.boot")

    def _nic(self, text: str, number: int) -> None:
        where = f"vif[{number}]"
        pairs: dict[str, str] = {}
        rest = []
        for part in text.split(","):
            key, _, value = part.strip().partition("=")
            if key in ("mac", "bridge", "model", "type"):
                pairs[key] = value.strip()
            elif part.strip():
                rest.append(part.strip())
        model, how = pairs.get("model", "rtl8139"), ""
        if pairs.get("type") == "vif" or not self.is_hvm:
            model, how = "virtio-net", "virtio-net in place of Xen's own card"
        elif model not in MODELS:
            how = f"virtio-net: vmpack has no {model}"
        bridge = re.sub(r"[^A-Za-z0-9._ -]", "-", pairs.get("bridge", ""))[:64]
        values = {
            "id": f"net{number}",
            "model": MODELS.get(model, "virtio-net"),
            "mac": pairs["mac"].lower() if "mac" in pairs else None,
            "network": bridge if bridge.strip(" -") not in ("", "user", "none") else "user",
        }
        index = self.draft.add("nic", values, where, how=how)
        self.draft.set_source(f"nic[{index}].mac", f"{where} mac")
        if pairs.get("type"):
            rest.insert(0, f"type={pairs['type']}")
        if rest:
            text = ",".join(rest)
            self.draft.verbatim(f"vif(net{index})", text, secret=names_host(" " + text))
