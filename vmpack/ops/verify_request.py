"""What ``vmpack verify`` can be asked for, and what of it contradicts itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from vmpack.errors import UsageError
from vmpack.runner.options import RunOptions

__all__ = ["RECORD_BOOTS", "Request"]

RECORD_BOOTS = 3
"""Boots of a record, where nothing else is said."""

MOST_BOOTS = 1000
AT_MOST = f"at most {MOST_BOOTS}"

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Request:
    """The options of one verification, as the command line has them."""

    record: bool = False
    record_to: PathLike | None = None
    force: bool = False
    against: PathLike | None = None
    no_boot: bool = False
    boots: int | None = None
    preflight: bool = False
    on: tuple[str, ...] = ()
    hosts: PathLike | None = None
    as_target: str | None = None
    exact: bool = False
    report: PathLike | None = None
    junit: PathLike | None = None

    @property
    def boot_count(self) -> int:
        """How often each host boots it."""
        if self.no_boot or self.preflight:
            return 0
        return self.boots or (RECORD_BOOTS if self.record else 1)

    def check(self, options: RunOptions) -> None:
        """Raise :class:`UsageError` where two options contradict each other, with what to do."""
        if options.state_dir is not None or options.interactive:
            raise UsageError("a verification keeps no state and takes no input")
        if self.boots is not None and self.boots > MOST_BOOTS:
            raise UsageError(f"{self.boots} are too many", field="--boots", hint=AT_MOST)
        for flags, wrong, hint in _contradictions(self, options):
            if wrong:
                first, *rest = flags
                message = f"does not go with {rest[0]}" if rest else "is not enough"
                raise UsageError(message, field=first, hint=hint)


Rule = tuple[tuple[str, ...], bool, str]
"""The options, the first of which is named as wrong; whether they are given; what to do."""


def _contradictions(request: Request, options: RunOptions) -> Iterator[Rule]:
    recording = request.record
    yield ("--record-to",), request.record_to is not None and not recording, "add --record"
    yield ("--force",), request.force and request.record_to is None, "it belongs to --record-to"
    own = "a record is of the bundle alone: record it, then compare without --record"
    yield ("--record", "--against"), recording and request.against is not None, own
    yield ("--record", "--as"), recording and request.as_target is not None, own
    yield ("--record", "--qemu-arg"), recording and bool(options.qemu_args), own
    one = "record on one host; verify --on the others afterwards"
    yield ("--record", "--on"), recording and len(set(request.on)) > 1, one
    yield from _without_boot(request, options)
    kept = "the recorded boot is kept in the bundle: leave --record-to out"
    yield ("--exact", "--record-to"), request.exact and request.record_to is not None, kept
    own = "the recorded boot is this bundle's own"
    yield ("--exact", "--against"), request.exact and request.against is not None, own
    made = "the recorded boot is the bundle's own, on this host"
    yield ("--exact", "--as"), request.exact and request.as_target is not None, made
    yield ("--exact", "--qemu-arg"), request.exact and bool(options.qemu_args), made
    yield (
        ("--exact", "--accel kvm"),
        request.exact and options.accel == "kvm",
        "a boot is only deterministic under --accel tcg",
    )
    named = "name hosts of it with --on"
    yield ("--hosts",), request.hosts is not None and not request.on, named


def _without_boot(request: Request, options: RunOptions) -> Iterator[Rule]:
    two = "it compares the bundle's record with another one: name that with --against"
    yield ("--no-boot",), request.no_boot and request.against is None, two
    for flag, given in (("--no-boot", request.no_boot), ("--preflight", request.preflight)):
        drop = f"nothing is booted with {flag}: leave one of them out"
        for other, there in (
            ("--record", request.record),
            ("--boots", request.boots is not None),
            ("--exact", request.exact),
        ):
            yield (flag, other), given and there, drop
    only = "the records are compared as they are: leave it out"
    for other, there in (
        ("--preflight", request.preflight),
        ("--on", bool(request.on)),
        ("--as", request.as_target is not None),
        ("--qemu-arg", bool(options.qemu_args)),
    ):
        yield ("--no-boot", other), request.no_boot and there, only
    pins = "pins alone are looked at: leave it out"
    yield ("--preflight", "--against"), request.preflight and request.against is not None, pins
