"""Jobs on Apache Spark beside one process and beside pyspark.ml, and workers that are killed on the way.

    python benchmarks/engines.py data DATA --events 20000000     # synthetic Parquet: 100,000 users, 20,000 items
    python benchmarks/engines.py jobs DATA WORK                  # a cluster of 2 workers × 1 core, and one process
    python benchmarks/engines.py jobs DATA WORK --engine spark://host:7077 --no-here
    python benchmarks/engines.py mllib DATA WORK                 # pyspark.ml beside our jobs on the same cluster
    python benchmarks/engines.py kill DATA WORK --times 5        # kill -9 of a worker in the second iteration

WORK is a folder for what is made on the way, on a cluster of other machines a shared one. Figures are printed as JSON,
a line each. pyspark.ml, which solves by Cholesky's decomposition, takes native BLAS where it is installed (Debian:
libopenblas0-pthread); without it it is slower than need be. `mllib` prints which of the two its executors have loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))  # the clusters are those of the tests

from tests.engines.clusters import Cluster, running, start_standalone

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.reading import read
from zhiyin.engines import open_engine
from zhiyin.engines.spark.engine import SparkEngine
from zhiyin.engines.spark.event_log import EventLog
from zhiyin.engines.spark.fitting import fit
from zhiyin.engines.spark.lists import recommend_all
from zhiyin.engines.spark.reading import read_log
from zhiyin.models.als import ALS
from zhiyin.models.neighbors import ItemKNN
from zhiyin.models.transitions import Transitions
from zhiyin.pipeline.answers import Answers

USERS, ITEMS, FILES = 100_000, 20_000, 8
# Of pyspark.ml: the mean of later iterations is that of a long run less a short one.
SHORT, LONG = 1, 3
EXECUTOR = {"spark.executor.memory": "3g"}
NOW = 1_700_000_000_000_000


def write_data(folder: Path, events: int) -> None:
    """Events of users with lognormal activity and items with Zipf's popularity (exponent .9), within 30 days."""
    rng = np.random.default_rng(0)
    activity = rng.lognormal(0, 1, USERS)
    popularity = (np.arange(ITEMS) + 1.0) ** -0.9
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        n = events // FILES
        frame = pl.DataFrame(
            {
                "user_id": rng.choice(USERS, n, p=activity / activity.sum()),
                "item_id": rng.choice(ITEMS, n, p=popularity / popularity.sum()),
                "timestamp": NOW // 1_000_000 - rng.integers(0, 30 * 86_400, n),
            }
        )
        frame.write_parquet(folder / f"events-{number}.parquet")


def models(factors: int, epochs: int) -> dict[str, ALS | ItemKNN | Transitions]:
    return {
        "ALS, conjugate gradient": ALS(factors=factors, epochs=epochs),
        "ALS, Cholesky": ALS(factors=factors, epochs=epochs, solver="exact"),
        "ItemKNN, top 200": ItemKNN(k_neighbors=200),
        "Transitions": Transitions(),
    }


def show(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


@contextmanager
def timed(job: str, where: str) -> Iterator[dict[str, Any]]:
    """Print the seconds of a job, and what is added to the dictionary, which has them afterwards."""
    more: dict[str, Any] = {}
    started = time.perf_counter()
    yield more
    more["seconds"] = round(time.perf_counter() - started, 2)
    show(job=job, where=where, **more)


class Epochs:
    """Seconds at the end of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, values: dict[str, Any]) -> None:
        self.seconds.append(values["seconds"])

    @property
    def later(self) -> float | None:
        """Mean seconds of the epochs after the first."""
        return round(float(np.diff(self.seconds).mean()), 2) if len(self.seconds) > 1 else None


def difference(one: Any, other: Any) -> float:
    """The largest difference of what two models learned."""
    largest = 0.0
    for name, value in vars(one).items():
        if name.endswith("_") and name != "context_":
            parts = [(value, getattr(other, name))]
            if hasattr(value, "indptr"):
                parts = [(getattr(value, part), getattr(parts[0][1], part)) for part in ("indptr", "indices", "data")]
            for mine, theirs in parts:
                same = np.shape(mine) == np.shape(theirs)
                largest = max(largest, float(np.abs(mine - theirs).max()) if same else np.inf)
    return largest


def measure(url: str, arguments: argparse.Namespace) -> None:
    """Each job on the engine, and in this process where that is asked for."""
    with timed("open the engine", url):
        engine = open_engine(url, arguments.work, EXECUTOR)
    with engine:
        with timed("read and clean", url):
            events = read_log(engine, arguments.data, now=NOW)
        here: Dataset | None = None
        if arguments.here:
            with timed("read and clean", "here"):
                here = read(arguments.data, now=NOW)
            show(check="the data sets are equal", equal=here.fingerprint == events.data.fingerprint)
        for name, model in models(arguments.factors, arguments.epochs).items():
            epochs = Epochs()
            with timed(name, url) as figures:
                fit(engine, model, events, Run(progress=False, callbacks=(epochs,)))
                figures["later_epochs"] = epochs.later
            if here is not None:
                single, epochs = models(arguments.factors, arguments.epochs)[name], Epochs()
                with timed(name, "here") as figures:
                    single.fit(here, Run(progress=False, callbacks=(epochs,)))
                    figures["later_epochs"] = epochs.later
                show(check=f"{name} is equal", largest_difference=difference(model, single))
            if name == "ALS, conjugate gradient":
                with timed("best 100 for all users", url):
                    lists = recommend_all(engine, model, 100, now=NOW)
                if here is not None:
                    with timed("best 100 for all users", "here"):
                        wanted = Answers(model, run=Run()).ask_many(None, 100, now=NOW)
                    show(check="lists are equal", equal=lists.equals(wanted))


def measure_mllib(url: str, arguments: argparse.Namespace) -> None:
    """pyspark.ml's ALS for implicit feedback, then ours by both solvers, with the same executors."""
    with open_engine(url, arguments.work, EXECUTOR) as engine:
        their_epoch, their_lists = run_mllib(engine, url, arguments)
        events = read_log(engine, arguments.data, now=NOW)
        for name, model in models(arguments.factors, arguments.epochs).items():
            if not isinstance(model, ALS):
                continue
            epochs = Epochs()
            with timed(name, url) as figures:
                fit(engine, model, events, Run(progress=False, callbacks=(epochs,)))
                figures["later_epochs"] = epochs.later
            times = ratio(their_epoch, epochs.later)
            show(compared=f"later epochs: pyspark.ml's, Cholesky, by ours, {name}", times=times)
            if name == "ALS, conjugate gradient":
                with timed("best 100 for all users", url) as figures:
                    recommend_all(engine, model, 100, now=NOW)
                show(compared="lists: pyspark.ml's by ours", times=ratio(their_lists, figures["seconds"]))


def run_mllib(engine: SparkEngine, url: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Seconds of a later epoch of pyspark.ml's ALS, on the pairs of the log, and of its lists for all users."""
    from pyspark.ml.recommendation import ALS as SparkALS  # noqa: N811
    from pyspark.sql import functions

    rows = engine.session.read.parquet(str(arguments.data)).groupBy("user_id", "item_id")
    pairs = rows.agg(functions.count("*").cast("float").alias("weight")).cache()
    show(check="pairs", pairs=pairs.count())
    seconds = {}
    for epochs in (SHORT, LONG):
        with timed(f"pyspark.ml ALS, {epochs} epochs", url) as figures:
            model = SparkALS(
                rank=arguments.factors, maxIter=epochs, regParam=0.1, alpha=8.0, implicitPrefs=True,
                userCol="user_id", itemCol="item_id", ratingCol="weight", numUserBlocks=8, numItemBlocks=8,
            ).fit(pairs)  # fmt: skip
        seconds[epochs] = figures["seconds"]
    later = (seconds[LONG] - seconds[SHORT]) / (LONG - SHORT)
    executors = engine.run_tasks(loaded_blas, range(4 * engine.slots), Run(progress=False), "libraries of executors")
    native = all(executor["native"] for executor in executors)
    show(check="native BLAS in the executors", native=native, executor=executors[0])
    show(job="pyspark.ml ALS, Cholesky", where=url, later_epochs=round(later, 2))
    with timed("pyspark.ml recommendForAllUsers, 100", url) as figures:
        model.recommendForAllUsers(100).write.format("noop").mode("overwrite").save()
    pairs.unpersist()
    return later, figures["seconds"]


def loaded_blas(_: int) -> dict[str, Any]:
    """What the executor of a task computes with: the libraries of linear algebra that its Java process has loaded, and
    whether it was started with Java's vectors, which Spark takes where there is no library."""
    pid = os.getpid()
    while Path(f"/proc/{pid}/comm").read_text().strip() != "java":
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])  # the parent's
    paths = (line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    return {
        "native": sorted({Path(path).name for path in paths if "blas" in path or "lapack" in path}),
        "java_vectors": b"jdk.incubator.vector" in Path(f"/proc/{pid}/cmdline").read_bytes(),
    }


def ratio(theirs: float, ours: float | None) -> float | None:
    return round(theirs / ours, 2) if ours and theirs > 0 else None


def kill(arguments: argparse.Namespace) -> None:
    """Fit ALS on a cluster of which a worker is killed in the second epoch; its vectors are those of one process."""
    data = read(arguments.data, now=NOW)
    epochs = Epochs()
    single = ALS(factors=arguments.factors, epochs=arguments.epochs).fit(data, Run(callbacks=(epochs,)))
    show(job="ALS", where="here", later_epochs=epochs.later)
    differences, slowest = [], []
    for number in range(arguments.times):
        with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as cluster:
            ends: list[float] = []

            def on_epoch(values: dict[str, Any], cluster: Cluster = cluster, ends: list[float] = ends) -> None:
                if values["epoch"] == 1:
                    cluster.kill("worker-1")
                ends.append(values["seconds"])

            url = start_standalone(cluster, memory="4g")
            with open_engine(url, arguments.work, EXECUTOR) as engine:
                model = ALS(factors=arguments.factors, epochs=arguments.epochs)
                fit(engine, model, EventLog.publish(engine, data), Run(progress=False, callbacks=(on_epoch,)))
            seconds = np.diff(ends).round(1).tolist()
            differences.append(difference(model, single))
            slowest.append(max(seconds))
            show(job=f"kill {number + 1}", largest_difference=differences[-1], later_epochs=seconds)
    same = sum(value == 0 for value in differences)
    show(
        summary=f"one of two workers killed in the second epoch: same vectors {same} of {len(differences)} times",
        largest_difference=max(differences), slowest_epoch=max(slowest),
    )  # fmt: skip


@contextmanager
def cluster_of(arguments: argparse.Namespace) -> Iterator[str]:
    """The address of the engine that was named, else of two workers of one core on this machine."""
    if arguments.engine:
        yield arguments.engine
        return
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as cluster:
        yield start_standalone(cluster, memory="4g")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("data", "jobs", "mllib", "kill"))
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path, nargs="?", default=Path(tempfile.gettempdir()))
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--engine", default="", help="address; left out, a cluster is started on this machine")
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--no-here", dest="here", action="store_false", help="leave out the single process")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the cluster is ended then, too
    if arguments.what == "data":
        write_data(arguments.data, arguments.events)
    elif arguments.what == "kill":
        kill(arguments)
    else:
        with cluster_of(arguments) as url:
            (measure if arguments.what == "jobs" else measure_mllib)(url, arguments)


if __name__ == "__main__":
    main()
