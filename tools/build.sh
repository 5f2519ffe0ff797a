#!/usr/bin/env bash
# Build guests or hosts by name (see fixtures/README.md), unless the cache has them.
# With --optional a failure is a warning: tests then say what they skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/common.sh

optional=
if [ "${1:-}" = --optional ]; then
    optional=yes
    shift
fi
say "guests and hosts: $* (built once, then taken from ${VMPACK_CACHE:-.cache})"
if ! .venv/bin/python -m fixtures.build "$@"; then
    [ -n "$optional" ] || die "could not build: $*" "needs root or sudo, and a Debian mirror"
    say "went on without: $*"
fi
