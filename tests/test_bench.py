"""The bench's own sums: what it would say of given samples, and that no target goes unmeasured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import boot_reads, bundle, matrix, observation, running, startup
from bench.measure import (
    Sample,
    Side,
    alternate,
    cpu_ratio,
    disturbance,
    peak_bytes,
    ratio,
    samples_dict,
    sync_seconds,
)
from bench.table import Row, Target, markdown, noise, plain, summary

MIB = 1 << 20


def sample(wall_s: float, cpu_s: float = 1.0, peak: int = 10 * MIB, sync_s: float = 0.0) -> Sample:
    return Sample(wall_s, cpu_s, peak, sync_s)


def one_of_each(*names: str) -> dict[str, list[Sample]]:
    return {name: [sample(1.0)] for name in names}


def test_ratio_is_the_median_of_the_turns_not_the_ratio_of_medians() -> None:
    ours = [sample(1, 2), sample(2, 2), sample(9, 2)]
    theirs = [sample(4, 4), sample(2, 4), sample(3, 8)]
    assert ratio(ours, theirs) == 1.0
    assert cpu_ratio(ours, theirs) == 0.5
    assert peak_bytes([sample(1, peak=5), sample(1, peak=7)]) == 7


def test_disturbance_is_the_share_of_a_core_that_others_took() -> None:
    quiet, noisy = Sample(2.0, 1.0, 0), Sample(1.0, 1.0, 0, sync_s=1.0, others_s=0.8)
    assert disturbance({"a": [quiet], "b": [noisy]}) == pytest.approx(0.2)
    row = Row("a", "pack", 1, "x", details=samples_dict({"a": [noisy]}))
    assert noise([row]) == "other processes took, of one core: 0.4 (pack)"


def test_sync_time_is_what_the_command_says() -> None:
    assert sync_seconds('{"filename": "x", "sync-milliseconds": 250}') == 0.25
    assert sync_seconds('{"filename": "x"}') == 0
    assert sync_seconds("no JSON") == 0


def test_commands_take_turns_and_the_first_turn_is_dropped(tmp_path: Path) -> None:
    log, made = tmp_path / "log", tmp_path / "made"

    def side(name: str) -> Side:
        # Fails when what the run before made is still there.
        code = f"open({str(made)!r}, 'x'); open({str(log)!r}, 'a').write({name!r})"
        return Side(name, [sys.executable, "-c", code], [made])

    taken = alternate([side("a"), side("b")], 2, tmp_path)
    assert log.read_text() == "abbaab", "another side begins each time"
    assert [len(taken[name]) for name in "ab"] == [2, 2]
    assert all(one.wall_s > 0 and one.peak_bytes > MIB for one in taken["a"])


def test_a_command_that_fails_stops_the_bench_and_shows_why(tmp_path: Path) -> None:
    side = Side("bad", [sys.executable, "-c", "import sys; sys.exit('no such thing')"])
    with pytest.raises(RuntimeError, match="exit code 1\nno such thing"):
        alternate([side], 1, tmp_path)


def test_every_target_has_its_row() -> None:
    count = {"reads": 1, "asked": 4096, "decoded": 65536, "stored": 9}
    rows = [
        *bundle.pack_rows(
            one_of_each("vmpack", "qemu-img", "qemu-img -W"), bundle_bytes=99, qcow2_bytes=100
        ),
        *bundle.unpack_raw_rows(one_of_each("vmpack", "no-verify", "qemu-img")),
        *bundle.unpack_qcow2_rows(one_of_each("vmpack", "cp")),
        *bundle.check_rows(
            one_of_each("vmpack", "library", "sha256"),
            stored_bytes=10**9,
            library_s=[0.5],
            sha256_speeds=[2e9],
        ),
        *boot_reads.results(one_of_each("window", "raw"), count, count),
        *startup.results(one_of_each("python", *startup.TARGETS)),
        running.login_row(one_of_each("bundle", "raw")),
        running.start_row({"vmpack": [0.5, 0.6], "qemu": [0.1, 0.4]}),
        running.memory_row(40 * MIB),
        observation.row({"observed": [sample(22.5)], "plain": [sample(20.0)]}),
    ]
    wanted = bundle.TARGETS | boot_reads.TARGETS | running.TARGETS | startup.TARGETS
    wanted |= observation.TARGETS
    by_id = {row.id: row for row in rows}
    assert len(by_id) == len(rows)
    assert {key: by_id[key].target for key in wanted} == wanted
    assert by_id["check"].value == 2.0
    assert by_id["boot-reads-decoded"].value == 16.0
    assert by_id["run-start"].value == pytest.approx(0.3)
    assert by_id["run-memory"].value == 40
    assert by_id["observation"].value == pytest.approx(1.5)
    assert by_id["observation"].met is False
    assert by_id["unpack-qcow2"].value == pytest.approx(1 / 1.7)


def test_the_table_says_plainly_what_misses() -> None:
    rows = [
        Row("a", "fast enough", 0.4, "x", target=Target(0.5)),
        Row("b", "too slow", 0.5, "GB/s", target=Target(1.0, "GB/s", least=True)),
        Row("c", "just so", 3, "MiB"),
    ]
    assert [row.verdict for row in rows] == ["pass", "MISS", ""]
    assert summary(rows) == "1 of 2 targets met: missed too slow"
    for text in (plain(rows), markdown(rows)):
        assert "at least 1.00 GB/s" in text
        assert "at most 0.500" in text
        assert "MISS" in text
    assert rows[2].as_dict() == {
        "id": "c",
        "what": "just so",
        "value": 3,
        "unit": "MiB",
        "target": None,
        "met": None,
    }


def matrix_cell(source: str, target: str, plain: float, verified: float) -> matrix.Cell:
    taken = {
        "vmpack": [sample(verified)],
        "no-verify": [sample(plain, peak=300 * MIB)],
        "qemu-img": [sample(1.0)],
        "qemu-img -W": [sample(0.5)],
    }
    if not (matrix.KINDS[target].compressed and source == "raw"):
        del taken["qemu-img -W"]
    return matrix.Cell(source, target, taken, {"vmpack": 101, "no-verify": 101, "qemu-img": 100})


def test_the_matrix_holds_every_cell_to_the_issues_targets() -> None:
    assert len(matrix.CELLS) == 8 * 7
    cells = [matrix_cell(*cell, 0.25, 0.5) for cell in matrix.CELLS]
    rows = {row.id: row for row in matrix.summary_rows(cells)}
    assert rows["mean-no-verify"].value == pytest.approx(0.25)
    assert rows["mean-vmpack"].value == pytest.approx(0.5)
    missed = {key for key, row in rows.items() if row.met is False}
    assert missed == {
        "qcow2-zlib-vmpack",
        "streamOptimized-no-verify",
        "streamOptimized-vmpack",
        "streamOptimized-bytes",
        "peak",
    }
    limits = {key: str(row.target) for key, row in rows.items() if row.target is not None}
    assert limits["mean-no-verify"] == "at most 0.450"
    assert limits["mean-vmpack"] == "at most 0.600"
    assert limits["streamOptimized-no-verify"] == "at most 0.200"
    assert limits["streamOptimized-vmpack"] == "at most 0.300"
    assert limits["qcow2-zlib-no-verify"] == "at most 0.280"
    assert limits["qcow2-zlib-bytes"] == "at most 1.050"
    assert limits["qcow2-zstd-no-verify"] == "at most 0.550"
    assert limits["raw-no-verify"] == "at most 1.500"
    assert limits["vhd-vmpack"] == "at most 2.500"
    assert limits["peak"] == "at most 200 MiB"
    assert rows["streamOptimized-W"].value == pytest.approx(0.5)
    big = matrix.big_row("raw", "qcow2", {"no-verify": [sample(2.0)], "qemu-img": [sample(1.0)]})
    assert (str(big.target), big.met) == ("at most 1.000", False)


def test_cells_say_both_ratios_and_the_grids_what_misses() -> None:
    cells = [matrix_cell("raw", "qcow2", 1.2, 2.6), matrix_cell("vhd", "raw", 1.6, 1.7)]
    row = cells[0].row()
    assert (row.value, row.met) == (1.2, True)
    assert row.details["verified-met"] is False
    assert row.details["bytes-ratio"] == 1.01
    text = matrix.grids(cells)
    assert "| from \\ to | raw | qcow2 |" in text
    assert "| raw |  | 1.20 |" in text
    assert "| raw |  | 2.60 MISS |" in text
    assert "| vhd | 1.60 MISS |  |" in text


def test_cells_are_chosen_by_name() -> None:
    assert matrix.cells_of(None) == matrix.CELLS
    assert matrix.cells_of("raw:qcow2,vhd:raw") == (("raw", "qcow2"), ("vhd", "raw"))
    assert matrix.cells_of("*:raw") == tuple(cell for cell in matrix.CELLS if cell[1] == "raw")
    for wrong in ("raw", "raw:vhdx", "x:raw", ""):
        with pytest.raises(ValueError, match="is no cell"):
            matrix.cells_of(wrong)
