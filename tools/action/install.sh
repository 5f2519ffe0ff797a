#!/usr/bin/env bash
# Installs what verifications need: QEMU and its firmware by apt, where they are missing, and vmpack
# from the action's own files ($VMPACK_SOURCE), in an environment of its own.
set -euo pipefail

: "${VMPACK_SOURCE:?}" "${RUNNER_TEMP:?}" "${GITHUB_PATH:?}" "${GITHUB_OUTPUT:?}"

# Package, then a file of it that tells that it is there.
packages=(
    qemu-system-x86 /usr/bin/qemu-system-x86_64
    ovmf /usr/share/OVMF/OVMF_CODE_4M.fd
    swtpm /usr/bin/swtpm
)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

install_packages() {
    local missing=() index
    for ((index = 0; index < ${#packages[@]}; index += 2)); do
        [ -e "${packages[index + 1]}" ] || missing+=("${packages[index]}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "::error title=vmpack::no apt-get here: install ${missing[*]} in a step before this one"
        exit 1
    fi
    echo "installing ${missing[*]}"
    as_root apt-get -q update
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y install --no-install-recommends "${missing[@]}"
}

# The first Python 3.11 or newer that can make a virtual environment.
find_python() {
    local name
    for name in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && "$name" -c \
            'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    echo "::error title=vmpack::vmpack needs Python 3.11 or newer: put actions/setup-python before it" >&2
    return 1
}

install_packages
python=$(find_python)
venv=$RUNNER_TEMP/vmpack-venv
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --disable-pip-version-check -q "$VMPACK_SOURCE"

# Only vmpack goes on the path of later steps: their python stays what it is.
mkdir -p "$RUNNER_TEMP/vmpack-bin"
ln -sf "$venv/bin/vmpack" "$RUNNER_TEMP/vmpack-bin/vmpack"
printf '%s\n' "$RUNNER_TEMP/vmpack-bin" >>"$GITHUB_PATH"
printf 'vmpack=%s\n' "$RUNNER_TEMP/vmpack-bin/vmpack" >>"$GITHUB_OUTPUT"
"$venv/bin/vmpack" --version
