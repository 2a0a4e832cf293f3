"""The record of the jobs of a folder of streams, `streams.json`: which run of Flink is which stream."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhiyin.core.atomic_files import read_json, write_json

FILE_NAME = "streams.json"
_DAMAGED = "remove the file while no job runs; `zhiyin stream start` finds savepoints and checkpoints by themselves"


@dataclass(frozen=True)
class RecordedJob:
    """The last run of a stream.

    Parameters
    ----------
    job_id: id of the run at Flink, 32 hexadecimal digits. It is recorded before the run is submitted.
    address: "host:port" of the JobManager.
    submitted: whether the JobManager has confirmed it.
    restored: the savepoint or checkpoint it was resumed from.
    savepoint: with which it was ended.
    """

    job_id: str
    address: str
    submitted: bool = False
    restored: str | None = None
    savepoint: str | None = None


class StreamRecord:
    """Recorded jobs by name; each write replaces the file in one step."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME

    def jobs(self) -> dict[str, RecordedJob]:
        """Raises DataError where the file is damaged."""
        try:
            entries: Any = read_json(self.path, _DAMAGED, names=("jobs",))["jobs"]
        except FileNotFoundError:
            return {}
        fields = {field.name for field in dataclasses.fields(RecordedJob)}
        return {
            name: RecordedJob(**{key: value for key, value in entry.items() if key in fields})
            for name, entry in entries.items()
            if isinstance(entry, dict) and {"job_id", "address"} <= entry.keys()
        }

    def put(self, name: str, job: RecordedJob) -> None:
        """Replace the entry of one job."""
        jobs = {**self.jobs(), name: job}
        write_json(self.path, {"jobs": {key: dataclasses.asdict(value) for key, value in jobs.items()}}, indent=1)
