#!/usr/bin/env bash
# Runs `vmpack verify` with the action's inputs, which are in the environment as VMPACK_INPUT_*.
# vmpack itself writes annotations, summary and outputs. specs/report-v1.md, REP-ACT-1 and REP-ACT-3.
set -euo pipefail

: "${VMPACK:?}" "${GITHUB_OUTPUT:?}"
if [ -z "${VMPACK_INPUT_BUNDLE:-}" ]; then
    echo "::error title=vmpack::the input bundle is missing: the .vmpack file to boot"
    exit 2
fi

arguments=(verify)

# An option with one value, which an empty input leaves out.
option() {
    [ -z "$2" ] || arguments+=("$1=$2")
}

# One of whatever number: a line each.
options() {
    local line
    while IFS= read -r line; do
        line=${line%$'\r'}
        [ -z "$line" ] || arguments+=("${1:+$1=}$line")
    done <<<"$2"
}

option --boots "${VMPACK_INPUT_BOOTS:-}"
option --accel "${VMPACK_INPUT_ACCEL:-}"
option --against "${VMPACK_INPUT_AGAINST:-}"
option --as "${VMPACK_INPUT_AS:-}"
option --timeout "${VMPACK_INPUT_TIMEOUT:-}"
option --hosts "${VMPACK_INPUT_HOSTS:-}"
options --on "${VMPACK_INPUT_ON:-}"
option --report "${VMPACK_INPUT_REPORT:-}"
option --junit "${VMPACK_INPUT_JUNIT:-}"
options '' "${VMPACK_INPUT_ARGUMENTS:-}"
arguments+=(-- "$VMPACK_INPUT_BUNDLE")

code=0
"$VMPACK" "${arguments[@]}" || code=$?
# Also when vmpack ended before it had a verdict: a bundle that is damaged, an option that is wrong.
printf 'exit-code=%s\n' "$code" >>"$GITHUB_OUTPUT"
exit "$code"
