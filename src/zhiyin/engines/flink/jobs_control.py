"""Start, watch and stop the jobs of a folder of streams on a Flink cluster.

    control = JobsControl(options, "127.0.0.1:8081", python)
    control.start(["trending", "histories"])
    control.status(["trending", "histories"])
    control.stop(["trending", "histories"])

A job that starts goes on from its newest restore point: the savepoint that `stop` took, or the last checkpoint of a run
that was lost with its cluster. Its output is exact then: a file of output is visible only from the checkpoint on that
covers it, and what came after the restore point is computed again.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zhiyin.core.errors import ConfigError, EngineError
from zhiyin.core.file_locks import exclusive_lock
from zhiyin.core.run import log
from zhiyin.engines.flink import submit
from zhiyin.engines.flink.daemons import Daemons
from zhiyin.engines.flink.jobs import JOBS, JobOptions, json_object, submission
from zhiyin.engines.flink.rest import FINAL_STATES, SEE_LOGS, JobManager
from zhiyin.engines.flink.restore_points import RestorePoint, RestorePoints
from zhiyin.engines.flink.stream_record import RecordedJob, StreamRecord
from zhiyin.engines.stream_loader import DELETED_FILE
from zhiyin.engines.stream_loader import LOCK_FILE as LOADER_LOCK
from zhiyin.store.segment_export import LOCK_FILE as EXPORTER_LOCK
from zhiyin.store.segment_export import STORE_FILE
from zhiyin.store.segment_files import cut_off_segment, folder_errors, make_streams_folder

# Seconds until a job has to run, the submission apart.
RUN_SECONDS = 180
SUBMIT_SECONDS = 300
# Restarts of a job that never ran after which it counts as failed: it would fail for ever.
MAX_FAILED_STARTS = 3
INPUT_FOLDERS = ("events", "impressions")
# There while a fresh start forgets; one that was killed meanwhile is completed by the next start.
FORGETTING = ".forgetting"
# Held by a start or stop of jobs.
CONTROL_LOCK = ".control.lock"


@dataclass(frozen=True)
class StartedJob:
    """A job that `start` found or submitted. restored: None where it begins at the first segment."""

    name: str
    job_id: str
    was_running: bool
    restored: str | None


@dataclass(frozen=True)
class JobStatus:
    """What a job does.

    Parameters
    ----------
    state: of Flink's, such as RUNNING or RESTARTING; "STOPPED" with a savepoint; "LOST" where the cluster does not know
        the run any more; "NEVER STARTED".
    since: seconds since the epoch at which this run was submitted; None where no run is known.
    rows_in, rows_out: since the last start or restart of its tasks; None where it does not run.
    restarts: after failures, of this run.
    checkpoint: of the last complete checkpoint of this run seconds since the epoch, seconds it took and bytes of it.
    failure: first cause of the last failure.
    resume: the restore point from which `start` would go on; None where it runs, or would begin anew.
    """

    name: str
    state: str
    job_id: str | None = None
    since: float | None = None
    rows_in: int | None = None
    rows_out: int | None = None
    restarts: int | None = None
    checkpoint: tuple[float, float, int] | None = None
    failure: str | None = None
    resume: str | None = None


@dataclass(frozen=True)
class StoppedJob:
    """A job that `stop` found. savepoint: None where it did not run, or `failure` says why it has none."""

    name: str
    was_running: bool
    savepoint: str | None
    failure: str | None = None


class JobsControl:
    """The jobs of one folder on one cluster.

    Parameters
    ----------
    options: of all jobs; the folder is one that the cluster sees under this path.
    address: "host:port" of the JobManager.
    python: of Flink's environment, which submits.
    daemons: of the local cluster, whose end is the end of what submits too.
    """

    def __init__(self, options: JobOptions, address: str, python: Path, daemons: Daemons | None = None) -> None:
        self.options, self.address, self.python, self.daemons = options, address, python, daemons
        self.folder = options.folder
        self.jobmanager = JobManager(address)
        self.record = StreamRecord(self.folder)

    # -- start ---------------------------------------------------------------------------------------------------------

    def start(
        self, names: Sequence[str], *, fresh: bool = False, clear: Callable[[], None] | None = None
    ) -> list[StartedJob]:
        """Start the jobs that do not run, and wait until they do.

        Parameters
        ----------
        fresh: forget segments, savepoints, checkpoints and output of all jobs: the exporter writes all segments again.
        clear: forgets what was applied of the output; called for `fresh`, while no loader works.

        Raises ConfigError for `fresh` while jobs, an exporter or a loader run, EngineError with the first cause where a
        job fails at once or is not submitted.
        """
        self.check_names(names)
        with self._locked() as lock:
            self.jobmanager.overview()  # whether it answers, before anything is changed
            recorded, running = self._runs()
            if fresh or (self.folder / FORGETTING).exists():
                self._forget(running, clear)
                recorded = {}
            for folder in (*INPUT_FOLDERS, "output", "checkpoints", "savepoints"):
                make_streams_folder(self.folder / folder)
            missing = [name for name in names if name not in running]
            points = {name: RestorePoints(self.folder, name).latest() for name in missing}
            runs = {name: self._next_run(recorded.get(name), points[name]) for name in missing}
            if missing:
                for name in missing:
                    self.record.put(name, runs[name])
                log.info("submitting %s", ", ".join(missing))
                self._submit(runs, lock)
                for name in missing:
                    self.record.put(name, replace(runs[name], submitted=True))
                self._wait_until_running(runs)
                for name in missing:
                    RestorePoints(self.folder, name).remove_older(runs[name].job_id)
            return [
                StartedJob(name, running[name], True, None) if name in running
                else StartedJob(name, runs[name].job_id, False, runs[name].restored)
                for name in names
            ]  # fmt: skip

    def check_start(self, names: Sequence[str], *, fresh: bool = False) -> None:
        """Raises the errors of `start` that need no cluster, so that none is started in vain."""
        self.check_names(names)
        if (fresh and self.folder.is_dir()) or (self.folder / FORGETTING).exists():
            with self._idle():
                pass

    @contextmanager
    def _idle(self) -> Iterator[None]:
        """Keep exporters and loaders from beginning. Raises ConfigError where one is at work."""
        remedy = "end zhiyin serve, zhiyin store stream and zhiyin stream load while streams start afresh"
        with (
            exclusive_lock(self.folder / EXPORTER_LOCK, "an exporter is at work", remedy),
            exclusive_lock(self.folder / LOADER_LOCK, "a loader is at work", remedy),
        ):
            yield

    def check_names(self, names: Sequence[str]) -> None:
        """Raises ConfigError for a job that there is not."""
        for name in names:
            if name not in JOBS:
                raise ConfigError(f"there is no job {name!r}", remedy=f"jobs are {', '.join(JOBS)}")

    def _runs(self) -> tuple[dict[str, RecordedJob], dict[str, str]]:
        """Recorded jobs of this cluster by name, and the ids of those that run."""
        recorded = self.record.jobs()
        states = {job.id: job for job in self.jobmanager.jobs()}
        running = {}
        for name, entry in recorded.items():
            job = states.get(entry.job_id)
            if job is not None and job.state in ("CANCELLING", "FAILING"):
                self.jobmanager.wait_for_end(job.id)
            elif job is not None and not job.ended:
                running[name] = job.id
            elif job is None and entry.address != self.address and entry.savepoint is None:
                self._refuse_second_cluster(name, entry)
        return recorded, running

    def _refuse_second_cluster(self, name: str, entry: RecordedJob) -> None:
        """A job that still runs on another cluster would count every event a second time."""
        try:
            state = JobManager(entry.address, timeout=3).state(entry.job_id)
        except EngineError:
            return  # gone with its cluster
        if state is not None and state not in FINAL_STATES:
            raise EngineError(f"{name} runs on another cluster, {entry.address}",
                              remedy=f"zhiyin stream stop --engine flink://{entry.address}")  # fmt: skip

    def _forget(self, running: dict[str, str], clear: Callable[[], None] | None) -> None:
        """Forget segments and all that was computed of them, while nobody writes or applies any of it."""
        if running:
            raise ConfigError(f"{', '.join(running)} still run", remedy="zhiyin stream stop, then start --fresh")
        with self._idle():
            (self.folder / FORGETTING).touch()
            if clear is not None:
                clear()
            for file in (DELETED_FILE, STORE_FILE):
                (self.folder / file).unlink(missing_ok=True)
            self.record.path.unlink(missing_ok=True)
            for name in JOBS:
                RestorePoints(self.folder, name).remove()
            # An exporter that finds no segment begins at the first event: histories are complete only then.
            for folder in ("output", *INPUT_FOLDERS):
                shutil.rmtree(self.folder / folder, ignore_errors=True)
            (self.folder / FORGETTING).unlink()

    def _next_run(self, last: RecordedJob | None, point: RestorePoint | None) -> RecordedJob:
        """The run to be submitted. An id that was never confirmed is used again: Flink takes no id twice."""
        unconfirmed = last is not None and not last.submitted and last.address == self.address
        job_id = last.job_id if last is not None and unconfirmed and self.jobmanager.state(last.job_id) is None else ""
        return RecordedJob(
            job_id or secrets.token_hex(16), self.address, restored=None if point is None else str(point.path)
        )

    def _settings(self, name: str, run: RecordedJob) -> dict[str, str]:
        """Options of Flink of one job. Checkpoints are found again by the folder of the job."""
        return {
            "$internal.pipeline.job-id": run.job_id,
            "execution.checkpointing.dir": self._uri("checkpoints", name),
            "execution.checkpointing.savepoint-dir": self._uri("savepoints", name),
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            # A restore point that was resumed from is removed once a checkpoint has taken its place.
            "execution.state-recovery.claim-mode": "CLAIM",
        }

    def _uri(self, *parts: str) -> str:
        """A folder as Flink names it. Flink encodes special characters itself."""
        return f"file://{self.folder.joinpath(*parts).as_posix()}"

    def _submit(self, runs: dict[str, RecordedJob], lock: int) -> None:
        """Submit through Flink's Python, which holds the lock too: no second start, while it still works."""
        request = submission(
            list(runs), self.options, self.address,
            {name: run.restored for name, run in runs.items() if run.restored is not None},
        )  # fmt: skip
        for job in request["jobs"]:
            job["settings"] = {**(job.get("settings") or {}), **self._settings(job["name"], runs[job["name"]])}
        # Its JVM lives for seconds: the optimising compiler would cost more than it saves.
        options = f"{os.environ.get('JVM_ARGS', '')} -XX:TieredStopAtLevel=1".strip()
        environment = {**os.environ, "JVM_ARGS": options}
        if self.daemons is not None:
            environment |= self.daemons.environment("submit")
        conf = self.folder / "cluster" / "conf"
        if "FLINK_CONF_DIR" not in environment and conf.is_dir():
            environment |= {"FLINK_CONF_DIR": str(conf), "FLINK_LOG_DIR": str(self.folder / "cluster" / "log")}
        process = subprocess.Popen(
            [str(self.python), str(submit.__file__)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True, pass_fds=[lock],
        )  # fmt: skip
        try:
            output, errors = process.communicate(json.dumps(request) + "\n", timeout=SUBMIT_SECONDS)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise EngineError(f"no job is submitted to {self.address} within {SUBMIT_SECONDS} s",
                                  remedy=SEE_LOGS) from None  # fmt: skip
            raise
        submitted = [value for line in output.splitlines() if (value := json_object(line)) is not None]
        for line in submitted:
            if "error" in line:
                what = f"{line['job']} is not submitted" if line.get("job") else "nothing is submitted"
                raise EngineError(f"{what} to {self.address}: {line['error']}", remedy=SEE_LOGS)
        if process.returncode != 0 or {line.get("job") for line in submitted} != runs.keys():
            last = next((line for line in reversed(errors.splitlines()) if line.strip()), "no message")
            raise EngineError(f"{self.python} submits nothing: {last.strip()[:300]}", remedy="see docs/flink.md")

    def _wait_until_running(self, runs: dict[str, RecordedJob]) -> None:
        """Wait until all tasks of the jobs run. Raises EngineError for one that fails, which is cancelled."""
        deadline = time.monotonic() + RUN_SECONDS
        waiting = dict(runs)
        while waiting:
            for name, run in list(waiting.items()):
                job = self.jobmanager.job(run.job_id)
                tasks = {vertex["status"] for vertex in job["vertices"]}
                if job["state"] == "RUNNING" and tasks <= {"RUNNING", "FINISHED"}:
                    del waiting[name]
                    continue
                # A restart for want of slots ends as soon as a TaskManager is there.
                restarts = self.jobmanager.job_metrics(run.job_id, "numRestarts").get("numRestarts", 0)
                late = time.monotonic() > deadline
                if job["state"] in FINAL_STATES or restarts >= MAX_FAILED_STARTS or late:
                    cause = self._failure(run.job_id) or self._unstarted(job["state"], tasks)
                    if job["state"] not in FINAL_STATES:
                        self.jobmanager.cancel(run.job_id)
                        self.jobmanager.wait_for_end(run.job_id)
                    raise EngineError(f"{name} fails at once: {cause}", remedy=_remedy(cause))
            time.sleep(0.1)

    def _unstarted(self, state: str, tasks: set[str]) -> str:
        """Why a job that did not fail does not run."""
        if state == "RUNNING" and tasks & {"CREATED", "SCHEDULED"}:
            free, slots = (self.jobmanager.overview()[name] for name in ("slots-available", "slots-total"))
            return f"its tasks wait for slots after {RUN_SECONDS} s; {free} of {slots} slots are free"
        return f"it is {state} after {RUN_SECONDS} s"

    # -- status and stop -----------------------------------------------------------------------------------------------

    def status(self, names: Sequence[str]) -> list[JobStatus]:
        """What the jobs do, in the order of the names."""
        self.check_names(names)
        recorded = self.record.jobs()
        jobs = {job.id: job for job in self.jobmanager.jobs()}
        states = []
        for name in names:
            entry = recorded.get(name)
            job = jobs.get(entry.job_id) if entry is not None else None
            if entry is None or job is None or job.ended:
                states.append(self.offline_status(name, job.state if job is not None else None))
                continue
            detail = self.jobmanager.job(job.id)
            rows_in, rows_out = self._rows(detail)
            restarts = self.jobmanager.job_metrics(job.id, "numRestarts").get("numRestarts")
            completed = self.jobmanager.checkpoints(job.id)["latest"].get("completed")
            states.append(JobStatus(
                name, job.state, job.id, job.start, rows_in, rows_out, None if restarts is None else int(restarts),
                completed and (completed["latest_ack_timestamp"] / 1000, completed["end_to_end_duration"] / 1000,
                               completed["state_size"]),
                self._failure(job.id),
            ))  # fmt: skip
        return states

    def offline_status(self, name: str, state: str | None = None) -> JobStatus:
        """The status of a job that does not run. state: of Flink's, where the cluster still knows it."""
        entry, point = self.record.jobs().get(name), RestorePoints(self.folder, name).latest()
        resume = None if point is None else str(point.path)
        if entry is None:
            return JobStatus(name, "NEVER STARTED", resume=resume)
        if entry.savepoint is not None or state == "FINISHED":
            return JobStatus(name, "STOPPED", entry.job_id, resume=resume)
        failure = None
        if state == "FAILED":
            failure = self._failure(entry.job_id)
        return JobStatus(name, state or "LOST", entry.job_id, failure=failure, resume=resume)

    def _failure(self, job_id: str) -> str | None:
        """The first cause of the latest failure of a job. Flink does not say which file holds what is no JSON."""
        cause = self.jobmanager.failure(job_id)
        segment = cut_off_segment(self.folder, INPUT_FOLDERS) if cause is not None and "Json" in cause else None
        return cause if segment is None else f"{segment} is damaged: {cause}"

    def _rows(self, job: dict[str, Any]) -> tuple[int, int]:
        """Rows that the sources of a job have read and its sinks have written."""
        rows_in = rows_out = 0.0
        for vertex in job["vertices"]:
            read = self.jobmanager.operator_sums(job["jid"], vertex["id"], "numRecordsOut")
            rows_in += sum(value for name, value in read.items() if name.startswith("Source__"))
            written = self.jobmanager.operator_sums(job["jid"], vertex["id"], "numRecordsIn")
            rows_out += sum(value for name, value in written.items() if name.startswith("StreamingFileWriter"))
        return int(rows_in), int(rows_out)

    def stop(self, names: Sequence[str]) -> list[StoppedJob]:
        """Take a savepoint of each job that runs, and end it.

        A job of which no savepoint can be taken, for want of a TaskManager, is cancelled: it goes on from its last
        checkpoint, which is as exact.
        """
        self.check_names(names)
        with self._locked():
            recorded, running = self._runs()
            stopped = []
            for name in names:
                if name not in running:
                    stopped.append(StoppedJob(name, False, recorded[name].savepoint if name in recorded else None))
                    continue
                savepoint, failure = self._stop(name, running[name])
                self.record.put(name, replace(recorded[name], submitted=True, savepoint=savepoint))
                stopped.append(StoppedJob(name, True, savepoint, failure))
            return stopped

    def _stop(self, name: str, job_id: str) -> tuple[str | None, str | None]:
        """The savepoint of a job that was ended, or the reason why it has none."""
        try:
            savepoint = self.jobmanager.stop_with_savepoint(job_id, self._uri("savepoints", name))
            self.jobmanager.wait_for_end(job_id)
            return savepoint, None
        except EngineError as error:
            if self.jobmanager.state(job_id) not in (None, *FINAL_STATES):
                log.warning("%s: %s; it is cancelled, and goes on from its last checkpoint", name, error.message)
                self.jobmanager.cancel(job_id)
                self.jobmanager.wait_for_end(job_id)
            return None, error.message

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """One start or stop of a folder at a time. Yields the descriptor that holds the lock."""
        make_streams_folder(self.folder)
        with folder_errors(self.folder):
            descriptor = os.open(self.folder / CONTROL_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another start or stop in %s is at work: waiting for it", self.folder)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


def _remedy(cause: str) -> str:
    """What to do about a job that fails at once."""
    if "slot" in cause.lower() or "NoResourceAvailable" in cause:
        return "the cluster has too few free slots: start TaskManagers, or fewer jobs by --job"
    if "savepoint" in cause.lower() or "restore" in cause.lower() or "state" in cause.lower():
        return "its state is of another version: zhiyin stream start --fresh computes all again from the store"
    return SEE_LOGS
