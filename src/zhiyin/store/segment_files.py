"""Segments: the log as append-only files of JSON lines, which streaming jobs read.

    streams/events/events-00000000000000000001-00000000000000000840-832.jsonl

A name says which sequence numbers a segment covers and how many rows it has. The ranges follow each other without a
gap, from 1 on: numbers that no row has (deleted, or never given) are covered as well. So the names alone say how far
the export has come, and whether a segment is missing. A segment is written under a hidden name, synced and renamed:
readers see all of it or nothing, and it never changes.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from zhiyin.core.atomic_files import draft_path, replace_durably, sync
from zhiyin.core.errors import ConfigError, DataError

# Bytes at the end of a segment that are read to see whether its last row is whole.
MAX_LAST_ROW = 1 << 20
_NAME = re.compile(r"([a-z_]+)-(\d{20})-(\d{20})-(\d+)\.jsonl")


@dataclass(frozen=True, order=True)
class Segment:
    """A range of sequence numbers, first to last inclusive, and the number of rows in it.

    kind: "events" or "impressions", whose numbers are those of lists.
    """

    kind: str
    first: int
    last: int
    rows: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.kind}-{self.first:020d}-{self.last:020d}-{self.rows}.jsonl"

    @classmethod
    def of_name(cls, name: str) -> Segment | None:
        """The segment of a file's name; None for a name that is none's."""
        match = _NAME.fullmatch(name)
        return None if match is None else cls(match[1], int(match[2]), int(match[3]), int(match[4]))


@contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError of work in a folder of streams into a ConfigError that names the folder and what it is set by.

    It may be that the folder is a file, that it cannot be made or written, or that the disk is full.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)  # of polars the text is all
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        raise ConfigError(
            f"[streams] folder cannot be used: {'a file has its name' if is_file else reason}",
            file=error.filename or folder,
            remedy="make room on its disk"
            if "No space left" in reason
            else "name another folder there, or as DIR of zhiyin store stream",
        ) from None


def make_streams_folder(folder: Path) -> None:
    """Make a folder of streams, or one below it, where it is missing. Raises ConfigError where that cannot be done."""
    with folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def listed_segments(folder: Path, kind: str) -> list[Segment]:
    """The segments of a kind below the folder of streams, in their order, without one left out between two others.

    While a folder is read, a file may be added that the reading misses and one after it that it does not: what was
    there at the end of a first reading is in the second.
    """
    newest = max(_read_names(folder / kind, kind), default=None)
    if newest is None:
        return []
    return sorted(segment for segment in _read_names(folder / kind, kind) if segment <= newest)


def cut_off_segment(folder: Path, kinds: Sequence[str]) -> Path | None:
    """The first segment below the folder of streams whose last row is not whole JSON, or that lacks all its rows.

    Only the ends of the files are read, so that damage before them is not seen.
    """
    for kind in kinds:
        for segment in listed_segments(folder, kind):
            path = folder / kind / segment.name
            try:
                if segment.rows and not _ends_whole(path):
                    return path
            except FileNotFoundError:  # deleted meanwhile, by age
                continue
    return None


def _ends_whole(path: Path) -> bool:
    """Whether the last line of a file is whole and JSON; of one longer than MAX_LAST_ROW, whether it has its end."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_LAST_ROW))
        tail = file.read()
    before, newline, rest = tail.rpartition(b"\n")
    if not newline or rest:
        return False
    _, previous, last = before.rpartition(b"\n")
    if not previous and size > MAX_LAST_ROW:
        return True
    try:
        json.loads(last)
    except ValueError:
        return False
    return True


def _read_names(folder: Path, kind: str) -> Iterator[Segment]:
    if folder.is_dir():
        for path in folder.iterdir():
            segment = Segment.of_name(path.name)
            if segment is not None and segment.kind == kind:
                yield segment


class SegmentWriter:
    """Writes the segments of one kind. Only one may write in a folder at a time; see `exclusive_lock`.

    Removes drafts that a killed writer left.

    Attributes
    ----------
    last: the last sequence number that is covered; 0: none is.

    Parameters
    ----------
    last: up to which segments were written before, though they may have been removed since.

    Raises DataError where ranges of segments overlap, which no writer leaves behind.
    """

    def __init__(self, folder: Path, kind: str, last: int = 0) -> None:
        self.folder, self.kind = folder / kind, kind
        make_streams_folder(self.folder)
        with folder_errors(self.folder):
            for draft in self.folder.glob(".*"):
                draft.unlink(missing_ok=True)
        segments = listed_segments(folder, kind)
        for one, following in pairwise(segments):
            if following.first <= one.last:
                raise DataError(
                    f"{one.name} and {following.name} hold the same rows", file=self.folder,
                    remedy="they are of two exports: empty the folder, and start the jobs anew: "
                    "zhiyin stream start --fresh",
                )  # fmt: skip
        self.last = max(last, segments[-1].last if segments else 0)

    @contextmanager
    def draft(self) -> Iterator[SegmentDraft]:
        """A file to write the next segment to; without `SegmentDraft.commit` nothing of it stays."""
        path = draft_path(self.folder / "segment")
        with folder_errors(self.folder):
            try:
                with open(path, "wb") as file:
                    yield SegmentDraft(self, path, file)
            finally:
                path.unlink(missing_ok=True)

    @property
    def oldest(self) -> int:
        """The first sequence number of the segments that are there; 0 where there is none."""
        return min((segment.first for segment in _read_names(self.folder, self.kind)), default=0)

    def has_older(self, age: float) -> bool:
        """Whether a segment but the newest is older than `age` seconds."""
        segments = sorted(_read_names(self.folder, self.kind))
        return len(segments) > 1 and (self.folder / segments[0].name).stat().st_mtime < time.time() - age

    def remove_older(self, age: float, upto: int) -> int:
        """Delete segments older than `age` seconds that end at or before `upto`, but not the newest one.

        Returns how many.
        """
        oldest, n_removed = time.time() - age, 0
        segments = sorted(_read_names(self.folder, self.kind))
        for segment in segments[:-1]:
            path = self.folder / segment.name
            if segment.last > upto or path.stat().st_mtime >= oldest:
                break  # from the oldest on, so that no gap arises
            path.unlink()
            n_removed += 1
        if n_removed:
            sync(self.folder)
        return n_removed


@dataclass
class SegmentDraft:
    """A segment while it is written."""

    writer: SegmentWriter
    path: Path
    file: BinaryIO

    def commit(self, last: int, rows: int) -> Segment:
        """Make the segment of what was written: all rows after the last segment up to a sequence number."""
        segment = Segment(self.writer.kind, self.writer.last + 1, last, rows)
        self.file.flush()
        target = self.writer.folder / segment.name
        try:
            replace_durably(self.path, target)
        finally:
            if target.exists():  # also where the folder could not be synced: jobs see it from now on
                self.writer.last = last
        return segment
