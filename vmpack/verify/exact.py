"""Exact mode: a boot that QEMU records instruction by instruction, and its replay, byte for byte.

Profile: specs/behaviour-v1.md, "Exact mode". Source: QEMU, docs/system/replay.rst. The log is one
QEMU version's own: another version reads it without a word and then waits for ever, so versions are
compared first, and a replay has to move on through its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace

from vmpack.bundle import Bundle
from vmpack.errors import DamagedError, OperationError, UnsupportedError, UsageError, VmpackError
from vmpack.machine.config import MachineConfig
from vmpack.runner.launch import find_blob, find_host
from vmpack.runner.milestones import Detector
from vmpack.runner.options import Deterministic, Ending, Qemu, RunOptions
from vmpack.runner.scratch import nameless_file, temporary_folder
from vmpack.runner.session import Session
from vmpack.verify.boot import LOGIN, Expectation
from vmpack.verify.following import TICK_S, Following
from vmpack.verify.observe.firmware import code_digest
from vmpack.verify.replay import BLOB, MAX_CONSOLE, MAX_LOG, ExactResult, Replay

__all__ = ["record_exact", "replay_exact", "require_recordable"]

SETTLE_S = 0.5
"""Seconds that are still recorded after the last milestone."""
QUIT_S = 60.0
"""Seconds for QEMU to write the end of its log."""
LEVEL = 9
CHUNK = 1 << 20


def require_recordable(config: MachineConfig, options: RunOptions) -> None:
    """Raise :class:`UnsupportedError` for a machine that QEMU cannot run the same way twice.

    And :class:`UsageError` for an accelerator that cannot count instructions.
    """
    cpu = config.cpu
    count = (cpu.sockets or 1) * (cpu.dies or 1) * (cpu.cores or 1) * (cpu.threads or 1)
    if (options.cpus or count) != 1:
        raise UnsupportedError(
            f"exact mode is for machines with one CPU, this one has {options.cpus or count}:"
            " QEMU keeps no order between several",
            field="cpu",
            clause="BHV-EXACT-1",
            hint="pack it with one core ([cpu] cores = 1), or leave --exact out",
        )
    if config.tpm is not None:
        raise UnsupportedError(
            "exact mode is for machines without a TPM: it is a program of its own, beside QEMU",
            field="tpm",
            clause="BHV-EXACT-1",
            hint="leave --exact out",
        )
    if options.accel == "kvm":
        raise UsageError(
            "exact mode counts instructions, which KVM cannot",
            field="--accel",
            hint="drop --accel kvm; exact mode always emulates",
        )


async def record_exact(
    bundle: Bundle,
    options: RunOptions,
    qemu: Qemu | None = None,
    *,
    config: MachineConfig | None = None,
) -> Replay:
    """Boot ``bundle`` once while QEMU records it; the replay, with its bytes in ``packed``.

    It ends as a boot of a verification does: at the milestones, or the machine's own ending. The
    log is replayed once before it is trusted, which takes about twice as long as the boot.

    Raises as :func:`require_recordable`, :class:`InfrastructureError` when it cannot start here,
    and :class:`OperationError` when it does not come as far as expected, or cannot be replayed.
    """
    config = config or bundle.config
    require_recordable(config, options)
    printed = bytearray()
    with _log_file() as log:
        told = _exact_options(options, Deterministic("record", log))
        async with Session.start(
            bundle, told, config=config, on_console=printed.extend, qemu=qemu
        ) as session:
            async with _bounded(log, session):
                ending = await _reach(session, Expectation.of(config, options.timeout_s))
            if ending.kind not in ("expected", "shutdown"):
                raise OperationError(
                    f"the recorded boot did not come as far as expected: {ending.message}",
                    hint="vmpack verify without --exact says what it does",
                )
            await _quit(session)
            host = session.host
            version = ".".join(map(str, host.qemu.version))
            firmware = code_digest(host.qemu, host.firmware)
        await _prove(bundle, config, options, qemu, log, bytes(printed))
        return _pack(log, bytes(printed), version, firmware)


async def _prove(
    bundle: Bundle,
    config: MachineConfig,
    options: RunOptions,
    qemu: Qemu | None,
    log: int,
    printed: bytes,
) -> None:
    """Replay what was just recorded; raises :class:`OperationError` when that is not the boot."""
    following = Following(printed)
    end = await _replay(bundle, config, options, qemu, log, following)
    if end or not following.complete:
        raise OperationError(
            f"QEMU does not replay the boot that it has just recorded: {end or 'it differs'}",
            clause="BHV-EXACT-4",
            hint="leave --exact out: this QEMU cannot run this machine the same way twice",
        )


async def _replay(
    bundle: Bundle,
    config: MachineConfig,
    options: RunOptions,
    qemu: Qemu | None,
    log: int,
    following: Following,
) -> str:
    """How the replay ended: see :meth:`Following.follow`."""
    told = _exact_options(options, Deterministic("replay", log))
    async with Session.start(
        bundle, told, config=config, on_console=following.feed, qemu=qemu
    ) as session:
        return await following.follow(session, log)


def _exact_options(options: RunOptions, deterministic: Deterministic) -> RunOptions:
    return replace(
        options,
        accel="tcg",
        network="restricted",
        forwards=(),
        display=None,
        deterministic=deterministic,
    )


async def _reach(session: Session, expectation: Expectation) -> Ending:
    """Wait as for any boot: for its milestones, then for its ending, or a moment longer."""
    detector = Detector(expectation.milestones)
    detector.feed(session.console.data, 0.0)
    session.console.listen(lambda data: _feed(detector, data))

    def complete(_console: object) -> bool:
        return detector.has(LOGIN) if expectation.generic else not detector.missing

    if not complete(None):
        ending = await session.wait(complete, expectation.timeout_s)
        if ending.kind != "expected":
            return ending
    if expectation.ending != "running":
        return await session.wait(None, expectation.timeout_s)
    ending = await session.wait(None, SETTLE_S)
    return replace(ending, kind="expected") if ending.kind == "timeout" else ending


def _feed(detector: Detector, data: bytes) -> None:
    detector.feed(data, 0.0)


async def _quit(session: Session) -> None:
    """End QEMU so that it finishes its log: a log without its end cannot be replayed."""
    with contextlib.suppress(VmpackError):
        # Running, it would note its end before the instructions of its last moment.
        await session.qmp("stop")
        await session.qmp("quit")
    try:
        async with asyncio.timeout(QUIT_S):
            code = await session.process.wait()
    except TimeoutError:
        raise OperationError("QEMU does not finish the log of the recorded boot") from None
    if code:
        raise OperationError(f"QEMU ended the recorded boot with exit code {code}")
    await session.console.drain()


@contextlib.asynccontextmanager
async def _bounded(log: int, session: Session) -> AsyncIterator[None]:
    """End a guest whose log or console grows past what is kept."""

    async def watch() -> None:
        while os.fstat(log).st_size <= MAX_LOG and session.console.total <= MAX_CONSOLE:
            await asyncio.sleep(TICK_S)
        session.process.kill()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        grown = watching.done()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    if grown:
        raise UnsupportedError(
            f"the boot's log or console is longer than {MAX_LOG >> 20} or {MAX_CONSOLE >> 20} MiB",
            clause="BHV-EXACT-4",
            hint="leave --exact out, or let the boot end earlier: [expected] milestones",
        )


@contextmanager
def _log_file() -> Iterator[int]:
    """A file without a name, which QEMU may open again although it runs as somebody else."""
    log = nameless_file(temporary_folder())
    try:
        os.fchmod(log, 0o666)
        yield log
    finally:
        os.close(log)


def _pieces(fd: int) -> Iterator[bytes]:
    position = 0
    while piece := os.pread(fd, CHUNK, position):
        yield piece
        position += len(piece)


def _pack(log: int, printed: bytes, version: str, firmware: str) -> Replay:
    from zstandard import ZstdCompressor

    size = os.fstat(log).st_size
    digest = hashlib.sha256()
    stream = ZstdCompressor(level=LEVEL).compressobj(size=size + len(printed))
    packed = bytearray()
    for piece in _pieces(log):
        digest.update(piece)
        packed += stream.compress(piece)
    packed += stream.compress(printed) + stream.flush()
    return Replay(
        qemu=version,
        firmware=firmware,
        accel="tcg",
        size=size,
        sha256=f"sha256:{digest.hexdigest()}",
        console_size=len(printed),
        console_sha256=f"sha256:{hashlib.sha256(printed).hexdigest()}",
        packed=bytes(packed),
    )


def _unpack(packed: bytes, record: Replay, log: int, path: str) -> bytes:
    """Write the log into ``log``; the console. Raises :class:`DamagedError`."""
    from zstandard import ZstdDecompressor, ZstdError

    left, digest, printed = record.size, hashlib.sha256(), bytearray()
    try:
        with ZstdDecompressor(max_window_size=1 << 27).stream_reader(packed) as reader:
            while piece := reader.read(CHUNK):
                part = piece[:left]
                digest.update(part)
                view = memoryview(part)
                while view:
                    view = view[os.write(log, view) :]
                left -= len(part)
                printed += piece[len(part) :]
                if len(printed) > record.console_size:
                    break
    except ZstdError as exc:
        raise _damaged("is no zstd stream", path) from exc
    told = f"sha256:{hashlib.sha256(printed).hexdigest()}"
    if left or len(printed) != record.console_size:
        raise _damaged("has another length than its record says", path)
    if (f"sha256:{digest.hexdigest()}", told) != (record.sha256, record.console_sha256):
        raise _damaged("has another digest than its record says", path)
    return bytes(printed)


def _damaged(message: str, path: str) -> DamagedError:
    hint = "record it again: vmpack verify --record --exact"
    return DamagedError(message, path=path, field=BLOB, clause="BHV-EXACT-2", hint=hint)


async def replay_exact(
    bundle: Bundle,
    record: Replay,
    options: RunOptions,
    qemu: Qemu | None = None,
    *,
    config: MachineConfig | None = None,
) -> ExactResult:
    """Replay the boot that ``record`` names, and compare the console byte for byte.

    Where this is not the QEMU that recorded it, nothing is started, and that is said. Raises as
    :func:`require_recordable`, :class:`DamagedError` when the stored log is not sound, and
    :class:`InfrastructureError` when the machine cannot start at all.
    """
    config = config or bundle.config
    require_recordable(config, options)
    packed = record.packed if record.packed is not None else find_blob(bundle, BLOB)
    if packed is None:
        raise _damaged("is not in the bundle, though its record names it", bundle.path)
    host = find_host(bundle, config, replace(options, accel="tcg"), qemu)
    reason = _foreign(record, host.qemu, code_digest(host.qemu, host.firmware))
    if reason is not None:
        return ExactResult("does-not-apply", reason)
    with _log_file() as log:
        wanted = _unpack(packed, record, log, bundle.path)
        following = Following(wanted)
        begun = time.monotonic()
        end = await _replay(bundle, config, options, qemu, log, following)
        return following.result(end, time.monotonic() - begun)


def _foreign(record: Replay, qemu: Qemu, firmware: str) -> str | None:
    """Why this host cannot replay it."""
    version = ".".join(map(str, qemu.version))
    if version != record.qemu:
        return f"recorded by QEMU {record.qemu}, this is {version}: a log is for one version only"
    if firmware != record.firmware:
        return "recorded with another firmware image, and its instructions are part of the log"
    return None
