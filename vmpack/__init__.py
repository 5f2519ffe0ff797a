"""vmpack: a VM in one file."""
