"""Histories in files of a folder that driver and workers share."""

from __future__ import annotations

from pathlib import Path

from zhiyin.data.histories import Histories
from zhiyin.engines.array_files import read_array, read_frame, write_array, write_frame

_ARRAYS = ("offsets", "items", "weights", "times", "kinds", "values", "now", "users")


def write_histories(folder: Path, histories: Histories) -> None:
    for name in _ARRAYS:
        write_array(folder / f"history.{name}.npy", getattr(histories, name))
    if histories.features is not None:
        write_frame(folder / "history.features.arrow", histories.features)


def read_histories(folder: Path, start: int, stop: int) -> Histories:
    """The histories start..stop of those that `write_histories` wrote; only their part of the files is read."""
    arrays = {name: read_array(folder / f"history.{name}.npy") for name in _ARRAYS}
    features = folder / "history.features.arrow"
    whole = Histories(**arrays, features=read_frame(features) if features.exists() else None)
    return whole.rows(start, stop)
