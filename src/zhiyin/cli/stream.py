"""`zhiyin stream`: start, watch and stop the jobs that Apache Flink runs over the log of events."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli import stream_sql
from zhiyin.cli.options import CONFIG, ConfigFile, Json
from zhiyin.cli.stream_load import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zhiyin.cli.project import Project
    from zhiyin.engines.flink.jobs_control import JobsControl, JobStatus
    from zhiyin.engines.flink.local_cluster import LocalCluster

LOCAL = "local"
# Parallel tasks of a job in a local cluster at most; it has slots for all jobs.
MAX_LOCAL_PARALLELISM = 2
app = typer.Typer(
    help="What Apache Flink computes while events arrive.", no_args_is_help=True, rich_markup_mode=None
)  # fmt: skip
Engine = Annotated[
    str | None, typer.Option("--engine", help="flink://host:8081, or local; default [streams] engine, else local.")
]
Jobs = Annotated[list[str] | None, typer.Option("--job", help="A job; may be repeated. Default: [streams] jobs.")]


@app.command()
def start(
    engine: Engine = None,
    job: Jobs = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget all results; compute them from the store again.")
    ] = False,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """Start the jobs that do not run. Each goes on where it ended: from its savepoint or its last checkpoint.

    A local cluster is started too, and what is missing of it: nobody else starts a process of it that died.

    \b
    Examples:
      zhiyin stream start
      zhiyin stream start --job trending --job histories
      zhiyin stream start --engine flink://jobmanager:8081
      zhiyin stream start --fresh
    """
    from zhiyin.cli.output import print_json, print_table
    from zhiyin.core.errors import ConfigError

    if fresh and job:
        raise ConfigError("--fresh is for all jobs: what was applied of one cannot be taken back",
                          remedy="leave out --job")  # fmt: skip
    streams = _Streams(config, engine, job)
    streams.offline_control().check_start(streams.names, fresh=fresh)
    with_cluster = streams.start_cluster()
    started = streams.control(with_cluster).start(streams.names, fresh=fresh, clear=streams.clear_state)
    if json:
        print_json({"engine": streams.engine, "address": with_cluster,
                    "jobs": [dataclasses.asdict(entry) for entry in started]})  # fmt: skip
        return
    print_table(
        ("job", "state", "from", "id"),
        [(entry.name, "was running" if entry.was_running else "started",
          "" if entry.was_running else entry.restored or "the first segment", entry.job_id) for entry in started],
        f"Flink at {with_cluster}",
    )  # fmt: skip


@app.command()
def status(engine: Engine = None, job: Jobs = None, config: ConfigFile = CONFIG, json: Json = False) -> None:
    """What the jobs do: state, rows since their tasks started, restarts after failures, last checkpoint.

    \b
    Examples:
      zhiyin stream status
      zhiyin stream status --json
    """
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.engines.flink.rest import JobManager

    streams = _Streams(config, engine, job, need_python=False)
    address = streams.address()
    if address is None:
        say(f"no local cluster runs in {streams.folder / 'cluster'}: zhiyin stream start")
        statuses, taskmanagers = streams.offline(), 0
    else:
        statuses = streams.control(address).status(streams.names)
        taskmanagers = JobManager(address).overview()["taskmanagers"]
    if streams.cluster is not None and address is not None and not streams.cluster.state().taskmanagers:
        say("no TaskManager runs, so no job does: zhiyin stream start starts one")
    if json:
        print_json({"engine": streams.engine, "address": address, "taskmanagers": taskmanagers,
                    "jobs": [_status_json(entry) for entry in statuses]})  # fmt: skip
        return
    print_table(
        ("job", "state", "since", "rows in", "rows out", "restarts", "last checkpoint", "last failure"),
        [(entry.name, entry.state, _moment(entry.since), entry.rows_in, entry.rows_out, entry.restarts,
          _checkpoint(entry), entry.failure) for entry in statuses],
        f"Flink at {address}, TaskManagers: {taskmanagers}" if address else "",
    )  # fmt: skip


@app.command()
def stop(engine: Engine = None, job: Jobs = None, config: ConfigFile = CONFIG, json: Json = False) -> None:
    """Take a savepoint of each job and end it; `start` goes on from there. A local cluster is ended too.

    \b
    Examples:
      zhiyin stream stop
      zhiyin stream stop --job sessions
      zhiyin stream stop --engine flink://jobmanager:8081
    """
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.core.errors import EngineError

    streams = _Streams(config, engine, job, need_python=False)
    address = streams.address()
    stopped, failed = [], ""
    if address is not None:
        try:
            stopped = streams.control(address).stop(streams.names)
        except EngineError as error:
            if streams.cluster is None:
                raise
            # Nothing is lost: jobs go on from their last checkpoints.
            failed = error.message
            say(f"no savepoints: {failed}; the cluster is ended all the same")
    ended = streams.stop_cluster(all_jobs=job is None)
    if json:
        print_json({"engine": streams.engine, "address": address, "cluster_ended": ended, "failure": failed or None,
                    "jobs": [dataclasses.asdict(entry) for entry in stopped]})  # fmt: skip
        return
    if stopped:
        print_table(
            ("job", "state", "savepoint"),
            [(entry.name, "stopped" if entry.was_running else "did not run",
              f"none: {entry.failure}" if entry.failure else entry.savepoint) for entry in stopped],
        )  # fmt: skip
    if streams.cluster is not None:
        say("the local cluster is ended" if ended else "no local cluster runs" if address is None else "")


app.command()(load)


class _Streams:
    """The streams of a project, and the engine that is named.

    Parameters
    ----------
    need_python: whether Flink's environment has to be there, as it has to submit jobs.
    """

    def __init__(self, config: Path, engine: str | None, jobs: Sequence[str] | None, need_python: bool = True) -> None:
        from zhiyin.data.project_config import streams_folder
        from zhiyin.engines.flink.flink_python import flink_python
        from zhiyin.engines.flink.jobs import JOBS
        from zhiyin.engines.flink.local_cluster import LocalCluster
        from zhiyin.engines.flink.rest import parse_address

        self.project = _open_project(config)
        settings = self.project.config.streams
        self.settings, self.folder = settings, streams_folder(self.project.config, self.project.home).absolute()
        self.engine = engine or settings.engine or LOCAL
        self.names = list(dict.fromkeys(jobs or settings.jobs))
        self.python = flink_python(settings.python, self.project.home) if need_python else Path("python")
        self.parallelism = min(os.cpu_count() or 1, MAX_LOCAL_PARALLELISM) if self.engine == LOCAL else None
        self.cluster: LocalCluster | None = None
        self._address = None if self.engine == LOCAL else parse_address(self.engine)
        if self.parallelism is not None:
            self.cluster = LocalCluster(self.folder / "cluster", self.python, slots=len(JOBS) * self.parallelism)

    def address(self) -> str | None:
        """ "host:port" of the JobManager; None where the local cluster does not run."""
        return self._address if self.cluster is None else self.cluster.state().address

    def start_cluster(self) -> str:
        """Start what is missing of the local cluster. Returns the address of the JobManager."""
        if self.cluster is None:
            assert self._address is not None
            return self._address
        return self.cluster.start()

    def stop_cluster(self, all_jobs: bool) -> bool:
        """End the local cluster, unless jobs that were not named still run. Returns whether it was ended."""
        from zhiyin.engines.flink.rest import JobManager

        if self.cluster is None:
            return False
        state = self.cluster.state()
        if not all_jobs and state.address and any(not job.ended for job in JobManager(state.address).jobs()):
            return False
        return self.cluster.stop()

    def control(self, address: str) -> JobsControl:
        """The jobs on the cluster whose JobManager is at "host:port"."""
        from zhiyin.core.durations import UNITS, microseconds
        from zhiyin.engines.flink.jobs import JobOptions
        from zhiyin.engines.flink.jobs_control import JobsControl

        seconds = microseconds(self.settings.checkpoint) / UNITS["s"]
        options = JobOptions(self.folder, self.settings.source, seconds, parallelism=self.parallelism)
        daemons = None if self.cluster is None else self.cluster.daemons
        return JobsControl(options, address, self.python, daemons)

    def offline_control(self) -> JobsControl:
        """The jobs while no cluster runs: what their folder tells."""
        return self.control("127.0.0.1:0")

    def offline(self) -> list[JobStatus]:
        """The status of jobs while no cluster runs."""
        control = self.offline_control()
        control.check_names(self.names)
        return [control.offline_status(name) for name in self.names]

    def clear_state(self) -> None:
        """Forget what was applied to the streamed state of the store."""
        from zhiyin.cli.project import opened_store
        from zhiyin.cli.streams import opened_stream_state

        if self.project.config.service.streams is not None:
            with (
                opened_store(self.project, create=True) as store,
                opened_stream_state(self.project, store) as state,
            ):
                state.clear()


def _open_project(config: Path) -> Project:
    """The project; `zhiyin serve` needs no settings file, nor do its streams."""
    from zhiyin.cli.project import open_project, project_of
    from zhiyin.data.project_config import Config

    return open_project(config) if config != CONFIG or config.is_file() else project_of(Config(), config.parent)


def _status_json(status: JobStatus) -> dict[str, Any]:
    values = dataclasses.asdict(status)
    names = ("time", "seconds", "bytes")
    return values | {"checkpoint": dict(zip(names, status.checkpoint)) if status.checkpoint else None}


def _moment(seconds: float | None) -> str:
    from datetime import UTC, datetime

    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _checkpoint(status: JobStatus) -> str:
    if status.checkpoint is None:
        return f"goes on from {status.resume}" if status.resume else ""
    moment, seconds, size = status.checkpoint
    return f"{max(0.0, time.time() - moment):.0f} s ago, {seconds:.1f} s, {size / 1e6:.1f} MB"


app.command()(stream_sql.sql)
