"""A client of the REST API of a Flink JobManager, by the standard library alone."""

from __future__ import annotations

import http.client
import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from zhiyin.core.errors import ConfigError, EngineError

DEFAULT_PORT = 8081
TIMEOUT_SECONDS = 10.0
# States of a job that has ended and will not run again.
FINAL_STATES = frozenset({"FINISHED", "CANCELED", "FAILED"})
NOT_THERE = "start a local cluster with `zhiyin stream start`, or give the address of yours: --engine flink://host:8081"
_JAVA_CLASS = re.compile(r"^(?:[\w$]+\.)+([\w$]+(?:Exception|Error|Throwable)): ?")
# Wrappers of the standard library of Java and of Flink that say nothing of the cause.
_WRAPPERS = ("CompletionException", "ExecutionException", "SerializedThrowable", "RestHandlerException")
MAX_CAUSE = 300
_UNKNOWN_JOB = re.compile(r"job \w{32} not found|could not find flink job", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """A job as the JobManager lists it. start: seconds since the epoch."""

    id: str
    name: str
    state: str
    start: float

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES


class JobManager:
    """A JobManager at "host:port".

    All methods raise EngineError where it does not answer within `timeout` seconds or refuses; those that name a job
    raise UnknownJobError where the JobManager does not know it.
    """

    def __init__(self, address: str, timeout: float = TIMEOUT_SECONDS) -> None:
        self.address, self.timeout = address, timeout

    def overview(self) -> dict[str, Any]:
        """Numbers of TaskManagers, slots (also free ones: `slots-available`) and jobs, and Flink's version."""
        return self._call("GET", "/overview")

    def taskmanagers(self) -> list[dict[str, Any]]:
        """Registered TaskManagers with `id`, `slotsNumber`, `freeSlots`. One that died is listed until it is missed."""
        return self._call("GET", "/taskmanagers")["taskmanagers"]

    def jobs(self) -> list[Job]:
        """All jobs that the JobManager remembers, ended ones too."""
        listed = self._call("GET", "/jobs/overview")["jobs"]
        return [Job(job["jid"], job["name"], job["state"], job["start-time"] / 1000) for job in listed]

    def job(self, job_id: str) -> dict[str, Any]:
        """State, vertices and their states and metrics."""
        return self._call("GET", f"/jobs/{_segment(job_id)}")

    def state(self, job_id: str) -> str | None:
        """The state of a job, None where the JobManager does not know it."""
        try:
            return str(self._call("GET", f"/jobs/{_segment(job_id)}/status")["status"])
        except UnknownJobError:
            return None

    def checkpoints(self, job_id: str) -> dict[str, Any]:
        """Counts and the latest checkpoints of a job (`latest.completed`, `latest.savepoint`, `latest.restored`)."""
        return self._call("GET", f"/jobs/{_segment(job_id)}/checkpoints")

    def job_metrics(self, job_id: str, *names: str) -> dict[str, float]:
        """Values of metrics of a job, such as numRestarts; those that it does not have are left out."""
        values = self._call("GET", f"/jobs/{_segment(job_id)}/metrics?{urlencode({'get': ','.join(names)})}")
        return {value["id"]: float(value["value"]) for value in values}

    def operator_sums(self, job_id: str, vertex: str, suffix: str) -> dict[str, float]:
        """Metrics of the operators of a vertex whose names end in `suffix`, summed over its subtasks."""
        path = f"/jobs/{_segment(job_id)}/vertices/{_segment(vertex)}/subtasks/metrics"
        names = [metric["id"] for metric in self._call("GET", path) if metric["id"].endswith(suffix)]
        if not names:
            return {}
        values = self._call("GET", f"{path}?{urlencode({'get': ','.join(names), 'agg': 'sum'})}")
        return {value["id"]: float(value["sum"]) for value in values}

    def failure(self, job_id: str) -> str | None:
        """The first cause of the latest failure of a job in one line; None where it never failed."""
        history = self._call("GET", f"/jobs/{_segment(job_id)}/exceptions")
        entries = history.get("exceptionHistory", {}).get("entries", [])
        trace = entries[0].get("stacktrace") if entries else history.get("root-exception")
        return first_cause(trace) if trace else None

    def cancel(self, job_id: str) -> None:
        """Ask for the end of a job, without a savepoint; a retained checkpoint stays."""
        self._call("PATCH", f"/jobs/{_segment(job_id)}?mode=cancel")

    def stop_with_savepoint(self, job_id: str, folder: str, seconds: float = 300) -> str:
        """Take a savepoint in a folder that the cluster sees, end the job with it, and return the savepoint's path.

        Raises EngineError with the first cause where the savepoint fails or is not there after `seconds`; the job then
        runs on, or restarts.
        """
        deadline = time.monotonic() + seconds
        body = {"targetDirectory": folder, "drain": False}
        trigger = self._call("POST", f"/jobs/{_segment(job_id)}/stop", body)["request-id"]
        while True:
            answer = self._call("GET", f"/jobs/{_segment(job_id)}/savepoints/{_segment(trigger)}")
            if answer["status"]["id"] == "COMPLETED":
                operation = answer.get("operation", {})
                if "location" in operation:
                    return str(operation["location"])
                cause = first_cause(operation.get("failure-cause", {}).get("stack-trace", "no cause is given"))
                raise EngineError(f"no savepoint of job {job_id} at {self.address}: {cause}", remedy=SEE_LOGS)
            if time.monotonic() > deadline:
                raise EngineError(
                    f"no savepoint of job {job_id} at {self.address} within {seconds:.0f} s", remedy=SEE_LOGS
                )
            time.sleep(0.2)

    def wait_for_end(self, job_id: str, seconds: float = 60) -> str | None:
        """Wait until a job has ended and return its state; None where it is not known (any more)."""
        deadline = time.monotonic() + seconds
        while (state := self.state(job_id)) is not None and state not in FINAL_STATES:
            if time.monotonic() > deadline:
                raise EngineError(f"job {job_id} at {self.address} is {state} after {seconds:.0f} s", remedy=SEE_LOGS)
            time.sleep(0.2)
        return state

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        host, _, port = self.address.rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=self.timeout)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            content = response.read()
        except TimeoutError:
            raise self._no_answer(f"nothing within {self.timeout:g} s") from None
        except OSError as error:
            raise self._no_answer(error.strerror or str(error)) from None
        except http.client.HTTPException as error:
            raise self._no_answer(f"it does not speak HTTP ({type(error).__name__})") from None
        finally:
            connection.close()
        try:
            value = json.loads(content or b"{}")
        except (ValueError, RecursionError):
            raise self._no_answer(f"its answer to {path} is no JSON (status {response.status})") from None
        if response.status < 400:
            return value
        cause = _first_error(value)
        # Some calls answer with status 404, others with 500.
        if _UNKNOWN_JOB.search(cause):
            raise UnknownJobError(f"the JobManager at {self.address} does not know the job: {cause}", remedy=SEE_LOGS)
        raise EngineError(
            f"the JobManager at {self.address} refuses {method} {path.partition('?')[0]}: {cause}", remedy=SEE_LOGS
        )

    def _no_answer(self, cause: str) -> EngineError:
        return EngineError(f"no Flink JobManager answers at {self.address}: {cause}", remedy=NOT_THERE)


SEE_LOGS = "see the log of the JobManager (a local cluster: the folder cluster/log of the streams)"


class UnknownJobError(EngineError):
    """The JobManager does not know the job: it ended long ago, or the cluster was restarted."""


def parse_address(url: str) -> str:
    """ "host:port" of an address such as flink://host:8081. Raises ConfigError for another one.

    >>> parse_address("flink://flink.example")
    'flink.example:8081'
    """
    match = re.fullmatch(r"flink://(\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]]+)(?::(\d{1,5}))?/?", url)
    if match is None or not 0 < int(match[2] or DEFAULT_PORT) < 65536:
        raise ConfigError(f"{url!r} is the address of no Flink cluster", remedy="local, or flink://host:8081")
    return f"{match[1]}:{match[2] or DEFAULT_PORT}"


def first_cause(trace: str) -> str:
    """The innermost cause of a Java stack trace in one line.

    >>> first_cause("org.apache.flink.X: outer\\n\\tat a.B.c\\nCaused by: java.io.IOException: disk full\\n\\tat d.E.f")
    'IOException: disk full'
    """
    causes = [line.strip() for line in trace.splitlines() if line.strip()]
    caused = [line.removeprefix("Caused by: ") for line in causes if line.startswith("Caused by: ")]
    for line in [*reversed(caused), *causes[:1]]:
        line = _without_wrappers(line)
        if line:
            return line[:MAX_CAUSE]
    return "no cause is given"


def _without_wrappers(line: str) -> str:
    """One line of a trace without packages and without classes that only wrap another."""
    while match := _JAVA_CLASS.match(line):
        rest = line[match.end() :]
        if match[1] not in _WRAPPERS or not rest:
            return f"{match[1]}: {rest}" if rest else match[1]
        line = rest
    return line


def _first_error(value: Any) -> str:
    errors = value.get("errors") if isinstance(value, dict) else None
    texts = [text for text in errors if isinstance(text, str) and text.strip()] if isinstance(errors, list) else []
    # Flink puts its own trace of the server side last.
    causes = [first_cause(text.replace("<Exception on server side:", "").strip(" \n>")) for text in texts]
    return causes[-1] if causes else "no reason is given"


def _segment(text: str) -> str:
    return quote(text, safe="")
