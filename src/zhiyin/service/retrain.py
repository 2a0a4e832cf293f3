"""Training beside the service: at set times, in a process of its own, which takes only what serving leaves over.

    retrainer = Retrainer(Path("zhiyin.toml"), Schedule.parse("0 3 * * *"), "30m")
    retrainer.status()      # {"running": False, "next": "2026-05-04T03:00:00+00:00", ...}
    retrainer.close()       # ends a training that runs; what is in use stays in use

The process is `zhiyin train --budget`: it learns from the files and the store, and puts the new version in use if it
beats the old one. The service sees that as it sees any promotion. Beside the versions stand

    retrain.json   when the last training began and how it ended; a service that is started again goes on from there
    retrain.log    what it said; at 1 MB it becomes retrain.log.1
    .training      the lock: of all services and people, one trains at a time
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
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from zhiyin.core.atomic_files import read_json, sweep, write_json
from zhiyin.core.durations import is_duration, microseconds
from zhiyin.core.errors import ConfigError, DataError, MissingExtraError
from zhiyin.core.run import available_cores, log
from zhiyin.data.project_config import load_config
from zhiyin.pipeline.bundles import TRAINING_LOCK, Bundles

# Versions kept beside the one in use and the one before.
KEPT = 5
# Bytes of the log, and of its end that a failure is told with.
LOG, TAIL = 1_000_000, 4_096
# Seconds: between two looks at whether to stop, at the clock; that a training is given to end when asked to.
LOOK, CLOCK, GRACE = 0.2, 30.0, 10.0
# The shortest time between two trainings.
SHORTEST = timedelta(minutes=1)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When to train.

    Parameters
    ----------
    text: as it was written.
    every: from one start to the next; None where `text` is minute, hour, day, month and weekday, as cron has them, UTC.
    """

    text: str
    every: timedelta | None = None

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Of "6h" or "0 3 * * *". Raises ConfigError for what is neither."""
        if is_duration(text):
            every = timedelta(microseconds=microseconds(text))
            if not SHORTEST <= every <= timedelta(days=3_660):
                raise ConfigError(f"to train every {text} makes no sense", remedy="from 1m to 10y, such as 6h")
            return cls(text, every)
        found = cls(text)
        found.next(datetime.now(UTC))
        return found

    def next(self, after: datetime) -> datetime:
        """The first moment after that one, UTC."""
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
        """When to train next: `begun` is when it was last done, `opened` since when somebody is there to do it.

        A duration that ran out meanwhile is due at once; of the times of a day those that were missed are gone.
        """
        if self.every is not None:
            return self.next(begun or opened)
        return self.next(max(begun or opened, opened))


class Retrainer:
    """Trains at the due moments, in a thread that waits and a process that works.

    Parameters
    ----------
    config: the settings file of the project.
    schedule: when; budget: how long a training may look for the best, such as "30m".
    on_done: called with `status()` after each training, from the thread.
    store: address of the store, where the service uses another one than the settings say.
    threads: worker threads of the training; default half of the cores.
    bundles: the versions of the project; None: where the settings say.
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
        bundles: Bundles | None = None,
    ) -> None:
        self.config, self.budget, self.store = Path(config).resolve(), budget, store
        self.schedule = Schedule.parse(schedule) if isinstance(schedule, str) else schedule
        self.limit = 4 * microseconds(budget) / 1e6 + 3_600
        self.threads = threads or max(1, available_cores() // 2)
        self.bundles = bundles or Bundles(self.config.parent / load_config(self.config).train.output / "bundles")
        self._on_done = on_done
        self._opened = datetime.now(UTC)
        self._tried: datetime | None = None
        self._damaged = False  # whether `retrain.json` was found to be
        self._child: subprocess.Popen[bytes] | None = None
        self._asked, self._closing, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="zhiyin-retrain", daemon=True)
        self._thread.start()

    def now(self) -> None:
        """Train at once, whatever the schedule says; nothing where a training runs."""
        self._asked.set()
        self._wake.set()

    def close(self) -> None:
        """End a training that runs, and leave nothing of it. Returns within about ten seconds."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def status(self) -> dict[str, Any]:
        """`running`, `schedule`, `next`; of the last training `started`, `ended`, `outcome`, `version`, `message`.

        Moments are ISO 8601, UTC. Outcomes: "promoted", "kept" (it does not beat what is in use), "failed", "stopped"
        (by the end of the service). None of these: it runs, or a service was killed in the middle.
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
            if left > 0 and not self._asked.is_set():
                self._wake.wait(min(left, CLOCK))
                continue
            try:
                self._take_turn()
            except Exception as error:  # serving goes on whatever happens here; the next due moment is another try
                self._tried = datetime.now(UTC)
                log.warning("training: %s", error)
            self._asked.clear()

    def _due(self, last: dict[str, Any]) -> datetime:
        begun = [datetime.fromisoformat(last["started"])] if last else []
        tried = [self._tried] if self._tried is not None else []
        return self.schedule.due(max(begun + tried, default=None), self._opened)

    def _last(self) -> dict[str, Any]:
        """What the file says of the last training; nothing where there was none."""
        try:
            said = read_json(self.bundles.folder / "retrain.json", "it is written anew", names=("started",))
            datetime.fromisoformat(said["started"])
            return said
        except FileNotFoundError:
            return {}
        except (DataError, ValueError, TypeError) as error:
            if not self._damaged:  # one line in the log is enough: the clock looks every half minute
                log.warning("training: what is known of the last one cannot be read: %s", error)
            self._damaged = True
            return {}

    def _note(self, said: dict[str, Any]) -> None:
        write_json(self.bundles.folder / "retrain.json", said)
        self._damaged = False

    # -- one training -----------------------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        now = datetime.now(UTC)
        with self.bundles.training() as lock:
            # Another service may have trained since we looked.
            if not self._asked.is_set() and self._due(self._last()) > now:
                return
            self._tried = now
            said: dict[str, Any] = {"started": _said(now), "ended": None, "outcome": None}
            self._note(said)
            said |= self._train(lock)
            said["ended"] = _said(datetime.now(UTC))
            self._note(said)
        if said["outcome"] == "failed":  # what the training itself wrote may speak of users: it stays in retrain.log
            log.warning("training: failed: %s; see retrain.log", str(said["message"]).partition(":")[0])
        else:
            log.info("training: %s%s", said["outcome"], f": {said['message']}" if said.get("message") else "")
        if self._on_done is not None:
            self._on_done(self.status())

    def _train(self, lock: int) -> dict[str, Any]:
        """Run the process to its end. Returns `outcome`, `version`, `message`."""
        before = self.bundles.versions()
        output = _Log(self.bundles.folder / "retrain.log")
        output.write(f"-- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: training within {self.budget}\n".encode())
        child = subprocess.Popen(
            self._command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=self._environment(lock), process_group=0, pass_fds=(lock,),
        )  # fmt: skip
        self._child = child
        try:
            _stand_back(child.pid)
            ended = self._follow(child, output)
        finally:
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
            deleted = self.bundles.prune(KEPT)
        except DataError as error:  # which is in use is not known: none is deleted
            log.warning("training: version %d is not in use: %s", new[-1], error)
            promoted, deleted = False, []
        if deleted:
            log.info("training: old versions deleted: %s", ", ".join(map(str, deleted)))
        return {"outcome": "promoted" if promoted else "kept", "version": new[-1], "message": why}

    def _command(self) -> list[str]:
        """The training, from its first moment at the lowest priority."""
        before = ["nice", "-n", "19"] if shutil.which("nice") else []
        # -P: no module of the working folder is taken for one of ours.
        return [*before, sys.executable, "-P", "-m", "zhiyin", "train", "--budget", self.budget, "--json",
                "--threads", str(self.threads), "--config", str(self.config)]  # fmt: skip

    def _environment(self, lock: int) -> dict[str, str]:
        found = dict(os.environ)
        found |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        found |= {"POLARS_MAX_THREADS": str(self.threads), TRAINING_LOCK: str(lock)}
        if self.store is not None:
            found["ZHIYIN_STORE"] = self.store
        return found

    def _follow(self, child: subprocess.Popen[bytes], output: _Log) -> str:
        """Keep what it says until it ends, or must."""
        assert child.stderr is not None
        until = time.monotonic() + self.limit
        pipe, news = child.stderr.fileno(), select.poll()  # of any number: a large service has many files open
        news.register(pipe, select.POLLIN | select.POLLHUP)
        while True:
            if self._closing.is_set():
                return "stopped"
            if time.monotonic() > until:
                return f"it did not end within {self.limit:,.0f} s"
            if not news.poll(1000 * LOOK):
                if child.poll() is not None:  # one that it left behind may hold the pipe
                    return "by itself"
                continue
            said = os.read(pipe, 65_536)
            if not said:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(LOOK)
                if child.poll() is not None:
                    return "by itself"
                self._closing.wait(LOOK)  # it closed its output and works on
            output.write(said)


def _said(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


class _Log:
    """A file of at most two times a megabyte, old and new; only its owner may read it."""

    def __init__(self, path: Path) -> None:
        self.path, self._end = path, b""

    def write(self, said: bytes) -> None:
        self._end = (self._end + said)[-TAIL:]
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size + len(said) > LOG:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, said)
        except OSError as error:  # a full disk is no reason to end a training
            log.warning("training: %s cannot be written: %s", self.path.name, error.strerror)
        finally:
            os.close(file)

    def end(self) -> str:
        """Its last lines, at most 500 characters."""
        lines = [line.strip() for line in self._end.decode("utf-8", "replace").splitlines() if line.strip()]
        return " | ".join(lines[-3:])[-500:]


def _stand_back(pid: int) -> None:
    """A process uses processor and disk when nobody else does; if memory runs out, it goes and not the service."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 19)
    if hasattr(os, "SCHED_IDLE"):  # who serves is let in at once; a nice process may finish its slice first
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    if shutil.which("ionice"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["ionice", "-c", "3", "-p", str(pid)], capture_output=True, timeout=GRACE, check=False)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: asked first, then made to."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None or sign == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
    if child.stderr is not None:
        child.stderr.close()
