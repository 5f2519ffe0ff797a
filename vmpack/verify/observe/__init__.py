"""What a boot shows: facts by layer, read while QEMU still answers.

From outside: how it ended, milestones, hardware, firmware, picture, console, block reads. From
inside, through :mod:`vmpack.verify.guest`: what the guest itself reports.
"""

from vmpack.verify.observe.observer import Observer, host_facts

__all__ = ["Observer", "host_facts"]
