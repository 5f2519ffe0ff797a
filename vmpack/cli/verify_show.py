"""``vmpack verify`` in words for people. Whatever a guest or another host said is escaped here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.cli.console import BOLD, DIM, GREEN, RED, YELLOW, Console
from vmpack.cli.human import plain, table

if TYPE_CHECKING:
    from vmpack.verify.boot import Boot
    from vmpack.verify.layers import LayerName
    from vmpack.verify.model import Comparison, Difference
    from vmpack.verify.result import HostResult, RecordSource, VerifyResult

__all__ = ["lines"]

MOST = 12
"""Groups of differences, each with its cause, that are shown; a report has all of them."""

ITEMS = 6
"""Items of one group that are named."""

NAMED = 3
"""Items that are named where nothing is promised."""

WIDEST = 24
"""Characters of a cell of the matrix."""

TAIL = 12
"""Last lines of the console of a boot that failed."""

_COLOURS = {"same": GREEN, "differs": RED, "drift": YELLOW, "not-compared": DIM, "expected": GREEN}


def lines(console: Console, result: VerifyResult) -> Iterator[str]:
    """Everything that was found: each host, then the verdict, then what to do next."""
    several = len(result.hosts) > 1
    for host in result.hosts:
        yield from _host(console, result, host, several=several)
    if several:
        yield from _compared_with(result.record)
        yield from _matrix(console, result)
    yield from _verdict(console, result)
    yield from (f"wrote {escape(path)}" for path in result.report)


def _host(
    console: Console, result: VerifyResult, host: HostResult, *, several: bool
) -> Iterator[str]:
    named = several or host.name != "here"
    if named:
        yield console.style(escape(host.name), BOLD)
    if host.pins and not host.boots:
        yield from _pins(console, host)
    yield from _boots(console, host, brief=result.record is not None or len(host.boots) > 1)
    if host.comparison is not None:
        yield from _held(console, result, host, several=several)
    if host.exact is not None:
        yield from ("", *_exact(console, host))
    yield from (f"note: {escape(note)}" for note in host.notes)
    if named or host.comparison is not None:
        yield ""


def _held(
    console: Console, result: VerifyResult, host: HostResult, *, several: bool
) -> Iterator[str]:
    """What the comparison gave. Of several hosts the layers stand in the matrix."""
    comparison = host.comparison
    assert comparison is not None
    if host.unstable:
        yield ""
        yield from _unstable(console, comparison, host.unstable)
        return
    if not several:
        yield ""
        yield from _compared_with(result.record)
    yield f"  {_promised(host, comparison)}"
    if not several or console.verbose:
        yield from (f"  {line}" for line in _layers(console, comparison))
    yield from _differences(console, comparison)


def _pins(console: Console, host: HostResult) -> Iterator[str]:
    from vmpack.cli.doctor import open_lines, status_lines

    rows = [
        (f"{one.pin} {one.value}".strip(), one.status, one.message, one.hint) for one in host.pins
    ]
    yield from status_lines(console, rows)
    if host.left_open:
        yield ""
        yield "not pinned: the host decides"
        yield from open_lines(console, host.left_open)


def _boots(console: Console, host: HostResult, *, brief: bool) -> Iterator[str]:
    """Each boot: one line where several went well, otherwise all that was waited for."""
    numbered = len(host.boots) > 1
    if brief and not console.verbose and host.boots:
        yield _run_with(host.boots[0])
    for number, boot in enumerate(host.boots, 1):
        title = f"boot {number}" if numbered else "boot"
        if brief and boot.good and not console.verbose:
            yield f"  {title}: {_ended(console, boot)}"
            yield from _problems(boot)
            continue
        yield f"{title}: {_run_with(boot)}"
        yield from (f"  {line}" for line in _milestones(boot))
        yield from (f"  {line}" for line in _checks(boot))
        yield f"  {_ended(console, boot)}"
        if not boot.good:
            yield from (f"  | {line}" for line in boot.ending.console_tail[-TAIL:])
            yield from (f"  QEMU: {line}" for line in boot.ending.stderr.splitlines()[-5:])
        yield from _problems(boot)


def _run_with(boot: Boot) -> str:
    return f"QEMU {escape(boot.qemu)}, {escape(boot.accel)} ({escape(boot.accel_reason)})"


def _ended(console: Console, boot: Boot) -> str:
    ending = boot.ending
    verdict = "as expected" if boot.good else ending.kind
    mark = console.style(verdict, GREEN if boot.good else RED)
    return f"{mark}: {ending.message}, {ending.seconds:.1f} s after the start"


def _problems(boot: Boot) -> Iterator[str]:
    return (f"  not observed: {problem}" for problem in boot.problems)


def _milestones(boot: Boot) -> Iterator[str]:
    # What was recognised by itself is told where it adds something to what was expected.
    expected = {one.seconds for one in boot.reached}
    others = [one for one in boot.seen if one.seconds not in expected and " " not in one.name]
    timed = [(one.seconds, escape(one.name)) for one in boot.reached]
    timed += [(one.seconds, f"({escape(one.name)})") for one in others]
    rows = [(f"{seconds:.1f} s", name) for seconds, name in sorted(timed)]
    rows += [("never", escape(name)) for name in boot.missing]
    if rows:
        yield from table(("reached", "milestone"), rows, right=("reached",))


def _checks(boot: Boot) -> Iterator[str]:
    rows = [
        (check.verdict, escape(check.name), f"{check.seconds:.1f} s", check.message)
        for check in boot.checks
    ]
    if rows:
        yield from table(("check", "name", "took", "found"), rows, right=("took",))


def _promised(host: HostResult, comparison: Comparison) -> str:
    """How alike the two are expected to be, and why."""
    changed = host.boots[0].host.changed if host.boots else ()
    if changed:
        words = escape(", ".join(changed))
        return f"changed on purpose ({words}): ending, milestones and own checks are promised"
    if comparison.relation == "same-host":
        return "the same QEMU version, accelerator and firmware as when it was recorded"
    return "another QEMU version, accelerator or firmware than when recorded: less is promised"


def _compared_with(source: RecordSource | None) -> Iterator[str]:
    if source is not None:
        yield f"compared with {_of(source)}"


def _of(source: RecordSource) -> str:
    host = source.record.observation.host
    count = source.record.observation.boots
    what = "the bundle's record" if source.source == "bundle" else escape(source.source)
    boots = "1 boot" if count == 1 else f"{count} boots"
    return f"{what}: {boots} on QEMU {escape(host.qemu)}, {escape(host.accel)}"


def _layers(console: Console, comparison: Comparison) -> Iterator[str]:
    from vmpack.verify.layers import LAYERS

    found = [
        (row.title, comparison.verdicts[row.name], _note(comparison, row.name))
        for row in LAYERS
        if row.name in comparison.verdicts
    ]
    first = max((len(title) for title, _, _ in found), default=0)
    second = max((len(verdict) for _, verdict, _ in found), default=0)
    for title, verdict, note in found:
        shown = console.style(f"{verdict:<{second}}", _COLOURS[verdict])
        yield f"{title:<{first}}  {shown}  {note}".rstrip()


def _note(comparison: Comparison, name: str) -> str:
    """What stands beside a verdict: how many differences, which items drifted, a number."""
    here = [one for one in comparison.differences if one.layer == name]
    counting = sum(one.counts for one in here)
    parts = []
    if counting:
        parts.append("1 difference" if counting == 1 else f"{counting} differences")
    drifted = list(dict.fromkeys(one.item for one in here if not one.counts))
    if drifted:
        names = ", ".join(plain(item) for item in drifted[:NAMED])
        more = f" and {len(drifted) - NAMED} more" if len(drifted) > NAMED else ""
        parts.append(f"not promised: {names}{more}")
    note = {str(key): value for key, value in comparison.notes.items()}.get(name)
    if note:
        parts.append(escape(note))
    return "; ".join(parts)


def _differences(console: Console, comparison: Comparison) -> Iterator[str]:
    """Each difference that counts; those of one cause together."""
    counting = [one for one in comparison.differences if one.counts]
    shown = list(comparison.differences) if console.verbose else counting
    groups = [list(found) for _, found in groupby(shown, lambda one: (one.layer, one.cause))]
    for number, group in enumerate(groups[:MOST], 1):
        colour = RED if group[0].counts else YELLOW
        yield ""
        yield console.style(f"{number}. {_title(group)}", colour)
        yield from (f"   {line}" for line in _values(group, comparison))
        if group[0].cause:
            yield f"   usually: {escape(group[0].cause)}"
    rest = sum(map(len, groups[MOST:]))
    if rest:
        yield ""
        yield f"and {rest} more: --report DIR shows all of them"


def _title(group: Sequence[Difference]) -> str:
    from vmpack.verify.layers import layer

    first = group[0]
    if len(group) == 1:
        return f"{layer(first.layer).title}: {plain(first.item)} {_code(first)}"
    return f"{layer(first.layer).title}: {len(group)} items"


def _code(one: Difference) -> str:
    return {
        "changed": "is another",
        "missing": "is missing",
        "added": "is new",
        "order": "comes in another place",
        "similarity": "is not alike enough",
    }[one.code]


def _values(group: Sequence[Difference], comparison: Comparison) -> Iterator[str]:
    """What was expected and what is there, of one item in two lines, of several in one each."""
    first = group[0]
    if first.layer == "picture":
        note = comparison.notes.get("picture")
        yield f"{plain(note)}; --report DIR shows both" if note else "--report DIR shows both"
    elif len(group) == 1:
        yield from (f"{name}  {value}" for name, value in _sides(first))
    else:
        for one in group[:ITEMS]:
            sides = ", ".join(f"{name} {value}" for name, value in _sides(one))
            yield f"{plain(one.item)} {_code(one)}: {sides}"
        if len(group) > ITEMS:
            yield f"and {len(group) - ITEMS} more: --report DIR shows all of them"


def _sides(one: Difference) -> Iterator[tuple[str, str]]:
    """Both values, but not the absent side of what only one has."""
    for name, value in (("expected", one.expected), ("observed", one.observed)):
        absent = (one.code, name) in (("missing", "observed"), ("added", "expected"))
        if not (absent and value is None):
            yield name, plain(value)


def _unstable(
    console: Console, comparison: Comparison, unstable: Mapping[LayerName, Sequence[str]]
) -> Iterator[str]:
    from vmpack.verify.layers import layer

    yield console.style("not recorded: these were not the same in all boots", RED)
    yield from (f"  {layer(name).title}: {_items(keys)}" for name, keys in unstable.items())
    yield from _differences(console, comparison)
    yield ""
    yield (
        "hint: let the guest settle, or expect a later milestone ([expected] milestones), and"
        " record again"
    )


def _items(keys: Sequence[str]) -> str:
    """Unstable items; ``*`` is a layer that some boot did not show at all."""
    return plain(["not observed in every boot" if key == "*" else key for key in keys])


def _exact(console: Console, host: HostResult) -> Iterator[str]:
    exact = host.exact
    assert exact is not None
    colour = {"same": GREEN, "does-not-apply": YELLOW}.get(exact.verdict, RED)
    yield f"replay: {console.style(exact.verdict, colour)}: {exact.message}"
    if exact.offset is not None:
        yield f"  first difference at byte {exact.offset} of the console, line {exact.line}"
        yield f"  expected  {plain(exact.expected)}"
        yield f"  observed  {plain(exact.observed)}"


def _matrix(console: Console, result: VerifyResult) -> Iterator[str]:
    """Hosts beside layers."""
    from vmpack.verify.matrix import matrix

    head, *rows = matrix(result.hosts)
    # A host may be called anything; the table has to stay one.
    cells = [[cell[:WIDEST] for cell in row] for row in (head, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(head))]
    for number, row in enumerate(cells):
        shown = [f"{row[0]:<{widths[0]}}"]
        for cell, width in zip(row[1:], widths[1:], strict=True):
            colour = _COLOURS.get(cell, "" if cell == "-" else RED) if number else BOLD
            padded = f"{cell:<{width}}"
            shown.append(console.style(padded, colour) if colour else padded)
        yield "  ".join(shown).rstrip()
    yield ""


def _verdict(console: Console, result: VerifyResult) -> Iterator[str]:
    """One line that says it all, and what to do next."""
    from vmpack.verify.layers import layer

    if result.recorded is not None:
        count = len(result.boots)
        boots = "1 boot" if count == 1 else f"{count} boots"
        yield console.style(f"recorded {boots} in {escape(result.recorded)}", GREEN)
        kept = {name: keys for name, keys in (result.unstable or {}).items() if keys}
        if kept:
            names = "; ".join(f"{layer(name).title}: {_items(keys)}" for name, keys in kept.items())
            yield f"not the same in all of them, and not compared: {names}"
        return
    if result.worst is not None:
        if result.worst.kind == "differs":
            yield console.style("it does not behave as recorded", RED)
        return
    if not result.boots and result.hosts and result.hosts[0].comparison is None:
        yield console.style("the pins are available", GREEN)
    elif result.record is not None:
        yield console.style("it behaves as recorded", GREEN)
    else:
        name = escape(result.filename)
        yield f"hint: it has no behaviour record to compare with: vmpack verify --record {name}"
