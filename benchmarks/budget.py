"""Whether `zhiyin train --budget` keeps its time, beside nothing and beside processes that spin.

    ZHIYIN_DATA=... python benchmarks/budget.py --budgets 15s 1m --sets movielens-small online-retail
    ZHIYIN_DATA=... python benchmarks/budget.py --budgets 15s 1m 3m --spinning 0 4

Each command runs in a process of its own, on kernels that are compiled: a first training warms the cache and is not
counted. Wall time is from the start of the process to its end. "one fit" is the longest fit of a source on the whole
log, as it was measured; the target is wall <= 1.15 x budget + one fit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETS = {
    "movielens-small": ("ratings.csv", "--items", "movies.csv"),
    "online-retail": ("online_retail.csv.gz",),
    "movielens-100k": ("u.data", "--items", "items.tsv", "--users", "users.tsv"),
}
BOUND = 1.15


@contextmanager
def spinning(number: int) -> Iterator[None]:
    """So many processes that do nothing but take processor time."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def command(*arguments: str, folder: Path) -> tuple[float, str]:
    """Wall seconds of a `zhiyin` command, and its standard output."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "zhiyin", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"zhiyin {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return time.monotonic() - started, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["movielens-small", "online-retail"], help=", ".join(SETS))
    parser.add_argument("--budgets", nargs="+", default=["15s", "1m"])
    parser.add_argument("--spinning", nargs="+", type=int, default=[0, 2 * (os.cpu_count() or 1)])
    asked = parser.parse_args()
    from zhiyin.core.durations import microseconds

    missed = 0
    print("set, spinning, load before, budget, wall, wall/budget, one fit, sources, windows, ndcg@10, kept")
    for name in asked.sets:
        source, *rest = SETS[name]
        data = Path(os.environ["ZHIYIN_DATA"]) / name
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            described = [str(data / one) if not one.startswith("--") else one for one in rest]
            command("init", str(data / source), *described, folder=home)
            command("train", "--budget", "30s", folder=home)
            for number in asked.spinning:
                with spinning(number):
                    for budget in asked.budgets:
                        load = os.getloadavg()[0]
                        shutil.rmtree(home / "models")
                        wall, printed = command("train", "--budget", budget, "--json", folder=home)
                        report = json.loads(printed)["report"]
                        pipeline, seconds = report["pipeline"], microseconds(budget) / 1e6
                        fit = max(pipeline["fit_seconds"].values())
                        kept = wall <= BOUND * seconds + fit
                        missed += not kept
                        figure = report["judged"]["figures"].get("candidate")
                        print(f"{name}, {number}, {load:.1f}, {budget}, {wall:.1f}, {wall / seconds:.2f}, {fit:.1f}, "
                              f"{len(pipeline['fit_seconds'])}, {len(pipeline['windows'])}, {figure:.4f}, "
                              f"{'yes' if kept else 'NO'}", flush=True)  # fmt: skip
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
