#!/bin/sh
# What this machine is, in sections of lines: "== NAME", then its lines. Changes nothing, ends by
# itself, and runs in any POSIX shell (dash, busybox). Built-in commands where there are many files:
# starting a program is what costs time under TCG. vmpack/verify/guest/parse.py reads it.
exec 2>/dev/null </dev/null
LC_ALL=C PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin
export LC_ALL PATH
section() { printf '== %s\n' "$1"; }
# get FILE: its first line, in $v.
get() { v=; [ -r "$1" ] && IFS= read -r v <"$1"; }
# first NAME FILE...: a section with the first line of the first file that has one.
first() {
    section "$1"
    shift
    for f; do
        get "$f"
        if [ -n "$v" ]; then
            printf '%s\n' "$v"
            return
        fi
    done
}
# driver FOLDER: the name of the driver that its link leads to, in $v.
driver() {
    v=-
    if [ -e "$1/driver" ] && cd -P "$1/driver"; then v=${PWD##*/}; fi
}
# row NAME FOLDER FILE...: a line of the name and each file's first line, tabs between.
row() {
    line=$1 folder=$2
    shift 2
    for f; do
        get "$folder/$f"
        line="$line	$v"
    done
}
put() { printf '%s\n' "$line"; }

section uname
uname -srvm
first cmdline /proc/cmdline
first init /proc/1/comm
get /proc/1/comm
init=$v
first hostname /proc/sys/kernel/hostname
first machine-id /etc/machine-id /var/lib/dbus/machine-id
first tainted /proc/sys/kernel/tainted
first memory /proc/meminfo
first consoles /sys/class/tty/console/active
first rtc /sys/class/rtc/rtc0/name
first tpm /sys/class/tpm/tpm0/tpm_version_major
first timezone-name /etc/timezone
section timezone
readlink /etc/localtime
section settings
for f in /etc/os-release /etc/default/locale /etc/locale.conf /etc/default/keyboard \
    /etc/vconsole.conf; do
    [ -r "$f" ] && set -- "$@" "$f"
done
[ $# -gt 0 ] && cat "$@"
section cpu
sed -n '/^$/q;p' /proc/cpuinfo
section cpus
grep -c '^processor' /proc/cpuinfo
section vulnerabilities
grep -s . /sys/devices/system/cpu/vulnerabilities/*
section dmi
grep -s . /sys/class/dmi/id/[bcps]*_*
section efi
if [ -d /sys/firmware/efi ]; then
    echo uefi
    od -An -v -tx1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
fi
section digests
sha256sum /sys/firmware/acpi/tables/* /sys/firmware/dmi/tables/*
section facp
od -An -v -tx1 /sys/firmware/acpi/tables/FACP
section memory-map
for d in /sys/firmware/memmap/*; do
    row - "$d" start end type
    put
done
section pci
for d in /sys/bus/pci/devices/*; do
    row "${d##*/}" "$d" vendor device class subsystem_vendor subsystem_device
    driver "$d"
    line="$line	$v"
    put
done
section virtio
for d in /sys/bus/virtio/devices/*; do
    row "${d##*/}" "$d" device features
    driver "$d"
    line="$line	$v"
    put
done
section usb
for d in /sys/bus/usb/devices/*; do
    [ -r "$d/idVendor" ] || continue
    row "${d##*/}" "$d" idVendor idProduct product
    put
done
section disks
for d in /sys/block/*; do
    n=${d##*/}
    case $n in loop* | ram* | zram* | fd*) continue ;; esac
    row "$n" "$d" size ro queue/logical_block_size device/vendor device/model serial device/serial
    put
    for p in "$d/$n"*; do
        [ -r "$p/partition" ] || continue
        row "${p##*/}" "$p" start size
        put
    done
done
section links
ls -l /dev/disk/by-id /dev/disk/by-label /dev/disk/by-uuid /dev/disk/by-partuuid
section nics
for d in /sys/class/net/*; do
    row "${d##*/}" "$d" address mtu operstate
    driver "$d/device"
    line="$line	$v"
    put
done
cd /
section addresses
ip -o addr
section routes
cat /proc/net/route
section mounts
cat /proc/1/mounts || cat /proc/mounts
section swaps
cat /proc/swaps
section root
df -P -k /
section framebuffers
cat /proc/fb
section modules
cat /proc/modules
if [ "$init" = systemd ]; then
    section units
    systemctl list-units --plain --no-legend --no-pager --full --state=active,failed,activating
else
    section processes
    for d in /proc/[0-9]*; do
        # A thread of the kernel has no command line.
        get "$d/cmdline"
        [ -n "$v" ] || continue
        get "$d/comm"
        printf '%s\n' "$v"
    done
fi
section cpuid
command -v cpuid >/dev/null && cpuid -1 -r
section end
