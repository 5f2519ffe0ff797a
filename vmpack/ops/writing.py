"""A new image under construction: all of its files appear together, proven, or none does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from vmpack.copy import CopyResult, copy_image, writing
from vmpack.errors import DifferError, UsageError
from vmpack.formats.base import CreateOptions, Format, ImageReader, ImageWriter, OpenOptions
from vmpack.output import Output
from vmpack.progress import SILENT, Progress
from vmpack.source import ByteSource

MAX_TIMESTAMP = 1 << 32


class NewImage:
    """A file of format ``target`` at ``path``, and the siblings that the format wants beside it.

    Use as a context manager; :meth:`commit` gives all files their names, the first file's last.
    Raises :class:`OutputError` and :class:`UsageError` as :class:`Output` does.
    """

    def __init__(
        self,
        target: Format,
        path: str,
        options: CreateOptions,
        *,
        force: bool = False,
        inputs: Sequence[ByteSource] = (),
    ):
        self.target = target
        self.path = path
        self._force = force
        self._inputs = inputs
        self._siblings: dict[str, Output] = {}
        self._stack = ExitStack()
        try:
            self.out = self._stack.enter_context(Output(path, force=force, inputs=inputs))
            if self.out.device_size is not None:
                raise UsageError(
                    "is a block device", path=path, hint="convert -n writes raw data into a device"
                )
            self._options = replace(
                options,
                name=os.path.basename(self.out.path),
                sibling=self._sibling,
                timestamp=source_date_epoch() if options.timestamp is None else options.timestamp,
            )
            self.writer = new_writer(target, self.out.fd, self._options, path)
        except BaseException:
            self._stack.close()
            raise

    def _sibling(self, name: str) -> int:
        path = os.path.join(os.path.dirname(self.out.path), name)
        if name != os.path.basename(name) or name == self._options.name or name in self._siblings:
            raise UsageError(f"the image would have two files called {name!r}", path=self.path)
        out = self._stack.enter_context(Output(path, force=self._force, inputs=self._inputs))
        if out.device_size is not None:
            raise UsageError("is a block device", path=path, hint="name another output")
        self._siblings[name] = out
        return out.fd

    def copy(
        self,
        disk: ImageReader,
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
        label: str = "converting",
        verify: bool = True,
        digest: bool = False,
    ) -> CopyResult:
        """Write all of ``disk``; as :func:`copy_image`. ``verify``: it will be read back."""
        return copy_image(
            disk,
            self.writer,
            self.out.fd,
            path=self.path,
            workers=workers,
            progress=progress,
            label=label,
            digest=digest,
            mark=verify,
        )

    def finish(self) -> None:
        """Write an image without data."""
        if self.writer.seed is not None:
            self.writer.seed.add([])
        writing(self.path, self.writer.finish)

    def verify(
        self, copied: CopyResult, *, workers: int | None = None, progress: Progress = SILENT
    ) -> None:
        """Read the image back through its own reader; :class:`DifferError` for other content.

        Its mark is held against that of what was ``copied`` with ``verify``: a disk or memory that
        fails is found as surely as with the content digest, in a fraction of its time
        (specs/decisions/0010-reading-back.md).
        """
        from vmpack.ops.streams import content_seed

        given = {name: _reading(out) for name, out in self._siblings.items()}
        reader = self.target.open(_reading(self.out), OpenOptions(given=given))
        try:
            found = content_seed(reader, workers=workers, progress=progress, label="verifying")
        finally:
            reader.close()
        require_same(found.digest(), copied.mark, self.path)

    @property
    def size(self) -> int:
        """Bytes of all files of the image."""
        return sum(os.fstat(out.fd).st_size for out in (self.out, *self._siblings.values()))

    @property
    def files(self) -> list[str]:
        """Paths of all files of the image, the one to open first."""
        return [self.path, *(out.path for out in self._siblings.values())]

    @property
    def sync_seconds(self) -> float:
        """Time spent waiting for the disk."""
        return sum(out.sync_seconds for out in (self.out, *self._siblings.values()))

    def commit(self) -> None:
        """Give the files their names: the siblings, then the file that names them."""
        for out in self._siblings.values():
            out.commit()
        self.out.commit()

    def __enter__(self) -> NewImage:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def _reading(out: Output) -> ByteSource:
    return ByteSource(out.fd, path=out.name, size=os.fstat(out.fd).st_size)


def require_same(found: str | bytes, expected: str | bytes | None, path: str) -> None:
    """:class:`DifferError` unless the digest of what was read back is the source's."""
    if found != expected:
        raise DifferError(
            "what was written reads back as something else than the source's content",
            path=path,
            hint="the disk or memory of this machine may be faulty; nothing was kept",
        )


def new_writer(target: Format, fd: int, options: CreateOptions, path: str) -> ImageWriter:
    """A writer of ``target`` on ``fd``; a failure to write names ``path``."""
    assert target.create is not None
    return writing(path, target.create, fd, options)


def source_date_epoch() -> int | None:
    """``SOURCE_DATE_EPOCH`` of the environment, in seconds; raises :class:`UsageError`.

    Source: https://reproducible-builds.org/specs/source-date-epoch/
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text[:12]) >= MAX_TIMESTAMP:
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {text!r}, not seconds since 1970",
            hint="unset it, or set it to a whole number",
        )
    return int(text)
