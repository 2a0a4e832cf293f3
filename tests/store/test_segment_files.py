"""Segments whose last row is not whole are found by their ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from zhiyin.store import segment_files
from zhiyin.store.segment_files import Segment, cut_off_segment

ROW = b'{"user": "a", "seq": 1}\n'


@pytest.mark.parametrize(
    ("content", "rows", "is_damaged"),
    [
        (ROW * 3, 3, False),
        (b"", 0, False),
        (b"", 1, True),
        (ROW + ROW[:-5], 2, True),
        (ROW + ROW[:-1], 2, True),
        (ROW + b"\0" * 30 + b"\n", 2, True),
        (ROW[:-5] + b"\n" + ROW, 2, False),  # before the end
        (ROW + b"\xff\xfe\n", 2, True),
    ],
)
def test_a_segment_that_is_cut_off_is_found(content: bytes, rows: int, is_damaged: bool, tmp_path: Path) -> None:
    for kind in ("events", "impressions"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / Segment(kind, 1, 1, 1).name).write_bytes(ROW)
    assert cut_off_segment(tmp_path, ("events", "impressions")) is None
    path = tmp_path / "impressions" / Segment("impressions", 2, 9, rows).name
    path.write_bytes(content)
    assert cut_off_segment(tmp_path, ("events", "impressions")) == (path if is_damaged else None)


def test_a_last_row_that_is_longer_than_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_files, "MAX_LAST_ROW", 10)
    (tmp_path / "events").mkdir()
    path = tmp_path / "events" / Segment("events", 1, 2, 2).name
    path.write_bytes(ROW * 2)
    assert cut_off_segment(tmp_path, ["events"]) is None
    path.write_bytes(ROW * 2 + b"{")
    assert cut_off_segment(tmp_path, ["events"]) == path


def test_without_folders_there_is_none(tmp_path: Path) -> None:
    assert cut_off_segment(tmp_path, ("events", "impressions")) is None
