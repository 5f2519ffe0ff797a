"""vmpack: a VM in one file."""

__version__ = "0.1.0"
