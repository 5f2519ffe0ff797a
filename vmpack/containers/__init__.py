"""Files that hold disks and configs: tar (OVA, Vagrant box, Incus), and those of single tools."""
