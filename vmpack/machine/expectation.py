"""What a machine is expected to do, what it is sold as, and what is carried along for others.

None of it can be observed by the guest, so none of it enters the ``machine-id``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vmpack.machine.names import Ending
from vmpack.machine.scalars import (
    Bool,
    ExitCode,
    Id,
    Key,
    Line,
    LongText,
    OsId,
    OvfHardware,
    Part,
    PropertyKey,
    Seconds,
    Value,
)

__all__ = [
    "Check",
    "Expected",
    "GuestOs",
    "Login",
    "Ova",
    "OvfProperty",
    "VerbatimField",
    "Verify",
]


class GuestOs(Part):
    """``[guest-os]``: what is installed; it decides defaults, and what others call it."""

    family: Literal["linux", "windows", "bsd", "other"] | None = Field(
        default=None, description="family of operating systems"
    )
    id: OsId | None = Field(
        default=None, description="short identifier as libosinfo has it: debian12"
    )


class Expected(Part):
    """``[expected]``: how a good boot looks."""

    milestones: Annotated[tuple[Line, ...], Field(max_length=64)] = Field(
        default=(), description="patterns that lines of the console match, in this order"
    )
    ending: Ending | None = Field(default=None, description="how the machine ends, left alone")
    timeout: Seconds | None = Field(
        default=None, description="seconds of a TCG boot that are enough"
    )


class Check(Part):
    """``[[verify.check]]``: one step; exactly one of command, wait-for, send and screenshot."""

    name: Id | None = Field(default=None, description="what reports call it")
    command: Value | None = Field(
        default=None, description="shell command that is run in the guest"
    )
    stdout: Value | None = Field(
        default=None, description="its exact output, trailing line ends apart"
    )
    exit_code: ExitCode | None = Field(default=None, description="its exit code; 0 when absent")
    wait_for: Line | None = Field(
        default=None, description="pattern that a line of the console matches"
    )
    send: Value | None = Field(default=None, description="text that is typed on the console")
    screenshot: Id | None = Field(default=None, description="name of a picture to take and compare")
    timeout: Seconds | None = Field(default=None, description="seconds for this step")


class Login(Part):
    """``[verify.login]``: how to log in on the console; no secret, it is stored as it is."""

    user: Line = Field(description="user name")
    password: Line | None = Field(default=None, description="password; none is asked when absent")
    prompt: Line | None = Field(
        default=None, description="pattern that the shell's prompt matches; found out when absent"
    )


class Verify(Part):
    """``[verify]``: how the guest is asked what it is, and the user's own checks, in order."""

    probe: Literal["agent", "login", "cloud-init", "none"] | None = Field(
        default=None,
        description="the only way to ask the guest; when absent, its agent and then the login",
    )
    login: Login | None = Field(default=None, description="login on the console")
    checks: Annotated[tuple[Check, ...], Field(max_length=256)] = Field(
        default=(), description="steps"
    )


class OvfProperty(Part):
    """``[[ova.property]]``: a property that whoever deploys the appliance can set."""

    key: PropertyKey = Field(description="key, unique")
    type: Literal["string", "boolean", "int", "password", "ip"] | None = Field(
        default=None, description="type; string when absent"
    )
    value: Value | None = Field(default=None, description="default value")
    label: Line | None = Field(default=None, description="label")
    description: Value | None = Field(default=None, description="description")
    category: Line | None = Field(default=None, description="category")
    user_configurable: Bool | None = Field(default=None, description="may be set at deployment")


class Ova(Part):
    """``[ova]``: product data of an appliance."""

    product: Line | None = Field(default=None, description="product")
    vendor: Line | None = Field(default=None, description="vendor")
    version: Line | None = Field(default=None, description="short version")
    full_version: Line | None = Field(default=None, description="full version")
    product_url: Line | None = Field(default=None, description="the product's page")
    vendor_url: Line | None = Field(default=None, description="the vendor's page")
    application_url: Line | None = Field(
        default=None, description="where the running product answers"
    )
    annotation: LongText | None = Field(default=None, description="annotation")
    hardware: OvfHardware | None = Field(default=None, description="virtual hardware family")
    eula: Annotated[tuple[LongText, ...], Field(max_length=8)] = Field(
        default=(), description="licences to accept"
    )
    properties: Annotated[tuple[OvfProperty, ...], Field(max_length=256)] = Field(
        default=(), description="properties"
    )


class VerbatimField(Part):
    """``[[verbatim.HYPERVISOR]]``: a field of the source that vmpack does not model."""

    key: Key = Field(description="where it stood, in the source's own terms")
    value: Value = Field(description="what it said")
