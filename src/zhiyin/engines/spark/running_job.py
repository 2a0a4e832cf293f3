"""A job that runs in a thread of its own: what of it is done, and its end on request.

A classic session tells by its status tracker how many tasks have ended, and cancels jobs by their group. Spark Connect
sends progress with the responses of an operation, and interrupts operations by their tag.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from typing import Any

from zhiyin.engines.spark.session import is_connect


class RunningJob:
    """See the module. Made by `start_job`.

    Parameters
    ----------
    work: starts the job and waits for its result.

    Attributes
    ----------
    result, error: of `work`, once it does not run any more; one of them is None.
    """

    def __init__(self, session: Any, label: str, work: Callable[[], Any]) -> None:
        self.session, self.label, self.group = session, label, f"zhiyin-{secrets.token_hex(6)}"
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name=f"zhiyin {label}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_running(self, seconds: float) -> bool:
        """Whether it runs still after so many seconds; returns as soon as it does not."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def completed_tasks(self) -> int:
        """Tasks that have ended, of all stages."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Ask the cluster to end the job; nothing where it does not know it, or is not there."""
        with contextlib.suppress(Exception):
            self._cancel()

    def close(self) -> None:
        """Release what was registered for the job."""

    def _run(self) -> None:
        try:
            self._name()
            self.result = self._work()
        except BaseException as error:
            self.error = error

    def _name(self) -> None:
        """Give the jobs of the present thread the name by which they are cancelled."""
        raise NotImplementedError

    def _cancel(self) -> None:
        raise NotImplementedError


class _ClassicJob(RunningJob):
    def completed_tasks(self) -> int:
        tracker = self.session.sparkContext.statusTracker()
        jobs = (tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(self.group))
        stages = (tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds)
        return sum(stage.numCompletedTasks for stage in stages if stage is not None)

    def _name(self) -> None:
        self.session.sparkContext.setJobGroup(self.group, self.label, True)

    def _cancel(self) -> None:
        self.session.sparkContext.cancelJobGroup(self.group)


class _ConnectJob(RunningJob):
    """The session has one job at a time, so that what it reports is of this one."""

    def __init__(self, session: Any, label: str, work: Callable[[], Any]) -> None:
        super().__init__(session, label, work)
        self._completed: dict[int, int] = {}

    def start(self) -> None:
        self.session.registerProgressHandler(self._on_progress)
        super().start()

    def completed_tasks(self) -> int:
        return sum(list(self._completed.values()))

    def close(self) -> None:
        self.session.removeProgressHandler(self._on_progress)

    def _on_progress(self, stages: Any, inflight_tasks: int, operation_id: str | None, done: bool) -> None:
        for stage in stages or ():
            self._completed[stage.stage_id] = stage.num_completed_tasks

    def _name(self) -> None:
        self.session.addTag(self.group)

    def _cancel(self) -> None:
        self.session.interruptTag(self.group)


def start_job(session: Any, label: str, work: Callable[[], Any]) -> RunningJob:
    """Run `work`, which starts one job of a session, in a thread. label: names the job where Spark shows it."""
    job = (_ConnectJob if is_connect(session) else _ClassicJob)(session, label, work)
    job.start()
    return job
