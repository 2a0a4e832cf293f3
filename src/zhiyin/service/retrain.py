"""Retraining beside the service: at set times, in a process of its own that leaves the processor to answering.

    retrainer = Retrainer(Path("zhiyin.toml"), Schedule.parse("0 3 * * *"), "30m")
    retrainer.status()      # {"running": False, "next": "2026-05-04T03:00:00+00:00", ...}
    retrainer.close()       # ends a running training; the version in use stays

The process is `zhiyin train --budget`, of a lower priority; on Linux it also runs only a share of the time, see
`zhiyin.service.training_share`, and ends with the service however that ends. It trains on the files and the store, and
promotes the new version if the gate lets it pass. The service notices that like any promotion. The folder of the
versions holds

    retrain.json   when the last training began and how it ended; a service that is started again continues from it
    retrain.log    output of the training; at 1 MB it becomes retrain.log.1
    .training      lock: of all services and people, one trains at a time
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from zhiyin.core.atomic_files import read_json, sweep, write_json
from zhiyin.core.durations import is_duration, microseconds
from zhiyin.core.errors import ConfigError, DataError, MissingExtraError, ZhiyinError
from zhiyin.core.run import available_cores, log
from zhiyin.data.project_config import load_config
from zhiyin.pipeline.model_versions import TRAINING_LOCK, Bundles
from zhiyin.service.training_process import PARENT
from zhiyin.service.training_share import RunDelays, ShareController, TrainingShare, service_processes

# Versions that are not deleted, besides the one in use and the one before.
MAX_OLD_VERSIONS = 5
# Bytes of the log, and of its end that the message of a failure holds.
MAX_LOG_BYTES, TAIL_BYTES = 1_000_000, 4_096
# Seconds between two checks whether to stop, and of the schedule; that a training has to end by itself.
POLL_SECONDS, SCHEDULE_POLL_SECONDS, GRACE_SECONDS = 0.2, 30.0, 10.0
# Priority of a training, of -20 (highest) to 19. One of the lowest would get no time at all on cores that are busy.
NICENESS = 10
# The shortest time between two trainings.
MIN_PERIOD = timedelta(minutes=1)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When to train.

    Parameters
    ----------
    text: the schedule as written.
    every: time from one start to the next; None where `text` is a cron expression, in UTC: minute, hour, day, month,
        weekday.
    """

    text: str
    every: timedelta | None = None

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """The schedule of "6h" or "0 3 * * *". Raises ConfigError for what is neither."""
        if is_duration(text):
            every = timedelta(microseconds=microseconds(text))
            if not MIN_PERIOD <= every <= timedelta(days=3_660):
                raise ConfigError(f"to train every {text} makes no sense", remedy="from 1m to 10y, such as 6h")
            return cls(text, every)
        schedule = cls(text)
        schedule.next(datetime.now(UTC))
        return schedule

    def next(self, after: datetime) -> datetime:
        """The first due time after a time, UTC."""
        after = after.astimezone(UTC)
        if self.every is not None:
            return after + self.every
        try:
            from cronsim import CronSim, CronSimError
        except ImportError:
            raise MissingExtraError("cronsim", "serve", "a schedule of minute, hour, day, month, weekday") from None
        try:
            if len(self.text.split()) != 5:
                raise CronSimError("not five fields")
            return next(CronSim(self.text, after))
        except (CronSimError, StopIteration, OverflowError) as error:
            why = f" ({error})" if str(error) else ""
            raise ConfigError(
                f"{self.text!r} is no schedule{why}",
                remedy='a duration such as "6h", or minute hour day month weekday: "0 3 * * *"',
            ) from None

    def due(self, begun: datetime | None, opened: datetime) -> datetime:
        """When to train next.

        A period that has passed in the meantime is due at once; missed times of a cron expression are skipped.

        Parameters
        ----------
        begun: start of the last training; None: there was none.
        opened: when the retrainer was started.
        """
        if self.every is not None:
            return self.next(begun or opened)
        return self.next(max(begun or opened, opened))


class Retrainer:
    """Trains at the due times: a thread waits, a process trains.

    Parameters
    ----------
    config: the settings file of the project.
    schedule: when to train.
    budget: time budget of a training, such as "30m".
    on_done: called with `status()` after each training, from the thread.
    store: address of the store, where the service uses another one than the settings say.
    threads: worker threads of the training; default half of the cores.
    share: the largest share of the time that the training runs, of MIN_SHARE to 1, as `[service] train_share`.
    bundles: the versions of the project; None: where the settings say.
    used_versions: gives the versions that are not deleted, however old, such as those of experiments.
    """

    def __init__(
        self,
        config: str | Path,
        schedule: Schedule | str,
        budget: str = "30m",
        on_done: Callable[[dict[str, Any]], None] | None = None,
        *,
        store: str | None = None,
        threads: int | None = None,
        share: float = 1.0,
        bundles: Bundles | None = None,
        used_versions: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self.config, self.budget, self.store = Path(config).resolve(), budget, store
        self.schedule = Schedule.parse(schedule) if isinstance(schedule, str) else schedule
        self.limit = 4 * microseconds(budget) / 1e6 + 3_600
        self.threads, self.share = threads or max(1, available_cores() // 2), share
        self.bundles = bundles or Bundles(self.config.parent / load_config(self.config).train.output / "bundles")
        self._on_done, self._used_versions = on_done, used_versions
        self._opened = datetime.now(UTC)
        self._tried: datetime | None = None
        self._damaged = False  # whether `retrain.json` was
        self._child: subprocess.Popen[bytes] | None = None
        self._requested, self._closing, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="zhiyin-retrain", daemon=True)
        self._thread.start()

    def now(self) -> None:
        """Train at once, whatever the schedule says; does nothing while a training runs."""
        self._requested.set()
        self._wake.set()

    def close(self) -> None:
        """End a running training and remove its files. Returns within about ten seconds."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def status(self) -> dict[str, Any]:
        """`running`, `schedule`, `next`; of the last training `started`, `ended`, `outcome`, `version`, `message`.

        Times are ISO 8601, UTC. Outcomes: "promoted", "kept" (saved, but not put in use), "failed", "stopped" (by the
        end of the service). Without an outcome it runs, or a service was killed during it.
        """
        last = self._last()
        return {
            "running": self._child is not None,
            "schedule": self.schedule.text,
            "next": None if self._closing.is_set() else self._due(last).isoformat(timespec="seconds"),
            **{name: last.get(name) for name in ("started", "ended", "outcome", "version", "message")},
        }

    # -- when -------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            left = (self._due(self._last()) - datetime.now(UTC)).total_seconds()
            if left > 0 and not self._requested.is_set():
                self._wake.wait(min(left, SCHEDULE_POLL_SECONDS))
                continue
            try:
                self._take_turn()
            except Exception as error:  # serving goes on; the next due time is another try
                self._tried = datetime.now(UTC)
                log.warning("training: %s", error)
            self._requested.clear()

    def _due(self, last: dict[str, Any]) -> datetime:
        begun = [datetime.fromisoformat(last["started"])] if last else []
        tried = [self._tried] if self._tried is not None else []
        return self.schedule.due(max(begun + tried, default=None), self._opened)

    def _last(self) -> dict[str, Any]:
        """The record of the last training; empty where there was none or it cannot be read."""
        try:
            record = read_json(self.bundles.folder / "retrain.json", "it is written anew", names=("started",))
            datetime.fromisoformat(record["started"])
            return record
        except FileNotFoundError:
            return {}
        except (DataError, ValueError, TypeError) as error:
            if not self._damaged:  # logged once, since this runs every half minute
                log.warning("training: what is known of the last one cannot be read: %s", error)
            self._damaged = True
            return {}

    def _write_record(self, record: dict[str, Any]) -> None:
        write_json(self.bundles.folder / "retrain.json", record)
        self._damaged = False

    # -- one training -----------------------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        now = datetime.now(UTC)
        with self.bundles.training() as lock:
            # Another service may have trained in the meantime.
            if not self._requested.is_set() and self._due(self._last()) > now:
                return
            self._tried = now
            record: dict[str, Any] = {"started": _iso(now), "ended": None, "outcome": None}
            self._write_record(record)
            record |= self._train(lock)
            record["ended"] = _iso(datetime.now(UTC))
            self._write_record(record)
        if record["outcome"] == "failed":  # output of the training may name users: it stays in retrain.log
            log.warning("training: failed: %s; see retrain.log", str(record["message"]).partition(":")[0])
        else:
            log.info("training: %s%s", record["outcome"], f": {record['message']}" if record.get("message") else "")
        if self._on_done is not None:
            self._on_done(self.status())

    def _train(self, lock: int) -> dict[str, Any]:
        """Run the training process until it ends. Returns `outcome`, `version`, `message`."""
        before = self.bundles.versions()
        output = _RotatingLog(self.bundles.folder / "retrain.log")
        output.write(f"-- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: training within {self.budget}\n".encode())
        child = subprocess.Popen(
            self._command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=self._environment(lock), process_group=0, pass_fds=(lock,),
        )  # fmt: skip
        self._child = child
        running_share = TrainingShare(child.pid, ShareController(self.share), RunDelays(service_processes))
        try:
            _lower_priority(child.pid)
            if sys.platform == "linux":
                running_share.start()
            ended = self._follow(child, output)
        finally:
            running_share.close()  # a stopped process would not end
            _end(child)
            self._child = None
            sweep(self.bundles.folder, child.pid)
        if ended != "by itself":
            return {"outcome": "stopped" if ended == "stopped" else "failed", "message": ended}
        new = [version for version in self.bundles.versions() if version not in before]
        if child.returncode != 0 or not new:
            how = f"exit code {child.returncode}" if child.returncode >= 0 else f"signal {-child.returncode}"
            return {"outcome": "failed", "message": f"{how}: {output.end()}"}
        why = str(self.bundles.get(new[-1]).report().get("judged", {}).get("why", ""))
        try:
            promoted = self.bundles.current_number == new[-1]
            deleted = self._prune()
        except DataError as error:  # the version in use is unknown: none is deleted
            log.warning("training: version %d is not in use: %s", new[-1], error)
            promoted, deleted = False, []
        if deleted:
            log.info("training: old versions deleted: %s", ", ".join(map(str, deleted)))
        return {"outcome": "promoted" if promoted else "kept", "version": new[-1], "message": why}

    def _prune(self) -> list[int]:
        """Delete old versions that nothing uses; returns their numbers."""
        try:
            used = self._used_versions()
        except ZhiyinError as error:  # such as of a store that is away: which are used is unknown
            log.warning("training: no old version is deleted: %s", error.message)
            return []
        return self.bundles.prune(MAX_OLD_VERSIONS, used)

    def _command(self) -> list[str]:
        """The command of the training, of a low priority from its start."""
        prefix = ["nice", "-n", str(NICENESS)] if shutil.which("nice") else []
        # -P: modules of the working folder are not imported.
        return [*prefix, sys.executable, "-P", "-m", "zhiyin.service.training_process", "train", "--budget",
                self.budget, "--json", "--threads", str(self.threads), "--config", str(self.config)]  # fmt: skip

    def _environment(self, lock: int) -> dict[str, str]:
        environment = dict(os.environ)
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment |= {"POLARS_MAX_THREADS": str(self.threads), TRAINING_LOCK: str(lock), PARENT: str(os.getpid())}
        if self.store is not None:
            environment["ZHIYIN_STORE"] = self.store
        return environment

    def _follow(self, child: subprocess.Popen[bytes], output: _RotatingLog) -> str:
        """Write the output of a process to the log until the process ends or has to.

        Returns "by itself", "stopped", or the reason why it has to end.
        """
        assert child.stderr is not None
        until = time.monotonic() + self.limit
        pipe, poll = child.stderr.fileno(), select.poll()  # not `select`: descriptors may be above 1,023
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        while True:
            if self._closing.is_set():
                return "stopped"
            if time.monotonic() > until:
                return f"it did not end within {self.limit:,.0f} s"
            if not poll.poll(1000 * POLL_SECONDS):
                if child.poll() is not None:  # a process that it started may still hold the pipe
                    return "by itself"
                continue
            text = os.read(pipe, 65_536)
            if not text:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_SECONDS)
                if child.poll() is not None:
                    return "by itself"
                self._closing.wait(POLL_SECONDS)  # it closed its output and still runs
            output.write(text)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


class _RotatingLog:
    """A log file of at most `MAX_LOG_BYTES` and its predecessor; only their owner may read them."""

    def __init__(self, path: Path) -> None:
        self.path, self._end = path, b""

    def write(self, text: bytes) -> None:
        self._end = (self._end + text)[-TAIL_BYTES:]
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size + len(text) > MAX_LOG_BYTES:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, text)
        except OSError as error:  # a full disk must not end a training
            log.warning("training: %s cannot be written: %s", self.path.name, error.strerror)
        finally:
            os.close(file)

    def end(self) -> str:
        """Its last lines, at most 500 characters."""
        lines = [line.strip() for line in self._end.decode("utf-8", "replace").splitlines() if line.strip()]
        return " | ".join(lines[-3:])[-500:]


def _lower_priority(pid: int) -> None:
    """Let a process use processor and disk after others, and be the first one that is killed when memory runs out.

    It is not of the kernel's idle class (SCHED_IDLE), in which it would not end on busy cores.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    if shutil.which("ionice"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                ["ionice", "-c", "2", "-n", "7", "-p", str(pid)],
                capture_output=True,
                timeout=GRACE_SECONDS,
                check=False,
            )
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, by SIGTERM and then by SIGKILL."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None or sign == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
    if child.stderr is not None:
        child.stderr.close()
