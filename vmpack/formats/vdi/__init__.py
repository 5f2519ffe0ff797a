"""VDI, VirtualBox's disk image, version 1.1. Profile: specs/vdi.md.

``structs`` decodes the header, ``header`` validates it, ``blockmap`` says where blocks lie,
``reader`` joins them; ``check`` goes over the whole map; ``writer`` writes.
"""
