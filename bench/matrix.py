"""The conversion matrix: every source format to every target, beside ``qemu-img convert``.

Each cell runs vmpack with and without verification and qemu-img in turn; what is compared is the
median of the turns' ratios. Uncompressed cells take more turns than compressed ones (there
qemu-img's own runs last 12 s); the page cache holds the source before the first turn.
"""

from __future__ import annotations

import compileall
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import vmpack
from bench.bundle import MIB, VMPACK
from bench.measure import (
    Sample,
    Side,
    alternate,
    cpu_ratio,
    disturbance,
    peak_bytes,
    ratio,
    run,
    samples_dict,
    seconds,
    sync_median,
)
from bench.table import Row, Target
from vmpack import formats

BIG = 4 << 30
_WIDE = ["-W", "-m", "8"]


@dataclass(frozen=True)
class Kind:
    """A format as both programs write it. The limits are ratios to qemu-img's default."""

    name: str
    format: str
    options: Sequence[str] = ()
    compressed: bool = False
    c: bool = False
    """Compressed with ``-c``; streamOptimized is compressed by itself."""
    plain_limit: float = 1.5
    """Seconds without verification."""
    verified_limit: float = 2.5
    bytes_limit: float | None = None

    @property
    def argv(self) -> list[str]:
        """The options of ``convert`` that make it, the same in both programs."""
        words = ["-O", self.format]
        for option in self.options:
            words += ["-o", option]
        return [*words, "-c"] if self.c else words


def _small(name: str, image: str, options: Sequence[str], limit: float, size: float | None) -> Kind:
    return Kind(name, image, options, True, image == "qcow2", limit, limit + 0.10, size)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("raw", "raw"),
        Kind("qcow2", "qcow2"),
        _small("qcow2-zlib", "qcow2", ["compression_type=zlib"], 0.28, 1.05),
        _small("qcow2-zstd", "qcow2", ["compression_type=zstd"], 0.55, None),
        Kind("vmdk", "vmdk", ["subformat=monolithicSparse"]),
        _small("streamOptimized", "vmdk", ["subformat=streamOptimized"], 0.20, 1.00),
        Kind("vhd", "vpc", ["subformat=dynamic", "force_size=on"]),
        Kind("vhdx", "vhdx", ["subformat=dynamic"]),
    )
}
SOURCES = tuple(KINDS)
TARGETS = tuple(name for name in KINDS if name != "vhdx")
CELLS = tuple((source, target) for source in SOURCES for target in TARGETS)
MEAN_LIMITS = {"no-verify": 0.45, "vmpack": 0.60}
BIG_CELLS = (("raw", "raw"), ("raw", "qcow2"))
"""What is measured again with 4 GiB of data."""
PEAK = Target(200, "MiB")
MORE_TURNS = 2
"""Added for uncompressed cells: they are short, and so is their noise long."""


def cells_of(text: str | None) -> tuple[tuple[str, str], ...]:
    """The cells of ``raw:qcow2,vhd:raw``; all of them for ``None``. ``*`` is any format.

    Raises :class:`ValueError` for one that there is not.
    """
    if text is None:
        return CELLS
    chosen: list[tuple[str, str]] = []
    for word in text.split(","):
        source, _, target = word.partition(":")
        found = [cell for cell in CELLS if source in (cell[0], "*") and target in (cell[1], "*")]
        if not found:
            raise ValueError(f"{word!r} is no cell: SOURCE:TARGET of {', '.join(KINDS)}")
        chosen += found
    return tuple(chosen)


def missing(name: str, *, target: bool) -> bool:
    """Whether vmpack cannot read (or write, ``target``) this format yet."""
    wanted = KINDS[name].format
    for one in map(formats.get, formats.names()):
        if wanted in (one.name, one.qemu_name):
            return target and one.create is None
    return True


@dataclass(frozen=True)
class Cell:
    """What was measured for one source and target; ``sizes`` are bytes of the files."""

    source: str
    target: str
    taken: Mapping[str, Sequence[Sample]]
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its name in rows and in the JSON document."""
        return f"{self.source}:{self.target}"

    def ratio(self, side: str, beside: str = "qemu-img") -> float:
        """Seconds of ``side``, as the median of the turns' ratios."""
        return ratio(self.taken[side], self.taken[beside])

    @property
    def bytes_ratio(self) -> float:
        """Size of vmpack's file, of qemu-img's."""
        return self.sizes["vmpack"] / self.sizes["qemu-img"]

    @property
    def peak(self) -> int:
        """Bytes: vmpack's largest resident set, verifying or not."""
        return max(peak_bytes(self.taken[side]) for side in MEAN_LIMITS)

    def row(self) -> Row:
        """The cell as a row, held to its limit without verification; the rest in its details."""
        kind = KINDS[self.target]
        mine, theirs = self.taken["no-verify"], self.taken["qemu-img"]
        verified, verified_limit = self.ratio("vmpack"), Target(kind.verified_limit)
        details: dict[str, object] = {
            "verified": round(verified, 4),
            "verified-target": str(verified_limit),
            "verified-met": verified_limit.met(verified),
            "cpu-ratio": round(cpu_ratio(mine, theirs), 4),
            "verified-cpu-ratio": round(cpu_ratio(self.taken["vmpack"], theirs), 4),
            "peak-bytes": {side: peak_bytes(samples) for side, samples in self.taken.items()},
            "sizes": dict(self.sizes),
            "bytes-ratio": round(self.bytes_ratio, 4),
            **samples_dict(self.taken),
        }
        return Row(
            self.id,
            f"{self.source} to {self.target}",
            self.ratio("no-verify"),
            "x",
            f"{seconds(mine):.2f} s",
            f"{seconds(theirs):.2f} s",
            Target(kind.plain_limit),
            details,
        )


class Matrix:
    """Makes the sources in ``folder`` from ``disk`` (raw) and measures cells."""

    def __init__(self, disk: Path, folder: Path, turns: int):
        self.disk = disk
        self.folder = folder
        self.turns = turns
        # As pip leaves an installed package (see bench.startup).
        compileall.compile_dir(str(Path(vmpack.__file__).parent), quiet=1)

    def measure(
        self, cells: Sequence[tuple[str, str]], say: Callable[[str], None]
    ) -> Iterator[Cell]:
        """Each cell in turn; ``say`` hears which are left out, and how each came out."""
        for source, target in cells:
            gone = [source] * missing(source, target=False) + [target] * missing(
                target, target=True
            )
            if gone:
                say(f"{source}:{target} left out: vmpack has no {gone[0]} yet")
                continue
            cell = self.cell(source, target, self.source(source))
            say(
                f"{cell.id}: {cell.ratio('no-verify'):.3f}, verified {cell.ratio('vmpack'):.3f}, "
                f"others took {disturbance(cell.taken):.2f}"
            )
            yield cell

    def source(self, name: str) -> Path:
        """The Debian disk in this format, as qemu-img writes it."""
        if name == "raw":
            return self.disk
        path = self.folder / f"source.{name}"
        if not path.exists():
            argv = ["qemu-img", "convert", "-f", "raw", *KINDS[name].argv]
            run(Side(name, [*argv, str(self.disk), str(path)]), self.folder)
        return path

    def cell(self, source: str, target: str, path: Path) -> Cell:
        """Measure one conversion of ``path``."""
        kind = KINDS[target]
        outputs = {
            name: self.folder / f"out.{name}" for name in ("vmpack", "no-verify", "qemu-img")
        }
        sides = [
            self._ours("vmpack", path, kind, outputs["vmpack"]),
            self._ours("no-verify", path, kind, outputs["no-verify"], "--no-verify"),
            self._theirs("qemu-img", path, KINDS[source], kind, outputs["qemu-img"]),
        ]
        # Beside the default, and once for each target: 7 s a run would add half an hour.
        if kind.compressed and source == "raw":
            outputs["qemu-img -W"] = self.folder / "out.wide"
            wide = outputs["qemu-img -W"]
            sides.append(self._theirs("qemu-img -W", path, KINDS[source], kind, wide, *_WIDE))
        _read(path)
        turns = self.turns if kind.compressed else self.turns + MORE_TURNS
        taken = alternate(sides, turns, self.folder, warm=not kind.compressed)
        sizes = {name: file.stat().st_size for name, file in outputs.items()}
        for file in outputs.values():
            file.unlink()
        return Cell(source, target, taken, sizes)

    def _ours(self, name: str, path: Path, kind: Kind, output: Path, *words: str) -> Side:
        argv = [VMPACK, "convert", *kind.argv, *words, "--output", "json", str(path), str(output)]
        return Side(name, argv, [output])

    def _theirs(
        self, name: str, path: Path, source: Kind, kind: Kind, output: Path, *words: str
    ) -> Side:
        argv = ["qemu-img", "convert", "-f", source.format, *kind.argv, *words]
        return Side(name, [*argv, str(path), str(output)], [output])

    def big(self) -> list[Row]:
        """Uncompressed to uncompressed with 4 GiB of data that does not compress."""
        path = self.folder / "big.raw"
        chance = random.Random(4)
        with path.open("wb") as file:
            for _ in range(BIG >> 24):
                file.write(chance.randbytes(1 << 24))
        rows = []
        for source, target in BIG_CELLS:
            sides = [
                self._ours("no-verify", path, KINDS[target], self.folder / "out.a", "--no-verify"),
                self._theirs("qemu-img", path, KINDS[source], KINDS[target], self.folder / "out.b"),
            ]
            taken = alternate(sides, self.turns, self.folder)
            rows.append(big_row(source, target, taken))
            for side in sides:
                side.outputs[0].unlink()
        path.unlink()
        return rows


def big_row(source: str, target: str, taken: Mapping[str, Sequence[Sample]]) -> Row:
    """4 GiB of data, uncompressed, without verification."""
    mine, theirs = taken["no-verify"], taken["qemu-img"]
    return Row(
        f"big:{source}:{target}",
        f"{source} to {target}, 4 GiB of data, --no-verify",
        ratio(mine, theirs),
        "x",
        f"{seconds(mine):.2f} s (+{sync_median(mine):.2f} fsync)",
        f"{seconds(theirs):.2f} s; CPU ratio {cpu_ratio(mine, theirs):.2f}",
        Target(1.0),
        samples_dict(taken),
    )


def summary_rows(cells: Sequence[Cell]) -> list[Row]:
    """The targets: means, the worst cell of each kind of target, bytes, memory, ``-W``."""
    rows = [_mean(cells, *held) for held in MEAN_LIMITS.items()]
    for name in TARGETS:
        group = [cell for cell in cells if cell.target == name]
        if group:
            rows += _group_rows(KINDS[name], group)
    worst = max(cells, key=lambda cell: cell.peak)
    rows.append(
        Row(
            "peak",
            f"peak memory, worst cell ({worst.id})",
            worst.peak / MIB,
            "MiB",
            f"{worst.peak / MIB:.0f} MiB",
            f"qemu-img {peak_bytes(worst.taken['qemu-img']) / MIB:.0f} MiB",
            PEAK,
        )
    )
    return rows


def _mean(cells: Sequence[Cell], side: str, limit: float) -> Row:
    what = "without verification" if side == "no-verify" else "verified"
    value = statistics.geometric_mean(cell.ratio(side) for cell in cells)
    cpu = statistics.geometric_mean(
        cpu_ratio(cell.taken[side], cell.taken["qemu-img"]) for cell in cells
    )
    text = f"geometric mean of {len(cells)} cells, {what}"
    return Row(f"mean-{side}", text, value, "x", "", f"CPU {cpu:.3f}", Target(limit))


def _group_rows(kind: Kind, group: Sequence[Cell]) -> list[Row]:
    rows = []
    for side, limit in (("no-verify", kind.plain_limit), ("vmpack", kind.verified_limit)):
        worst = max(group, key=lambda cell: cell.ratio(side))
        what = "--no-verify" if side == "no-verify" else "verified"
        rows.append(
            Row(
                f"{kind.name}-{side}",
                f"to {kind.name}, {what}, worst of {len(group)} ({worst.source})",
                worst.ratio(side),
                "x",
                f"{seconds(worst.taken[side]):.2f} s",
                f"{seconds(worst.taken['qemu-img']):.2f} s",
                Target(limit),
            )
        )
    largest = max(group, key=lambda cell: cell.bytes_ratio)
    if kind.bytes_limit is not None or kind.compressed:
        rows.append(
            Row(
                f"{kind.name}-bytes",
                f"to {kind.name}, bytes, worst of {len(group)} ({largest.source})",
                largest.bytes_ratio,
                "x",
                f"{largest.sizes['vmpack']:,}",
                f"{largest.sizes['qemu-img']:,}",
                None if kind.bytes_limit is None else Target(kind.bytes_limit),
            )
        )
    rows += [_wide_row(kind, cell) for cell in group if "qemu-img -W" in cell.taken]
    return rows


def _wide_row(kind: Kind, cell: Cell) -> Row:
    wide = cell.taken["qemu-img -W"]
    return Row(
        f"{kind.name}-W",
        f"{cell.source} to {kind.name}, --no-verify, against -W -m 8",
        cell.ratio("no-verify", "qemu-img -W"),
        "x",
        f"{seconds(cell.taken['no-verify']):.2f} s",
        f"{seconds(wide):.2f} s; verified {cell.ratio('vmpack', 'qemu-img -W'):.3f}",
    )


def grid(cells: Sequence[Cell], show: Callable[[Cell], str]) -> str:
    """A Markdown table: sources down, targets across."""
    by_id = {(cell.source, cell.target): cell for cell in cells}
    sources = [name for name in SOURCES if any(cell.source == name for cell in cells)]
    targets = [name for name in TARGETS if any(cell.target == name for cell in cells)]
    lines = [["from \\ to", *targets], ["---"] * (len(targets) + 1)]
    for source in sources:
        found = [by_id.get((source, target)) for target in targets]
        lines.append([source, *("" if cell is None else show(cell) for cell in found)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def grids(cells: Sequence[Cell]) -> str:
    """All tables of cells."""

    def held(side: str, limit: Callable[[Kind], float]) -> Callable[[Cell], str]:
        def show(cell: Cell) -> str:
            value = cell.ratio(side)
            return f"{value:.2f}" + (" MISS" if value > limit(KINDS[cell.target]) else "")

        return show

    def cpu(cell: Cell) -> str:
        parts = (cpu_ratio(cell.taken[side], cell.taken["qemu-img"]) for side in MEAN_LIMITS)
        return " / ".join(f"{part:.2f}" for part in parts)

    tables = {
        "Time without verification": held("no-verify", lambda kind: kind.plain_limit),
        "Time with verification": held("vmpack", lambda kind: kind.verified_limit),
        "CPU time, without / with verification": cpu,
        "Peak memory, MiB": lambda cell: f"{cell.peak / MIB:.0f}",
        "Bytes of the file": lambda cell: f"{cell.bytes_ratio:.3f}",
    }
    return "\n\n".join(f"## {name}\n\n{grid(cells, show)}" for name, show in tables.items())


def _read(path: Path) -> None:
    """Bring the file into the page cache."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass
