"""The script that starts a machine with QEMU: the command line of ``vmpack run``, files by name.

Words come from the same pure functions as the runner's. A config's text reaches the script only
through :func:`shlex.quote`; files have names of their own or of ids (CFG-TYPE-1).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence

from vmpack.machine import MachineConfig
from vmpack.machine import hardware as hw
from vmpack.runner.accel import HALT, PROBE_RIGHT, probe_rom
from vmpack.runner.argv import SANDBOX, accel_words, board_words, escape, json_words, objects
from vmpack.runner.blocks import CODE, NVRAM, Node, is_written
from vmpack.runner.devices import console_port, devices, network_backends
from vmpack.runner.options import Firmware, Plan, Qemu, RunOptions

__all__ = ["CODE_FILE", "NVRAM_FILE", "SCRIPT", "TPM_FILES", "script"]

SCRIPT = "run.sh"
NVRAM_FILE = "nvram.fd"
CODE_FILE = "firmware-code.fd"
TPM_FILES = {"2.0": "tpm/tpm2-00.permall", "1.2": "tpm/tpm-00.permall"}
"""Where swtpm keeps the permanent state of a TPM, by its family."""
CODE_FD = 9
"""Descriptor by which QEMU gets the firmware that the script has found."""

FIRMWARE: tuple[tuple[str, str], ...] = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"),
    ("/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
    ("/usr/local/share/qemu/edk2-x86_64-code.fd", "/usr/local/share/qemu/edk2-i386-vars.fd"),
    ("/opt/homebrew/share/qemu/edk2-x86_64-code.fd", "/opt/homebrew/share/qemu/edk2-i386-vars.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2-ovmf/OVMF_CODE.fd", "/usr/share/edk2-ovmf/OVMF_VARS.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
)
"""Code image and template of its variables, raw, as distributions place them."""
SECURE: tuple[tuple[str, str], ...] = (
    ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/qemu/ovmf-x86_64-smm-ms-code.bin", "/usr/share/qemu/ovmf-x86_64-smm-ms-vars.bin"),
    ("/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.secboot.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
)
"""The same with Secure Boot, its keys enrolled in the template."""
SECURE_OWN: tuple[tuple[str, str], ...] = (
    *SECURE,
    ("/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
"""With Secure Boot, where the machine brings variables with keys of its own."""

_HEAD = """\
#!/usr/bin/env bash
# Starts {name} with QEMU; written by vmpack. Its disks are the .qcow2 files
# beside this script, and what the machine writes goes into them.
#
#   ./{script}                      console on this terminal; Ctrl-A X ends it
#   VM_DISPLAY=gtk ./{script}       and its screen in a window (gtk, sdl, vnc)
#   VM_FORWARD="2222:22" ./{script} port 2222 of this host leads to its port 22
#   VM_ACCEL=tcg ./{script}         emulate the CPU though KVM could be used
#   QEMU=/path/to/qemu ./{script}   another QEMU than the first of PATH
#
# Further arguments are passed on to QEMU.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"

die() {{
    printf '%s: %s\\n' "$0" "$1" >&2
    exit 1
}}

qemu=${{QEMU:-qemu-system-x86_64}}
command -v "$qemu" >/dev/null ||
    die "there is no $qemu: install QEMU (Debian, Ubuntu: qemu-system-x86), or set QEMU"

# That /dev/kvm opens proves little: whether a small program runs right under KVM, on this CPU.
kvm_works() {{
    local rom code=0
    [ -r /dev/kvm ] && [ -w /dev/kvm ] && command -v timeout >/dev/null || return 1
    rom=$(mktemp)
    {{
        printf '{probe}'
        head -c {filling} /dev/zero | tr '\\0' '\\364'
        printf '{jump}'
    }} >"$rom"
    timeout -s KILL {limit} "$qemu" -nodefaults -no-user-config -display none \\
        -machine q35,smm=off,vmport=off -accel kvm -m 16 -bios "$rom" \\
        -cpu {cpu} \\
        -device isa-debug-exit,iobase=0xf4,iosize=4 </dev/null >/dev/null 2>&1 || code=$?
    rm -f "$rom"
    [ "$code" -eq {right} ]
}}

case ${{VM_ACCEL:-auto}} in
kvm) accel=({kvm}) ;;
tcg) accel=({tcg}) ;;
auto)
    accel=({tcg})
    if kvm_works; then
        accel=({kvm})
    fi
    ;;
*) die "VM_ACCEL is kvm, tcg or auto" ;;
esac

display=${{VM_DISPLAY:-none}}
spawn=deny
case $display in
none) ;;
vnc | vnc=*) [ "$display" != vnc ] || display=vnc=127.0.0.1:0 ;;
# The libraries of a window start helpers.
*) spawn=allow ;;
esac

forwards=
for pair in ${{VM_FORWARD:-}}; do
    [[ $pair =~ ^([0-9]+):([0-9]+)$ ]] ||
        die "VM_FORWARD is HOST-PORT:GUEST-PORT, or several of them"
    forwards+=",hostfwd=tcp:127.0.0.1:${{BASH_REMATCH[1]}}-:${{BASH_REMATCH[2]}}"
done
"""

_FIND_FIRMWARE = """
# Code, and a template of the variables that fits it. VM_FIRMWARE_CODE and VM_FIRMWARE_VARS name
# others, as raw images.
candidates=(
{candidates})
[ -z "${{VM_FIRMWARE_CODE:-}}" ] ||
    candidates=("$VM_FIRMWARE_CODE" "${{VM_FIRMWARE_VARS:-$PWD/{nvram}}}")

size_of() {{
    wc -c <"$1" | tr -d ' '
}}
{digest}
code=
for ((index = 0; index < ${{#candidates[@]}}; index += 2)); do
    template=${{candidates[index + 1]}}
    if ! [ -r "${{candidates[index]}}" ] || ! [ -r "$template" ]; then
        continue
    fi
    if [ -e {nvram} ] && [ "$(size_of {nvram})" != "$(size_of "$template")" ]; then
        continue
    fi{check}
    code=${{candidates[index]}}
    break
done
[ -n "$code" ] ||
    die "there is no {what} that fits: install it (Debian, Ubuntu: ovmf; Fedora, Arch: edk2-ovmf)"
if [ ! -e {nvram} ]; then
    cat "$template" >{nvram}.new
    mv {nvram}.new {nvram}
fi
exec {fd}<"$code"
"""

_DIGEST = """
sha256_of() {
    if command -v sha256sum >/dev/null; then
        sha256sum <"$1" | cut -c 1-64
    else
        shasum -a 256 <"$1" | cut -c 1-64
    fi
}
"""

_CHECK = """
    [ "$(sha256_of "${{candidates[index]}}")" = {digest} ] || continue"""

_TPM = """
command -v swtpm >/dev/null || die "the machine has a TPM: install swtpm"
mkdir -p tpm
rm -f tpm.sock
# Not as a daemon, which would leave the folder.
swtpm socket{family} --tpmstate dir=tpm --ctrl type=unixio,path=tpm.sock --terminate \\
    </dev/null >/dev/null &
swtpm=$!
trap 'kill "$swtpm" 2>/dev/null || true' EXIT
for ((tries = 0; tries < 100; tries++)); do
    [ ! -S tpm.sock ] || break
    sleep 0.1
done
[ -S tpm.sock ] || die "swtpm does not start"
"""


def script(config: MachineConfig, *, nvram: bool) -> str:
    """The script for a pinned config.

    ``nvram``: the variables are there already. Raises :class:`PinUnavailableError` for devices that
    no QEMU has, and for a config that is not pinned.
    """
    plan = _plan(config)
    parts = [_head(plan)]
    if config.firmware.kind == "uefi":
        parts.append(_firmware(config, nvram))
    if config.tpm is not None:
        parts.append(_TPM.format(family=" --tpm2" if config.tpm.version == "2.0" else ""))
    parts.append("\narguments=(\n")
    parts += [f"    {line}\n" for line in _lines(plan)]
    start = "" if config.tpm is not None else "exec "
    parts.append(f')\n\n{start}"$qemu" "${{accel[@]}}" "${{arguments[@]}}" "$@"\n')
    return "".join(parts)


def _head(plan: Plan) -> str:
    rom = probe_rom()
    code = rom[: rom.index(HALT * 64)]
    jump = rom[-16:]
    board = board_words(plan)
    return _HEAD.format(
        name=plan.config.name or "a machine",
        script=SCRIPT,
        kvm=_join(accel_words("kvm")),
        tcg=_join(accel_words("tcg")),
        probe=_octal(code),
        filling=len(rom) - len(code) - len(jump),
        jump=_octal(jump),
        cpu=_quote(board[board.index("-cpu") + 1]),
        right=PROBE_RIGHT,
        limit=3,
    )


def _octal(data: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in data)


def _firmware(config: MachineConfig, nvram: bool) -> str:
    """How the script finds the firmware, or nothing of it where the machine brings its own."""
    secure, digest = bool(config.firmware.secure_boot), config.firmware.digest
    pairs = (SECURE_OWN if nvram else SECURE) if secure else FIRMWARE
    if config.firmware.blob:
        # The code is here; only its variables are looked for, by the room that it leaves them.
        pairs = tuple((CODE_FILE, template) for _, template in (*pairs, *FIRMWARE))
        digest = None
        if nvram:
            pairs = ((CODE_FILE, NVRAM_FILE),)
    lines = "".join(f"    {shlex.quote(code)} {shlex.quote(vars_)}\n" for code, vars_ in pairs)
    check = "" if digest is None else _CHECK.format(digest=digest.removeprefix("sha256:"))
    if config.firmware.blob:
        check = _FITS
    return _FIND_FIRMWARE.format(
        candidates=lines,
        nvram=NVRAM_FILE,
        digest="" if digest is None else _DIGEST,
        check=check,
        what="UEFI firmware with Secure Boot" if secure else "UEFI firmware (OVMF)",
        fd=CODE_FD,
    )


_FITS = """
    # Code and variables of one build fill a flash whose size is a power of two.
    whole=$(($(size_of "${candidates[index]}") + $(size_of "$template")))
    [ $((whole & (whole - 1))) -eq 0 ] || continue"""


def _plan(config: MachineConfig) -> Plan:
    """The runner's plan with what belongs to no host: roles stand for the script's files."""
    uefi = config.firmware.kind == "uefi"
    fdsets = {"nvram": 0} if uefi else {}
    if uefi or config.firmware.blob:
        fdsets["code"] = CODE_FD
    return Plan(
        config=config,
        options=RunOptions(network="user"),
        accel="tcg",
        qemu=Qemu((), ()),
        firmware=Firmware(
            kind="uefi" if uefi else "bios", secure_boot=bool(config.firmware.secure_boot)
        ),
        windows={},
        fdsets=fdsets,
        inherited={},
        sockets={"agent": 0} if config.guest_agent else {},
    )


def _lines(plan: Plan) -> Iterator[str]:
    """The script's array of arguments, an option with its value a line."""
    config = plan.config
    yield "-nodefaults -no-user-config"
    yield f'-sandbox "{SANDBOX}$spawn"'
    yield f"-name {_quote('guest=' + escape(config.name or 'machine'))}"
    yield from _quoted(board_words(plan))
    yield '-display "$display"'
    if plan.firmware.kind == "uefi" and not config.firmware.blob:
        yield f"-add-fd 'fd={CODE_FD},set={CODE_FD}'"
    yield from _quoted(_character_devices(plan))
    yield from _quoted(json_words("-object", objects(plan)))
    yield from _disks(plan)
    yield from _networks(plan)
    yield from _quoted(json_words("-device", map(_plain_drive, devices(plan))))


def _join(words: Sequence[str]) -> str:
    return " ".join(map(_quote, words))


def _quote(word: str) -> str:
    """As :func:`shlex.quote`; commas quoted as well, which in an array look like a mistake."""
    quoted = shlex.quote(word)
    return f"'{word}'" if quoted == word and "," in word else quoted


def _quoted(words: Sequence[str]) -> Iterator[str]:
    """A line for each option, its value beside it."""
    at = 0
    while at < len(words):
        take = 2 if at + 1 < len(words) and not words[at + 1].startswith("-") else 1
        yield _join(words[at : at + take])
        at += take


def _plain_drive(node: Node) -> Node:
    """The device without the word overlay: the image takes what is written itself."""
    drive = node.get("drive")
    if not isinstance(drive, str):
        return node
    return node | {"drive": drive.replace("overlay", "disk")}


def _character_devices(plan: Plan) -> list[str]:
    words = []
    console = console_port(plan)
    if console is not None:
        words += ["-chardev", "stdio,id=console,mux=on,signal=off", "-mon", "chardev=console"]
    words += ["-chardev", "null,id=firmware-log"]
    for one in plan.config.serials or ():
        if one.port != console:
            words += ["-chardev", f"null,id=serial{one.port}"]
    if plan.sockets:
        words += ["-chardev", "socket,id=agent,path=agent.sock,server=on,wait=off"]
    if plan.config.tpm is not None:
        words += ["-chardev", "socket,id=tpm,path=tpm.sock"]
        words += ["-tpmdev", "emulator,id=tpm-backend,chardev=tpm"]
    return words


def _disks(plan: Plan) -> Iterator[str]:
    nodes: list[Node] = []
    if "code" in plan.fdsets:
        name = CODE_FILE if plan.config.firmware.blob else f"/dev/fdset/{CODE_FD}"
        nodes.append(_image(CODE, "raw", name, read_only=True))
    if "nvram" in plan.fdsets:
        nodes.append(_image(NVRAM, "raw", NVRAM_FILE, read_only=False))
    yield from _quoted(json_words("-blockdev", nodes))
    for number, disk in enumerate(plan.config.disks or ()):
        if not disk.empty:
            yield _disk(number, disk)


def _disk(number: int, disk: hw.Disk) -> str:
    file = f"{disk.id}.qcow2"
    if disk.read_only and is_written(disk):
        # Of a kind that cannot be read-only: what is written goes into a file without a name.
        return _join(["-drive", f"if=none,id=disk{number},format=qcow2,file={file},snapshot=on"])
    node = _image(f"disk{number}", "qcow2", file, read_only=not is_written(disk))
    node |= {"backing": None, "discard": "unmap"}
    return _join(["-blockdev", json.dumps(node)])


def _image(name: str, driver: str, file: str, *, read_only: bool) -> Node:
    return {
        "driver": driver,
        "node-name": name,
        "read-only": read_only,
        "file": {"driver": "file", "filename": file, "read-only": read_only},
    }


def _networks(plan: Plan) -> Iterator[str]:
    """The first card that reaches a network takes the forwarded ports."""
    open_ports = True
    for node in network_backends(plan):
        if open_ports and not node.get("restrict"):
            open_ports = False
            yield f'-netdev "{node["type"]},id={node["id"]}$forwards"'
        else:
            yield from _quoted(json_words("-netdev", [node]))
