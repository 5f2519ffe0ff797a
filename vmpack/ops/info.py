"""What an image, a bundle or a config is: one file opened, read-only, nothing of the guest read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmpack.formats import RAW_SUFFIXES
from vmpack.ops.opening import Path, is_bundle, open_image, parse_target, sources_of
from vmpack.progress import SILENT, Progress

if TYPE_CHECKING:
    from vmpack.formats.base import ImageReader


@dataclass(frozen=True, slots=True)
class InfoResult:
    """One document for each image: the one asked for, then its backing files if allowed."""

    documents: Sequence[Mapping[str, object]]

    def as_dict(self) -> dict[str, object]:
        """The JSON document: qemu-img's fields, or a bundle's.

        ``chain`` lists the backing files' documents, nearest first, where they were followed.
        """
        first = dict(self.documents[0])
        if len(self.documents) > 1:
            first["chain"] = [dict(one) for one in self.documents[1:]]
        return first


def info(
    path: Path,
    *,
    format: str | None = None,  # noqa: A002 - qemu-img's word
    digest: bool = False,
    allow_backing: bool = False,
    backing_dirs: Sequence[str] = (),
    parents: Sequence[str] = (),
    workers: int | None = None,
    progress: Progress = SILENT,
) -> InfoResult:
    """The facts of an image, of a bundle, of a bundle's disk (``app.vmpack#root``), or of a config.

    Of another hypervisor's config its machine as ``pack`` would take it over; its disks are not
    opened, and may be absent.

    ``digest`` reads the guest's data for its content digest; a bundle has them recorded.
    Raises what opening raises; an image that cannot be read (encrypted, backing file not allowed)
    still has its facts shown, unless ``digest`` asks for its data.
    """
    whole = parse_target(path)[1] is None
    listed = os.fspath(path).startswith("libvirt:") or os.path.isdir(path)
    if whole and not listed and (format == "vmpack" or (format is None and _bundle(path))):
        return InfoResult([_bundle_document(path)])
    if whole and format is None and not os.fspath(path).lower().endswith((*RAW_SUFFIXES, "-")):
        machine = _machine_document(path)
        if machine is not None:
            return InfoResult([machine])
    from vmpack.formats.base import OpenOptions

    options = OpenOptions(
        allow_backing=allow_backing,
        backing_dirs=tuple(backing_dirs),
        parents=tuple(parents),
        metadata_only=not (digest or allow_backing or parents),
    )
    reader = open_image(path, format=format, options=options)
    try:
        documents = []
        current: ImageReader | None = reader
        while current is not None:
            documents.append(describe(current))
            current = getattr(current, "backing", None)
        if digest:
            from vmpack.batches import data_bytes
            from vmpack.digest import content_digest

            progress.stage("reading", data_bytes(reader))
            found = content_digest(reader, workers=workers, progress=progress)
            documents[0]["content-digest"] = found
    finally:
        reader.close()
    return InfoResult(documents)


def _bundle(path: Path) -> bool:
    return os.fspath(path) != "-" and is_bundle(path)


def _bundle_document(path: Path) -> dict[str, object]:
    from vmpack.bundle import Bundle

    with Bundle.open(path) as bundle:
        document = bundle.info_dict()
        if any(blob.name == "nvram" for blob in bundle.manifest.blobs):
            document["nvram"] = _nvram(lambda: bundle.blob("nvram"))
    return document


def _nvram(read: Callable[[], bytes]) -> dict[str, object]:
    """What a variable store says of starting, or what is wrong with it."""
    from vmpack.errors import VmpackError
    from vmpack.machine.boot_entries import firmware_state
    from vmpack.machine.nvram import parse, to_raw

    try:
        return firmware_state(parse(to_raw(read()))).as_dict()
    except VmpackError as exc:
        return {"problem": exc.message}


def _machine_document(path: Path) -> dict[str, object] | None:
    """The machine that a foreign config describes; ``None`` where ``path`` is no config."""
    from vmpack.ops import importing

    found = importing.find(path)
    if found is None:
        return None
    try:
        imported = importing.read_config(found)
        from vmpack.formats.base import OpenOptions

        lost = {one for one, _ in importing.missing_disks(found, imported, (), OpenOptions())}
    finally:
        found.close()
    disks = [
        {
            "id": disk_id,
            "filename": file.name,
            "volume": file.is_volume,
            "found": disk_id not in lost,
        }
        for disk_id, file in imported.disks.items()
    ]
    return {
        "filename": found.path,
        "format": found.hypervisor.name,
        "title": found.hypervisor.title,
        "name": imported.config.name,
        "running": imported.running,
        "config": imported.config.to_json_dict(),
        "disks": disks,
        "report": imported.report.as_dict(),
    }


def describe(reader: ImageReader) -> dict[str, object]:
    """One image's facts under qemu-img's names."""
    facts = reader.info()
    source = sources_of(reader)[0]
    document: dict[str, object] = {
        "filename": reader.path,
        "format": facts.format,
        "virtual-size": facts.virtual_size,
        "actual-size": source.allocated_bytes,
        "dirty-flag": facts.dirty,
    }
    if facts.cluster_size is not None:
        document["cluster-size"] = facts.cluster_size
    if facts.backing_filename is not None:
        document["backing-filename"] = facts.backing_filename
        if facts.backing_format is not None:
            document["backing-filename-format"] = facts.backing_format
    if "encrypt" in facts.specific:
        document["encrypted"] = True
    if facts.snapshots:
        document["snapshots"] = [dict(one) for one in facts.snapshots]
    if facts.specific:
        document["format-specific"] = {"type": facts.format, "data": dict(facts.specific)}
    return document
