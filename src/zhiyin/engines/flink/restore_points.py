"""Savepoints and retained checkpoints of a job: which is the newest, and which are of no use any more."""

from __future__ import annotations

import contextlib
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

# The first eight bytes of a checkpoint's `_metadata`: a magic number and a version. The checkpoint's number follows.
_HEADER = struct.Struct(">IIq")
_MAGIC = 0x4960672D


@dataclass(frozen=True)
class RestorePoint:
    """A complete savepoint or checkpoint. number: of the checkpoint; they go up also over restarts of a job."""

    path: Path
    number: int

    @property
    def kind(self) -> str:
        return "checkpoint" if self.path.name.startswith("chk-") else "savepoint"


class RestorePoints:
    """What one stream can be resumed from, below the folder of the streams.

    Flink numbers savepoints and checkpoints together, and goes on with the numbers when a job resumes: the highest
    number is the state that the committed output belongs to. A folder without `_metadata` is an unfinished one.
    """

    def __init__(self, folder: Path, job: str) -> None:
        self.checkpoints, self.savepoints = folder / "checkpoints" / job, folder / "savepoints" / job

    def latest(self) -> RestorePoint | None:
        """The restore point with the highest number; None where there is none."""
        points = []
        for pattern in (self.checkpoints.glob("*/chk-*/_metadata"), self.savepoints.glob("*/_metadata")):
            for file in pattern:
                number = checkpoint_number(file)
                if number is not None:
                    points.append(RestorePoint(file.parent, number))
        return max(points, key=lambda point: point.number, default=None)

    def remove_older(self, job_id: str) -> None:
        """Remove checkpoints of other runs than `job_id`, but for the newest restore point."""
        newest = self.latest()
        keep = {job_id} if newest is None else {job_id, newest.path.parent.name}
        with contextlib.suppress(FileNotFoundError):
            for run in self.checkpoints.iterdir():
                if run.is_dir() and run.name not in keep:
                    shutil.rmtree(run, ignore_errors=True)

    def remove(self) -> None:
        """Remove all."""
        for folder in (self.checkpoints, self.savepoints):
            shutil.rmtree(folder, ignore_errors=True)


def checkpoint_number(metadata: Path) -> int | None:
    """The number of a checkpoint or savepoint, of its `_metadata`; None where the file is cut off or none of Flink."""
    try:
        with open(metadata, "rb") as opened:
            magic, _, number = _HEADER.unpack(opened.read(_HEADER.size))
    except (OSError, struct.error):
        return None
    return number if magic == _MAGIC and number >= 0 else None
