"""The newest savepoint or checkpoint is the one with the highest number, whatever the clock says."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from zhiyin.engines.flink.restore_points import RestorePoints, checkpoint_number


def write(folder: Path, number: int, content: bytes = b"state") -> Path:
    folder.mkdir(parents=True)
    (folder / "_metadata").write_bytes(struct.pack(">IIq", 0x4960672D, 6, number) + content)
    return folder


def test_the_highest_number_of_both_kinds(tmp_path: Path) -> None:
    points = RestorePoints(tmp_path, "trending")
    assert points.latest() is None
    write(tmp_path / "checkpoints/trending/run1/chk-9", 9)
    savepoint = write(tmp_path / "savepoints/trending/savepoint-1", 12)
    chk_11 = write(tmp_path / "checkpoints/trending/run2/chk-11", 11)
    write(tmp_path / "checkpoints/sessions/run3/chk-99", 99)
    os.utime(savepoint / "_metadata", (0, 0))
    latest = points.latest()
    assert latest is not None
    assert (latest.path, latest.number, latest.kind) == (savepoint, 12, "savepoint")
    (savepoint / "_metadata").unlink()
    latest = points.latest()
    assert latest is not None
    assert (latest.path, latest.kind) == (chk_11, "checkpoint")


def test_unfinished_and_damaged_ones_do_not_count(tmp_path: Path) -> None:
    points = RestorePoints(tmp_path, "trending")
    (tmp_path / "checkpoints/trending/run/chk-3").mkdir(parents=True)
    damaged = write(tmp_path / "checkpoints/trending/run/chk-4", 4)
    (damaged / "_metadata").write_bytes(b"\x49\x60\x67")
    other = write(tmp_path / "checkpoints/trending/run/chk-5", 5)
    (other / "_metadata").write_bytes(b"x" * 40)
    assert points.latest() is None
    assert checkpoint_number(tmp_path / "missing") is None


def test_older_runs_go_but_for_the_newest_point(tmp_path: Path) -> None:
    points = RestorePoints(tmp_path, "trending")
    write(tmp_path / "checkpoints/trending/run1/chk-1", 1)
    kept = write(tmp_path / "checkpoints/trending/run2/chk-2", 2)
    (tmp_path / "checkpoints/trending/run3").mkdir()
    points.remove_older("run3")
    assert sorted(path.name for path in points.checkpoints.iterdir()) == ["run2", "run3"]
    assert kept.exists()
    points.remove()
    assert points.latest() is None
    points.remove_older("run3")
