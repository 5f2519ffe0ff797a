"""What the guest itself reports: its units, devices, tables, mounts and network.

Asked by the first means that answers: the QEMU guest agent, a login on the serial console, a probe
that cloud-init runs from a seed. Everything that comes back is hostile until it was parsed.
"""

from vmpack.verify.guest.by_cloud_init import Seed, seed_for
from vmpack.verify.guest.observe import observe_guest
from vmpack.verify.guest.report import GuestReport, Means

__all__ = ["GuestReport", "Means", "Seed", "observe_guest", "seed_for"]
