"""What a qcow2 image is asked to be: the ``-o`` options, checked. Profile: specs/qcow2.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmpack import formats
from vmpack.errors import UsageError
from vmpack.formats.backing import is_protocol
from vmpack.formats.base import CreateOptions
from vmpack.formats.qcow2.structs import COMPRESSION_ZLIB, COMPRESSION_ZSTD
from vmpack.units import parse_size

MAX_BACKING_NAME = 1023
_COMPRESSIONS = {"zlib": COMPRESSION_ZLIB, "zstd": COMPRESSION_ZSTD}
_VERSIONS = {"1.1": 3, "v3": 3, "0.10": 2, "v2": 2}
_ORDERS = {str(1 << order): order for order in range(7)}
_ORDER_16_BITS = 4


@dataclass(frozen=True, slots=True)
class Backing:
    """The backing file that an overlay names: as the caller wrote it, and QEMU's format name."""

    name: bytes
    format: str


@dataclass(frozen=True, slots=True)
class Request:
    """The options of one image."""

    cluster_bits: int
    version: int
    compression: int
    refcount_order: int | None
    """``None``: the narrowest of 16 and 32 bits that holds every refcount."""
    backing: Backing | None = None


def cluster_bits_of(size: int, *, name: str = "cluster_size") -> int:
    """The binary logarithm of a cluster size from 512 B to 2 MiB, or :class:`UsageError`."""
    if size & (size - 1) or not 512 <= size <= 2 << 20:
        raise UsageError(
            f"{name}: {size} is not a cluster size", hint="choose a power of two from 512 to 2M"
        )
    return size.bit_length() - 1


def requested(options: CreateOptions) -> Request:
    """The checked options; raises :class:`UsageError` for a value that one does not take."""
    values = options.values
    bits = cluster_bits_of(parse_size(values.get("cluster_size", "64K"), name="cluster_size"))
    version = _choice(values, "compat", _VERSIONS, "1.1")
    # zlib by default where the version allows no other; zstd otherwise, half the time to read.
    default = "zlib" if version == 2 or not options.compressed else "zstd"
    compression = _choice(values, "compression_type", _COMPRESSIONS, default)
    if version == 2 and compression == COMPRESSION_ZSTD:
        raise UsageError("compression_type zstd needs compat 1.1", field="compression_type")
    order = _choice(values, "refcount_bits", _ORDERS, "16")
    if version == 2 and order != _ORDER_16_BITS:
        raise UsageError("refcount_bits other than 16 needs compat 1.1", field="refcount_bits")
    fixed = version == 2 or "refcount_bits" in values
    backing = _backing(options)
    return Request(bits, version, compression, order if fixed else None, backing)


def _choice(values: Mapping[str, str], name: str, choices: Mapping[str, int], default: str) -> int:
    text = values.get(name, default)
    if text not in choices:
        raise UsageError(
            f"{name}: {text!r} is not one of {', '.join(choices)}", field=name, hint="see --help"
        )
    return choices[text]


def _backing(options: CreateOptions) -> Backing | None:
    """The backing file is named, not opened: it may come later, or lie on another host."""
    name = options.values.get("backing_file")
    backing_format = options.values.get("backing_fmt")
    if name is None and backing_format is None:
        return None
    if name is None or backing_format is None:
        lacking = "backing_file" if name is None else "backing_fmt"
        raise UsageError(
            f"an overlay needs backing_file and backing_fmt; {lacking} is missing",
            field=lacking,
            hint="no reader should guess the format of a backing file",
        )
    if not options.empty:
        raise UsageError(
            "backing_file makes an empty overlay, and this image gets data",
            field="backing_file",
            hint="vmpack create -o backing_file=NAME,backing_fmt=FORMAT",
        )
    encoded = name.encode("utf-8", "surrogateescape")
    if not name or "\0" in name or is_protocol(name) or len(encoded) > MAX_BACKING_NAME:
        raise UsageError(
            f"backing_file: {name!r} is not the name of a file",
            field="backing_file",
            hint=f"a path of at most {MAX_BACKING_NAME} bytes; ./NAME for one with a colon",
        )
    return Backing(encoded, formats.get(backing_format).qemu_name)
