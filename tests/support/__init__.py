"""What several tests need: tools of this machine, QEMU, disks to try, guests to boot."""
