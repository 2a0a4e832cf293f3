"""A checkpoint for data that have become newer: which row of a table is whose, before and now.

Codes are positions in the sorted list of ids, so that a new item moves those of others. Rows go with their ids; those
of new items and users keep what they begin with.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from zhiyin.data.dataset import Dataset
from zhiyin.data.ids import Ids


class NotContinuedError(Exception):
    """Why a training does not go on from a checkpoint of other data."""


@dataclasses.dataclass(frozen=True)
class Move:
    """Rows of a table that has grown from `old` to `new` rows: row r is now row places[r]. places: int64[old]."""

    what: str
    old: int
    new: int
    places: np.ndarray


@dataclasses.dataclass(frozen=True)
class DataOutline:
    """What a checkpoint keeps of its data: {"events": number, "window": [first, last] in microseconds}, and ids.

    Parameters
    ----------
    ids: "items", and "users" where the network has a row for each user.
    counts: int64[n_items], the events of each item: newer data have as many or more of each.
    held: int64[3, m], user, item and time of the events held back for validation, where they were drawn at random:
        with newer data the same ones are held back.
    """

    facts: dict[str, Any]
    ids: dict[str, Ids]
    counts: np.ndarray
    held: np.ndarray | None = None

    @classmethod
    def of(cls, data: Dataset, users: bool, held: Dataset | None = None) -> DataOutline:
        """users: whether the network has a row for each user; held: the events held back, where they were drawn."""
        ids = {"items": data.item_ids} | ({"users": data.user_ids} if users or held is not None else {})
        facts = {"events": data.n_events, "window": list(data.window)}
        rows = None if held is None else held.events.select(pl.col("user", "item", "time").cast(pl.Int64)).to_numpy().T
        return cls(facts, ids, data.item_counts(), rows)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The ids as uint8 arrays that hold an Arrow file each, {"data.items": ...}, "data.counts" and "data.held"."""
        arrays = {"data.counts": np.ascontiguousarray(self.counts, dtype=np.int64)}
        if self.held is not None:
            arrays["data.held"] = np.ascontiguousarray(self.held)
        for what, ids in self.ids.items():
            file = io.BytesIO()
            ids.values.to_frame("id").write_ipc(file)
            arrays[f"data.{what}"] = np.frombuffer(bytearray(file.getvalue()), dtype=np.uint8)
        return arrays

    def moves(self, before: dict[str, Any], arrays: dict[str, np.ndarray]) -> list[Move]:
        """What has grown since `before`, the facts of the checkpoint, and its `arrays`.

        Raises NotContinuedError where these are not the data of the checkpoint and newer ones.
        """
        if self.facts["events"] <= before["events"]:
            raise NotContinuedError(f"they were {before['events']:,} events, and are {self.facts['events']:,} others")
        if self.facts["window"][0] != before["window"][0]:
            raise NotContinuedError("they begin at another moment")
        moves = []
        for what, ids in self.ids.items():
            places = _places(ids, arrays, what)
            gone = int((places < 0).sum())
            if gone:
                raise NotContinuedError(f"{gone:,} {what} are gone")
            if what == "items" and (self.counts[places] < arrays["data.counts"]).any():
                raise NotContinuedError("events of before are gone")
            if len(places) != len(ids):
                moves.append(Move(what, len(places), len(ids), places))
        if len({(move.old, move.new) for move in moves}) < len(moves):
            raise NotContinuedError("as many new users as new items among as many: tables cannot be told apart")
        return moves


def _places(ids: Ids, arrays: dict[str, np.ndarray], what: str) -> np.ndarray:
    """int64[n]: the present codes of the ids of a checkpoint, -1 where one is gone."""
    old = pl.read_ipc(io.BytesIO(arrays[f"data.{what}"].tobytes()))["id"]
    if old.dtype != ids.values.dtype:
        raise NotContinuedError(f"ids of {what} are of another kind")
    return np.asarray(ids.encode(old), dtype=np.int64)


def held_again(data: Dataset, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """bool[n_events]: the events of newer data that the checkpoint of these arrays held back for validation."""
    user, item, time = arrays["data.held"]
    held = pl.DataFrame(
        {
            "user": _places(data.user_ids, arrays, "users")[user],
            "item": _places(data.item_ids, arrays, "items")[item],
            "time": time,
        }
    )
    events = data.events.select(pl.col("user", "item", "time").cast(pl.Int64)).with_row_index("row")
    mask = np.zeros(data.n_events, dtype=bool)
    mask[events.join(held, on=["user", "item", "time"], how="semi")["row"].to_numpy()] = True
    return mask


def carried_over(tensors: dict[str, Tensor], fresh: dict[str, Tensor], moves: list[Move]) -> dict[str, Tensor]:
    """Tensors of a checkpoint in the shapes of `fresh`, whose new rows stay as they are there.

    Raises NotContinuedError where another dimension has changed.
    """
    carried = {}
    for name, tensor in tensors.items():
        if name not in fresh:
            raise NotContinuedError("its network has other parts")
        new = fresh[name]
        if tensor.shape == new.shape:
            carried[name] = tensor
            continue
        sizes = (tensor.shape[0], new.shape[0]) if tensor.ndim and new.ndim == tensor.ndim else None
        move = next((move for move in moves if (move.old, move.new) == sizes), None)
        if move is None or tensor.shape[1:] != new.shape[1:]:
            raise NotContinuedError("its network has another shape")
        grown = new.detach().to("cpu", tensor.dtype).clone()
        grown[torch.from_numpy(move.places)] = tensor
        carried[name] = grown
    return carried
