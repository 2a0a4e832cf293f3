"""A cluster and a Python of Flink that only keep account of jobs: what `zhiyin stream` asks of them, without Java."""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.engines.flink.stub_jobmanager import StubJobManager

# Stands for Flink's Python: takes the request of submit.py, keeps it, and answers what `answer` says, if it is there.
_PYTHON = """#!{python}
import json, pathlib, sys, time
folder = pathlib.Path({folder!r})
request = json.loads(sys.stdin.readline())
(folder / "received").touch()
while (folder / "blocked").exists():
    time.sleep(0.01)
answer = folder / "answer"
if answer.exists():
    print(answer.read_text())
    sys.exit(1)
with open(folder / "requests", "a") as log:
    log.write(json.dumps(request) + chr(10))
for job in request["jobs"]:
    print("WARNING: of Java")
    print(json.dumps(dict(job=job["name"], id=job["settings"]["$internal.pipeline.job-id"])))
"""


class FakeFlink:
    """Jobs run as soon as they are submitted; tests change their `states`, by id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.python = folder / "python"
        self.python.write_text(_PYTHON.format(python=sys.executable, folder=str(folder)))
        self.python.chmod(0o755)
        self.states: dict[str, str] = {}
        self.failure: str | None = None
        self.number = 10
        # State of tasks while their job is RUNNING; restarts of each job.
        self.task, self.restarts = "RUNNING", 3
        self.server = StubJobManager({}, self._answer)
        self.address = self.server.address

    @contextmanager
    def serving(self) -> Iterator[FakeFlink]:
        with self.server.serving():
            yield self

    def requests(self) -> list[dict[str, Any]]:
        """What was submitted, one request a start."""
        path = self.folder / "requests"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def names(self) -> dict[str, str]:
        """Names of all jobs that were submitted, by id."""
        return {
            job["settings"]["$internal.pipeline.job-id"]: job["name"]
            for request in self.requests()
            for job in request["jobs"]
        }

    def _answer(self, request: str, body: Any) -> tuple[int, Any]:
        names = self.names()
        states = {job: self.states.get(job, "RUNNING") for job in names}
        method, _, path = request.partition(" ")
        path = path.partition("?")[0]
        if path == "/overview":
            return 200, {"taskmanagers": 1, "slots-total": 10, "slots-available": 10}
        if path == "/jobs/overview":
            listed = [{"jid": job, "name": names[job], "state": states[job], "start-time": 1e12} for job in names]
            return 200, {"jobs": listed}
        match = re.fullmatch(r"/jobs/(\w+)(/.*)?", path)
        if match is None or match[1] not in names:
            return 404, {
                "errors": [
                    f"org.apache.flink.runtime.rest.NotFoundException: Job {match[1] if match else path} not found"
                ]
            }
        job, rest = match[1], match[2] or ""
        if method == "PATCH":
            self.states[job] = "CANCELED"
            return 202, {}
        if rest == "/stop":
            self.number += 1
            folder = Path(body["targetDirectory"].removeprefix("file://")) / f"savepoint-{job[:6]}"
            write_metadata(folder, self.number)
            self.states[job] = "FINISHED"
            return 202, {"request-id": folder.name}
        if rest.startswith("/savepoints/"):
            location = f"file:/savepoints/{rest.rpartition('/')[2]}"
            return 200, {"status": {"id": "COMPLETED"}, "operation": {"location": location}}
        if rest == "/status":
            return 200, {"status": states[job]}
        if rest == "/metrics":
            return 200, [{"id": "numRestarts", "value": str(self.restarts)}]
        if rest == "/exceptions":
            entries = [{"stacktrace": self.failure}] if self.failure else []
            return 200, {"exceptionHistory": {"entries": entries}}
        if rest == "/checkpoints":
            completed = {"latest_ack_timestamp": 1_000, "end_to_end_duration": 20, "state_size": 300}
            return 200, {"latest": {"completed": completed}}
        if rest == "":
            task = self.task if states[job] == "RUNNING" else "FAILED"
            return 200, {"jid": job, "state": states[job], "vertices": [{"id": "v", "status": task}]}
        assert rest == "/vertices/v/subtasks/metrics", request
        sums = {"Source__events[1].numRecordsOut": 7, "StreamingFileWriter.numRecordsIn": 5, "x.numRecordsOut": 100}
        wanted = re.search(r"get=(.*)&", request)
        return 200, [{"id": name, "sum": value} for name, value in sums.items() if not wanted or name[:4] in wanted[1]]


def write_metadata(folder: Path, number: int) -> None:
    """A savepoint or checkpoint of a number, as far as it is read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_metadata").write_bytes(struct.pack(">IIq", 0x4960672D, 6, number) + b"state")
