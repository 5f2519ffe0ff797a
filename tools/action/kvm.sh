#!/usr/bin/env bash
# Makes /dev/kvm usable for whoever runs this step. Hosted runners have it, for root alone.
# specs/report-v1.md, REP-ACT-2.
set -euo pipefail

device=/dev/kvm
rules=/etc/udev/rules.d/99-vmpack-kvm.rules
rule='KERNEL=="kvm", GROUP="kvm", MODE="0666", OPTIONS+="static_node=kvm"'

usable() { [ -r "$device" ] && [ -w "$device" ]; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

if [ ! -e "$device" ]; then
    echo "::notice title=vmpack::This runner has no /dev/kvm: machines are emulated, which takes longer"
    exit 0
fi
if usable; then
    echo "$device is usable"
    exit 0
fi

# The rule outlives the moment: the module may be loaded again, and the node made anew.
if printf '%s\n' "$rule" | as_root tee "$rules" >/dev/null &&
    as_root udevadm control --reload-rules &&
    as_root udevadm trigger --name-match=kvm; then
    as_root udevadm settle --timeout=10 || true
fi
# A container has no udev that would carry it out.
usable || as_root chmod 0666 "$device" || true

if usable; then
    echo "$device is usable now"
else
    echo "::warning title=vmpack::$device stays closed to $(id -un): machines are emulated, which takes longer"
fi
