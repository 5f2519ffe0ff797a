#!/usr/bin/env bash
# Remove what was built. Roots made by `make hosts` belong to root.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/common.sh

cache=${VMPACK_CACHE:-.cache}
[ ! -d "$cache/hosts" ] || as_root rm -rf --one-file-system "$cache/hosts"
rm -rf "$cache"/small-*.raw* "$cache"/debian-12.raw* "$cache/locks" "$cache/demo"
rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
find . -name __pycache__ -type d -prune -exec rm -rf {} +
