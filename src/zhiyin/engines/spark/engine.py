"""SparkEngine: tasks on the workers of Spark, and exchanges of rows between them.

Everything else is made of two operations. `run_tasks` calls a function once a task on the workers. `exchange` does so
in two rounds with Spark's shuffle between them: rows that tasks of the first round emit reach the task of the second
round that they are addressed to. Functions are module-level ones of this package, so that workers import them and
nothing but their arguments travels. Blocks and results are files of the shared folder: Spark Connect, which has no
broadcast variables, does the same as a classic session, and a task whose worker was lost is run again elsewhere with
nothing to recompute.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhiyin.core.errors import ConfigError, EngineError, ZhiyinError
from zhiyin.core.interrupts import noticed_interrupts
from zhiyin.core.run import Advance, Run
from zhiyin.core.version import __version__
from zhiyin.engines.spark.jdbc_driver import jar_settings, jdbc_settings
from zhiyin.engines.spark.job_errors import TaskError, job_error, job_errors
from zhiyin.engines.spark.running_job import start_job
from zhiyin.engines.spark.session import is_connect, start_session, stop_session

if TYPE_CHECKING:
    import pyarrow as pa

# Blocks a worker thread: while one is read or written another is computed, and a slow one does not hold up the rest.
BLOCKS_PER_SLOT = 4
MAX_EVENTS_PER_BLOCK = 4_000_000
CONNECT_SLOTS = 8  # a Connect server does not tell how many tasks it runs at once
_POLL_SECONDS = 0.1
_CANCEL_SECONDS = 1.0  # between two attempts to cancel a job
_REMOVE_SECONDS = 10.0


class SparkEngine:
    """See the module. Made by `open_engine`; not to be used by several threads at once."""

    def __init__(self, session: Any, url: str, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.session, self.url, self.folder, self.settings = session, url, folder, dict(settings or {})
        self.has_driver = False  # whether a Connect server was given the JDBC driver
        self.is_connect, self.is_local = is_connect(session), url.startswith("local")
        self._count_slots()

    @classmethod
    def open(cls, url: str, folder: str | os.PathLike[str] | None, options: dict[str, str]) -> SparkEngine:
        """See `zhiyin.engines.open_engine`."""
        if folder is None:
            place = Path(tempfile.mkdtemp(prefix="zhiyin-spark-"))
        else:
            place = Path(folder).resolve() / f"engine-{secrets.token_hex(6)}"
            try:
                place.mkdir(parents=True)
            except OSError as error:
                raise ConfigError(
                    f"the folder of the engine cannot be made: {error.strerror}",
                    file=folder,
                    remedy="name another: --engine-folder",
                ) from None
        try:
            own = jdbc_settings(options)
            spark = {name: value for name, value in options.items() if name not in own}
            session = start_session(url, {**jar_settings(url, own), **spark}, place)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        engine = cls(session, url, place, own)
        try:
            if not url.startswith("local"):
                engine._check_workers()
                engine._count_slots()  # all workers are there now
        except BaseException:
            engine.close()
            raise
        return engine

    def close(self) -> None:
        """End the session, the processes that were started for it, and the files of the shared folder."""
        stop_session(self.session)
        deadline = time.monotonic() + _REMOVE_SECONDS
        while True:
            shutil.rmtree(self.folder, ignore_errors=True)
            # A task that was cancelled may write a last file while the folder is removed.
            if not self.folder.exists() or time.monotonic() > deadline:
                return
            time.sleep(_POLL_SECONDS)

    def __enter__(self) -> SparkEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def new_folder(self, what: str) -> Path:
        """A new folder of the shared one."""
        folder = self.folder / f"{what}-{secrets.token_hex(4)}"
        folder.mkdir()
        return folder

    def remove(self, folder: Path) -> None:
        """Remove a folder that is not read any more."""
        shutil.rmtree(folder, ignore_errors=True)

    def n_blocks(self, n_events: int, n_rows: int) -> int:
        """Into how many blocks so many events of so many users, or items, are cut."""
        return max(1, min(n_rows, max(BLOCKS_PER_SLOT * self.slots, -(-n_events // MAX_EVENTS_PER_BLOCK))))

    # -- jobs -------------------------------------------------------------------------------------------------------

    def run_tasks(self, function: Callable[[Any], Any], tasks: Sequence[Any], run: Run, label: str) -> list[Any]:
        """[function(task) for task in tasks], each on a worker.

        Parameters
        ----------
        function: module-level, or a `functools.partial` of such a one. It may be called more than once for a task. What
            it returns is a value of JSON.
        label: names the job in progress bars and errors.

        Raises the ZhiyinError that a task raised, or EngineError. Ctrl-C ends the job.
        """
        if not len(tasks):
            return []
        n = len(tasks)
        call = partial(_call, function, tasks)
        with job_errors(label):
            frame = self.session.range(0, n, 1, n).mapInArrow(call, "task long, result string")
        return self._results(frame, n, n, run, label)

    def exchange(
        self,
        emit: Callable[[Any], Iterable[pa.RecordBatch]],
        tasks: Sequence[Any],
        schema: str,
        receive: Callable[[int, pa.Table], Any],
        n_targets: int,
        run: Run,
        label: str,
    ) -> list[Any]:
        """Send rows from tasks to targets; the results of `receive` for each target.

        Parameters
        ----------
        emit: called for each task, yields Arrow batches of the columns of `schema`.
        schema: as Spark writes it; the first column is `target int`, from 0 to n_targets - 1.
        receive: called with each target and its rows, in any order. Targets without rows are called too.
        """
        n = len(tasks)
        # A row for each target, so that the task of a target without rows knows whose it is.
        mark = partial(_target_markers, _columns_of(schema))
        with job_errors(label):
            sent = self.session.range(0, n, 1, n).mapInArrow(partial(_emit, emit, tasks), schema)
            markers = self.session.range(0, n_targets, 1, 1).mapInArrow(mark, schema)
            received = sent.unionAll(markers).repartitionById(n_targets, "target").mapInArrow(
                partial(_receive, receive, n_targets), "task long, result string"
            )  # fmt: skip
        return self._results(received, n_targets, n + n_targets + 1, run, label)

    def run_partitions(
        self, frame: Any, function: Callable[[int, Iterator[pa.RecordBatch]], Any], n: int, run: Run, label: str
    ) -> list[Any]:
        """The results of a function for each of the n partitions of a frame of Spark.

        function: called with the number of a partition and its rows. It returns a value of JSON.
        """
        results = frame.mapInArrow(partial(_call_on_partition, function), "task long, result string")
        return self._results(results, n, n, run, label)

    def _results(self, frame: Any, n: int, n_steps: int, run: Run, label: str) -> list[Any]:
        """Run the job of a frame of `task` and `result`: the results by task."""
        with job_errors(label), run.bar(label, n_steps) as advance:
            table = self._collect(frame, advance, label)
        results = dict(zip(table.column("task").to_pylist(), table.column("result").to_pylist()))
        if len(results) != n:
            raise EngineError(
                f"{label}: {len(results)} of {n} tasks have a result", remedy="see the log of the workers"
            )
        return [json.loads(results[task]) for task in range(n)]

    def _collect(self, frame: Any, advance: Advance, label: str) -> pa.Table:
        """The rows of a frame. The job runs in a thread of its own, so that this one hears Ctrl-C."""
        job = start_job(self.session, label, frame.toArrow)
        done = 0
        try:
            with noticed_interrupts() as interrupted:
                while job.is_running(_POLL_SECONDS):
                    if interrupted.is_set():  # it was raised in one of py4j's finalisers, and lost
                        raise KeyboardInterrupt
                    now = job.completed_tasks()
                    if now > done:
                        advance(now - done)
                        done = now
        except BaseException:
            # Also where its thread has ended, since Ctrl-C may cut the connection of the thread. A job that has not
            # reached the cluster yet cannot be cancelled: until its thread ends it is tried again.
            job.cancel()
            while job.is_running(_CANCEL_SECONDS):
                job.cancel()
            raise
        finally:
            job.close()
        if job.error is not None:
            raise job_error(job.error, label) from None
        return job.result

    def _count_slots(self) -> None:
        """Set the number of tasks that run at once."""
        self.slots = CONNECT_SLOTS if self.is_connect else int(self.session.sparkContext.defaultParallelism)

    def _check_workers(self) -> None:
        """Raises EngineError where workers do not see the shared folder or have another version of this package."""
        token = self.folder / "token"
        token.write_text(self.folder.name)
        inspect, quiet = partial(_inspect_worker, str(token)), Run(progress=False)
        reports = self.run_tasks(inspect, range(max(1, self.slots)), quiet, "opening the engine")
        if any(text != self.folder.name for _, text in reports):
            raise EngineError(
                f"the workers of {self.url} do not see {self.folder.parent}",
                remedy="name a folder of shared storage, at the same path on all machines: --engine-folder",
            )
        others = {version for version, _ in reports} - {__version__}
        if others:
            raise EngineError(
                f"the workers of {self.url} have zhiyin {', '.join(sorted(others))}, this is {__version__}",
                remedy="install the same version on all of them",
            )


def _inspect_worker(token: str, _: int) -> list[str]:
    """Version of this package on a worker, and the content of a file of the shared folder; "" where it is not seen."""
    path = Path(token)
    return [__version__, path.read_text() if path.exists() else ""]


# -- on the workers ----------------------------------------------------------------------------------------------------


def _call(
    function: Callable[[Any], Any], tasks: Sequence[Any], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for at in batch.column(0).to_pylist():
            with _failures_as_text():
                result = function(tasks[at])
            yield _result(at, result)


def _emit(
    function: Callable[[Any], Iterable[pa.RecordBatch]], tasks: Sequence[Any], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for at in batch.column(0).to_pylist():
            with _failures_as_text():
                yield from function(tasks[at])


def _call_on_partition(
    function: Callable[[int, Iterator[pa.RecordBatch]], Any], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    with _failures_as_text():
        result = function(context.partitionId(), batches)
    yield _result(context.partitionId(), result)


def _target_markers(columns: list[str], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A row for each target with nothing but its number."""
    import pyarrow as pa

    for batch in batches:
        targets = batch.column(0).cast(pa.int32())
        empty = [pa.nulls(len(targets), _arrow_type(column)) for column in columns[1:]]
        yield pa.RecordBatch.from_arrays([targets, *empty], names=[column.split()[0] for column in columns])


def _receive(
    function: Callable[[int, pa.Table], Any], n_targets: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = [batch for batch in batches if batch.num_rows]
    if not parts:
        return
    table = pa.Table.from_batches(parts)
    rows = table.filter(pc.is_valid(table.column(1)))  # without the row that names the target
    target = table.column(0)[0].as_py()
    with _failures_as_text():
        result = function(target, rows)
    yield _result(target, result)


@contextlib.contextmanager
def _failures_as_text() -> Iterator[None]:
    try:
        yield
    except ZhiyinError as error:
        raise TaskError(error) from error


def _result(task: int, value: Any) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_pydict({"task": [task], "result": [json.dumps(value)]})


def _columns_of(schema: str) -> list[str]:
    return [column.strip() for column in schema.split(",")]


def _arrow_type(column: str) -> Any:
    import pyarrow as pa

    types = {
        "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(), "string": pa.string(),
        "short": pa.int16(), "binary": pa.binary(),
    }  # fmt: skip
    return types[column.split()[1]]
