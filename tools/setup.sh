#!/usr/bin/env bash
# Everything that tests and demo need, installed once: Debian packages that are missing, and a
# virtual environment in .venv with this project and its tools. The second time it does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/common.sh

# Package, then a file of it that tells that it is there.
packages=(
    qemu-utils /usr/bin/qemu-img
    qemu-system-x86 /usr/bin/qemu-system-x86_64
    ovmf /usr/share/OVMF/OVMF_CODE_4M.fd
    swtpm /usr/bin/swtpm
    qemu-guest-agent /usr/sbin/qemu-ga
    mmdebstrap /usr/bin/mmdebstrap
    busybox-static /bin/busybox
    binutils /usr/bin/ld
    grub-common /usr/bin/grub-mkimage
    grub-pc-bin /usr/lib/grub/i386-pc/boot.img
    grub-rescue-pc /usr/lib/grub-rescue/grub-rescue-floppy.img
    memtest86+ /usr/lib/memtest86+/memtest86+x64.iso
    grub-efi-amd64-bin /usr/lib/grub/x86_64-efi/kernel.img
    mtools /usr/bin/mcopy
    dosfstools /usr/sbin/mkfs.vfat
    e2fsprogs /usr/sbin/mke2fs
    fdisk /usr/sbin/sfdisk
    genisoimage /usr/bin/isoinfo
    shellcheck /usr/bin/shellcheck
    libqcow-utils /usr/bin/qcowinfo
    libvhdi-utils /usr/bin/vhdiinfo
    libvmdk-utils /usr/bin/vmdkinfo
    libvirt-daemon /usr/sbin/libvirtd
    libvirt-daemon-driver-qemu /usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so
    libvirt-clients /usr/bin/virsh
    swtpm-tools /usr/bin/swtpm_setup
    openssh-client /usr/bin/ssh
    openssh-server /usr/sbin/sshd
    iproute2 /usr/bin/ip
    vagrant /usr/bin/vagrant
    vagrant-libvirt /usr/share/vagrant-plugins/plugins.d/vagrant-libvirt.json
    virt-v2v /usr/bin/virt-v2v
    xva-img /usr/bin/xva-img
    chromium-headless-shell /usr/bin/chromium-headless-shell
    fonts-dejavu-core /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
    udev /usr/bin/udevadm
    sudo /usr/bin/sudo
)

install_packages() {
    local missing=() index
    for ((index = 0; index < ${#packages[@]}; index += 2)); do
        [ -e "${packages[index + 1]}" ] || missing+=("${packages[index]}")
    done
    find_python >/dev/null || missing+=(python3 python3-venv)
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        die "missing: ${missing[*]}" "this is no Debian: install what provides them, then try again"
    say "installing Debian packages: ${missing[*]}"
    local log
    log=$(mktemp)
    # Without a network the lists at hand may do; what apt-get install says then tells.
    as_root apt-get -q update >"$log" 2>&1 || true
    if ! as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y install --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "apt-get could not install: ${missing[*]}" \
            "look at the network and at /etc/apt/sources.list, then run make again" "log: $log"
    fi
    rm -f "$log"
}

# The first Python 3.11 or newer that can make a virtual environment.
find_python() {
    local name
    for name in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null &&
            "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
                2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

make_environment() {
    local stamp=.venv/.vmpack-setup key python log
    key=$(sha256sum pyproject.toml tools/setup.sh | sha256sum | cut -c1-16)
    [ "$(cat "$stamp" 2>/dev/null)" != "$key" ] || return 0
    python=$(find_python) ||
        die "no Python 3.11 or newer that can make a virtual environment" \
            "apt-get install python3-venv"
    say "setting up .venv with $("$python" --version)"
    log=$(mktemp)
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    if ! .venv/bin/python -m pip install --disable-pip-version-check -q -e '.[dev]' \
        >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "pip could not install vmpack and its tools" "look at the network, then run make again"
    fi
    rm -f "$log"
    echo "$key" >"$stamp"
}

install_packages
make_environment
