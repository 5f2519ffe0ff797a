"""Boots a bundle under QEMU: command line, process, console, QMP, and how it ended."""
