"""Every way in which vmpack writes a format, and qemu-img does: for tests over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vmpack import formats
from vmpack.ops.convert import ConvertResult, convert


@dataclass(frozen=True)
class Variant:
    """One kind of image. ``codec`` names the compression library (``codecs.versions``)."""

    format: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    codec: str | None = None
    one_file: bool = True
    grows: bool = False
    """The disk becomes larger than the source."""

    @property
    def id(self) -> str:
        """Its name in test ids and golden files."""
        return f"{self.format}-{self.name}"

    @property
    def qemu_name(self) -> str:
        """QEMU's name of the format."""
        return formats.get(self.format).qemu_name

    def write(self, source: Path, target: Path, **words: object) -> ConvertResult:
        """``source`` as an image of this kind at ``target``; ``words`` are ``convert``'s."""
        return convert(
            source,
            target,
            output_format=self.format,
            options=dict(self.options),
            compressed=self.codec is not None,
            **words,  # type: ignore[arg-type]
        )


def _own() -> list[Variant]:
    listed = [
        Variant("raw", "plain"),
        Variant("qcow2", "plain"),
        Variant("qcow2", "4K", {"cluster_size": "4096"}),
        Variant("qcow2", "2M", {"cluster_size": "2M"}),
        Variant("qcow2", "512", {"cluster_size": "512"}),
        Variant("qcow2", "v2", {"compat": "0.10"}),
        Variant("qcow2", "refcount-1", {"refcount_bits": "1"}),
        Variant("qcow2", "refcount-32", {"refcount_bits": "32"}),
        Variant("qcow2", "refcount-64", {"refcount_bits": "64"}),
        Variant("qcow2", "zstd", {"compression_type": "zstd"}, codec="zstd"),
        Variant("qcow2", "zlib", {"compression_type": "zlib"}, codec="zlib-ng"),
        Variant("vmdk", "sparse", {"subformat": "monolithicSparse"}),
        Variant("vmdk", "ide", {"adapter_type": "ide", "hwversion": "10"}),
        Variant("vmdk", "stream", {"subformat": "streamOptimized"}, codec="deflate"),
        Variant("vmdk", "flat", {"subformat": "monolithicFlat"}, one_file=False),
        Variant("vmdk", "split", {"subformat": "twoGbMaxExtentSparse"}, one_file=False),
        Variant("vmdk", "split-flat", {"subformat": "twoGbMaxExtentFlat"}, one_file=False),
        Variant("vhd", "dynamic", {"subformat": "dynamic"}),
        Variant("vhd", "512K", {"block_size": "512K"}),
        Variant("vhd", "fixed", {"subformat": "fixed"}),
        Variant("vhd", "azure", {"azure": "on"}, grows=True),
        Variant("vhdx", "dynamic", {"subformat": "dynamic"}),
        Variant("vhdx", "1M", {"block_size": "1M"}),
        Variant("vhdx", "log", {"log_size": "4M"}),
        Variant("vhdx", "fixed", {"subformat": "fixed", "block_size": "1M"}),
        Variant("vdi", "dynamic"),
        Variant("vdi", "static", {"static": "on"}),
    ]
    known = {one.format for one in listed}
    listed += [Variant(name, "plain") for name in writable() if name not in known]
    return [one for one in listed if one.format in formats.names()]


def writable() -> list[str]:
    """The formats that vmpack writes."""
    return [name for name in formats.names() if formats.get(name).create is not None]


OWN = _own()
"""What vmpack writes."""
OF_QEMU: list[tuple[str, str, tuple[str, ...]]] = [
    (format_name, name, words)
    for format_name, name, words in (
        ("qcow2", "plain", ()),
        ("qcow2", "zlib", ("-c",)),
        ("qcow2", "zstd", ("-c", "-o", "compression_type=zstd")),
        ("qcow2", "v2", ("-o", "compat=0.10")),
        ("qcow2", "extended", ("-o", "extended_l2=on")),
        ("vmdk", "sparse", ("-o", "subformat=monolithicSparse")),
        ("vmdk", "zeroed", ("-o", "subformat=monolithicSparse,zeroed_grain=on")),
        ("vmdk", "stream", ("-o", "subformat=streamOptimized")),
        ("vmdk", "flat", ("-o", "subformat=monolithicFlat")),
        ("vmdk", "split", ("-o", "subformat=twoGbMaxExtentSparse")),
        ("vmdk", "split-flat", ("-o", "subformat=twoGbMaxExtentFlat")),
        ("vhd", "dynamic", ("-o", "subformat=dynamic,force_size=on")),
        ("vhd", "fixed", ("-o", "subformat=fixed,force_size=on")),
        ("vhdx", "dynamic", ("-o", "subformat=dynamic")),
        ("vhdx", "fixed", ("-o", "subformat=fixed,block_size=1M")),
        ("vdi", "dynamic", ()),
        ("vdi", "static", ("-o", "static=on")),
    )
    if format_name in formats.names()
]
"""What qemu-img convert writes: format, name, its words."""
