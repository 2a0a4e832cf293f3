"""Libraries side by side: each in a process of its own, taking turns, so that a busy machine slows all of them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

RACERS = Path(__file__).parent / "racers.py"
LONG = 20.0  # seconds from which three runs do


@dataclasses.dataclass(frozen=True)
class Racer:
    """One side: what it is called in the table, its function in `racers.py` (library_task), its settings."""

    label: str
    function: str
    settings: dict[str, Any]

    @property
    def library(self) -> str:
        return self.function.split("_")[0]


@dataclasses.dataclass
class Track:
    """A log laid out for racers, how many threads each may use, and the Pythons where libraries are looked for."""

    folder: Path
    threads: int
    pythons: Sequence[str]

    def python_of(self, racer: Racer) -> str:
        """A Python that has the racer's library; empty where none has."""
        for python in self.pythons:
            if not subprocess.run([python, "-c", f"import {racer.library}"], capture_output=True).returncode:
                return python
        return ""

    @contextmanager
    def run(self, racer: Racer, python: str) -> Iterator[subprocess.Popen[str]]:
        """A process that waits for its turns."""
        # `implicit` asks for one thread of BLAS: its own threads call it.
        blas = "1" if racer.library in ("implicit", "rectools") else str(self.threads)
        names = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "LK_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment = os.environ | {name: str(self.threads) for name in names} | {"OPENBLAS_NUM_THREADS": blas}
        command = [python, str(RACERS), racer.function, str(self.folder), str(self.threads)]
        command.append(json.dumps(racer.settings))
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            answer(process)
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a racer says next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} ended without an answer")
    return json.loads(line)


def turn(process: subprocess.Popen[str], name: str = "turn") -> dict[str, Any]:
    """One run; its arrays are left under `name`."""
    assert process.stdin is not None
    process.stdin.write(f"{name}\n")
    process.stdin.flush()
    return answer(process)


@contextmanager
def track(log: sparse.csr_matrix, threads: int, pythons: Sequence[str] = ()) -> Iterator[Track]:
    """Lay a log out for as long as it is raced on."""
    folder = Path(tempfile.mkdtemp(prefix="zhiyin-race-"))
    try:
        np.save(folder / "indptr.npy", log.indptr.astype(np.int32))
        np.save(folder / "indices.npy", log.indices.astype(np.int32))
        np.save(folder / "shape.npy", np.array(log.shape))
        print(f"{log.shape[0]:,} × {log.shape[1]:,}, {log.nnz:,} ones, {threads} threads", flush=True)
        yield Track(folder, threads, [sys.executable, *pythons])
    finally:
        shutil.rmtree(folder)


def race(where: Track, racers: Sequence[Racer], repeats: int = 0, ours: str = "zhiyin") -> dict[str, list[Any]]:
    """Runs of each by label, taken in turns; `repeats` 0: five, or three where one takes LONG. Prints the table."""
    found: dict[str, list[Any]] = {}
    with ExitStack() as open_ones:
        processes = {}
        for racer in racers:
            python = where.python_of(racer)
            if not python:
                print(f"  {racer.label}: not installed")
                continue
            processes[racer.label] = open_ones.enter_context(where.run(racer, python))
            found[racer.label] = []
        while True:
            for number, (label, process) in enumerate(processes.items()):
                found[label].append(turn(process, f"racer{number}"))
                last = found[label][-1]
                print(
                    f"    {label:28} {last['wall']:8.3f} s wall {last['cpu']:8.3f} s CPU", file=sys.stderr, flush=True
                )
            done = len(next(iter(found.values())))
            slow = max(run["wall"] for runs in found.values() for run in runs) >= LONG
            if done >= (repeats or (3 if slow else 5)):
                break
    show(found, [racer.label for racer in racers if racer.library == ours])
    return found


def show(found: dict[str, list[Any]], ours: Sequence[str]) -> None:
    """Medians, and how many times as long each takes as the first of ours, pair by pair."""
    for label, runs in found.items():
        wall, cpu = (statistics.median(run[part] * run.get("scale", 1) for run in runs) for part in ("wall", "cpu"))
        ratio = {
            part: statistics.median(a[part] * a.get("scale", 1) / b[part] for a, b in zip(runs, found[ours[0]]))
            for part in ("wall", "cpu")
        }
        more = {key: value for key, value in runs[-1].items() if isinstance(value, int | float)}
        said = ", ".join(f"{key} {value:,.6g}" for key, value in more.items() if key not in ("wall", "cpu"))
        times = f"{ratio['wall']:6.2f} × wall, {ratio['cpu']:6.2f} × CPU of {ours[0]} (median of {len(runs)})"
        print(f"  {label:28} {wall:8.3f} s wall {cpu:8.3f} s CPU; {times} {said}".rstrip(), flush=True)
