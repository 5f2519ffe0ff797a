"""Prints the script that describes a machine of Hyper-V as JSON."""

from __future__ import annotations

import sys

from vmpack.hypervisors.hyperv import export_script

if __name__ == "__main__":
    sys.stdout.write(export_script())
