"""Jobs on a cluster inside one process, which ends with them: for tests and measurements, not for production.

with LocalJobs(python, submission(["trending"], options, None), Path("logs")) as jobs:
    ...                                             # wait for what the jobs write
    savepoints = jobs.stop(options.folder / "savepoints")
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from zhiyin.core.errors import EngineError
from zhiyin.core.run import log
from zhiyin.engines.flink import submit
from zhiyin.engines.flink.jobs import json_object

# Characters of a line of the JVM that are logged.
MAX_LOGGED_CHARACTERS = 500


class LocalJobs:
    """A process of `submit.py` and the jobs in it. On exit all are ended. Lines of its output that are no JSON objects,
    such as those of the JVM about its options, are logged.

    Parameters
    ----------
    python: of Flink's environment.
    request: see `jobs.submission`; its address is None.
    log_folder: for logs of Flink and its temporary files.
    java_options: of the JVM, such as "-Xmx2g".
    seconds: how long a submission may take.

    Raises EngineError where a job is not submitted.
    """

    def __init__(
        self,
        python: Path,
        request: Mapping[str, Any],
        log_folder: Path,
        java_options: str = "-Xmx2g -XX:+UseParallelGC",
        seconds: float = 300.0,
    ) -> None:
        log_folder.mkdir(parents=True, exist_ok=True)
        temporary = {"io.tmp.dirs": str(log_folder)}
        environment = os.environ | {"FLINK_LOG_DIR": str(log_folder), "JVM_ARGS": java_options}
        self._errors = log_folder / "errors"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [str(python), str(submit.__file__)], env=environment, text=True, encoding="utf-8", errors="replace",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._read_error: Exception | None = None
        threading.Thread(target=self._read, daemon=True).start()
        # By job: the id, the savepoint with which it was stopped, and how many seconds it ran, once they are known.
        self.ids: dict[str, str] = {}
        self._savepoints: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self.names = [job["name"] for job in request["jobs"]]
        try:
            self._write(json.dumps({**request, "settings": temporary | dict(request["settings"])}))
            self._receive_until(self.ids, seconds)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raise EngineError where a job has failed or the process has ended."""
        while not self._lines.empty():
            self._take(self._lines.get())

    def stop(self, folder: Path, seconds: float = 300.0) -> dict[str, str]:
        """End the jobs, each with a savepoint in `folder`. Returns the paths of these by job."""
        self._write(f"stop {folder}")
        self._receive_until(self._savepoints, seconds)
        self.wait(seconds)
        return self._savepoints

    def wait(self, seconds: float) -> dict[str, float]:
        """Wait until all jobs have ended. Returns by job how long it ran, in seconds, as Flink has it."""
        self._receive_until(self._seconds, seconds)
        return self._seconds

    def close(self) -> None:
        """End the process, and with it Flink: by the end of its input, else by a signal."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its JVM reads a pipe of it, and ends with that
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._failure(None) from None

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            for text in self.process.stdout:
                line = json_object(text)
                if line is not None:
                    self._lines.put(line)
                elif text.strip():
                    log.info("Flink: %s", text.strip()[:MAX_LOGGED_CHARACTERS])
        except Exception as error:  # otherwise whoever waits for a line would wait for ever
            self._read_error = error
        finally:
            self._lines.put(None)

    def _receive_until(self, values: dict[str, Any], seconds: float) -> None:
        """Take lines until there is a value for each job."""
        deadline = time.monotonic() + seconds
        while values.keys() < set(self.names):
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise EngineError(f"Flink does not answer within {seconds:g} s", file=self._errors) from None
            self._take(line)

    def _take(self, line: dict[str, Any] | None) -> None:
        if line is None:
            self._lines.put(None)  # the output stays ended, for whoever waits next
        if line is None or line.get("error"):
            raise self._failure(line)
        if "id" in line:
            self.ids[line["job"]] = line["id"]
        if "savepoint" in line:
            self._savepoints[line["job"]] = line["savepoint"]
        if "state" in line:
            self._seconds[line["job"]] = line.get("seconds", float("nan"))

    def _failure(self, line: dict[str, Any] | None) -> EngineError:
        if line is not None:
            return EngineError(f"job {line.get('job')}: {line['error']}")
        if self._read_error is not None:
            return EngineError(f"the output of Flink cannot be read: {self._read_error}", file=self._errors)
        text = self._errors.read_text("utf-8", errors="replace").strip()
        last = text.splitlines()[-1] if text else "no output"
        return EngineError(f"Flink's process has ended: {last}", file=self._errors)
