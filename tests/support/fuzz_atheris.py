"""The fuzzer's corpus under libFuzzer, which keeps the changes that reach new code.

An input is one byte that chooses the image, then those of its sectors that are not empty, in
order: holes of many MiB would slow libFuzzer down. More bytes than the image has sectors lie
behind its end; with fewer the last sectors are empty.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.fuzz_patient import SECTOR, Patient, Specimen


def packed(number: int, specimen: Specimen) -> bytes:
    """The input that stands for the unchanged specimen."""
    parts = (
        specimen.parts[part].data[at : at + SECTOR].ljust(SECTOR, b"\0")
        for part, at in specimen.sectors()
    )
    return bytes([number]) + b"".join(parts)


def lay(patient: Patient, sectors: Sequence[tuple[int, int]], data: bytes) -> None:
    """Change the patient to what an input without its first byte says."""
    for number, (part, at) in enumerate(sectors):
        piece = data[number * SECTOR : (number + 1) * SECTOR].ljust(SECTOR, b"\0")
        kept = len(patient.specimen.parts[part].data) - at
        patient.put(part, at, piece[:kept])
    rest = data[len(sectors) * SECTOR :]
    if rest:
        patient.put(0, len(patient.now[0]), rest)


def run_atheris(
    format_name: str, kept: Path | None, keep: Path | None, words: Sequence[str]
) -> None:
    """Let libFuzzer run until its ``words`` say stop; failing inputs go to ``keep``.

    libFuzzer ends the process. Raises :class:`ImportError` where atheris is missing.
    """
    import atheris

    folder = Path(tempfile.mkdtemp(prefix="vmpack-atheris-"))
    tempfile.tempdir = str(folder)
    # Readers are imported at their first use: within this block, so that libFuzzer sees into them.
    with atheris.instrument_imports(include=["vmpack"]):
        from tests.support import fuzz
        from tests.support.fuzz_corpus import corpus_of

        corpus = corpus_of(format_name, kept, folder / "corpus")
        patients = [Patient(one, folder / "mutated" / one.name) for one in corpus]
        for patient in patients:
            fuzz.attempt(patient, all_ways=True, folder=folder)
    sectors = [one.sectors() for one in corpus]
    inputs = folder / "inputs"
    inputs.mkdir()
    for number, one in enumerate(corpus):
        (inputs / one.name).write_bytes(packed(number, one))

    def one_input(data: bytes) -> None:
        if data:
            number = data[0] % len(patients)
            patient = patients[number]
            lay(patient, sectors[number], data[1:])
            fuzz.correct(patient)
            patient.write()
            try:
                fuzz.attempt(patient, all_ways=False, folder=folder)
            finally:
                patient.restore()

    longest = max(len(packed(0, one)) for one in corpus) + 8 * SECTOR
    place = f"{keep or folder}/"
    argv = [sys.argv[0], f"-max_len={longest}", f"-artifact_prefix={place}", *words, str(inputs)]
    atheris.Setup(argv, one_input)
    atheris.Fuzz()
