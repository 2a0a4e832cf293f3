"""What every fitted model holds of its training data besides its own parameters."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.event_schema import EventSchema, StorePosition
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.data.sharded_dataset import gathered_histories
from zhiyin.models.masked_search import Mask
from zhiyin.models.state_files import check_offsets, check_range, read_state, write_state

_HISTORY_ARRAYS = ("offsets", "items", "weights", "times", "kinds", "values", "now", "users")
_ITEM_ARRAYS = ("candidates", "popularity", "priority")


@dataclasses.dataclass(frozen=True)
class TrainingContext:
    """Ids, histories and popularity of the training data.

    Parameters
    ----------
    histories: the training history of each user; row = user code.
    candidates: bool[n_items], items that may be recommended.
    popularity: float32[n_items], number of events with a positive weight; the scores of an empty history.
    priority: int32[n_items], the rank of each item by (popularity, seeded shuffle), 0 the lowest; breaks ties.
    fingerprint: digest of the training data.
    window: first and last moment of the training data, microseconds UTC.
    schema: meaning of the events at training time; None in models saved by versions without it.
    position: how far a store had been read; None where none was read.
    stored: bool[m], which events of `histories` come from the store; None where none was read.
    complete: whether all histories are here; not in a process after the first that trained on shards.
    """

    user_ids: Ids
    item_ids: Ids
    histories: Histories
    candidates: np.ndarray
    popularity: np.ndarray
    priority: np.ndarray
    fingerprint: str
    window: tuple[int, int]
    schema: EventSchema | None = None
    position: StorePosition | None = None
    stored: np.ndarray | None = None
    complete: bool = True

    @functools.cached_property
    def best_first(self) -> np.ndarray:
        """int32[n_items]: items by popularity, the most popular first, ties by priority."""
        return np.argsort(-self.priority).astype(np.int32)

    def mask(self, allowed: np.ndarray | Mask | None = None) -> Mask:
        """Mask of the candidates that are allowed; `allowed`: bool[n_items], a mask, or None for all."""
        if allowed is None:
            return self._candidate_mask
        return allowed.within(self.candidates) if isinstance(allowed, Mask) else Mask.of(self.candidates & allowed)

    def in_order(self, mask: Mask) -> np.ndarray:
        """int32: items by popularity as `best_first`. All items of `mask` are among them; the others are left out where
        the mask has few items."""
        return mask.rows[np.argsort(-self.priority[mask.rows])] if mask.is_sparse else self.best_first

    @functools.cached_property
    def _candidate_mask(self) -> Mask:
        return Mask.of(np.asarray(self.candidates))

    @classmethod
    def of(cls, data: Dataset, run: Run, gather: bool = False) -> TrainingContext:
        """The context of a training set. Draws the shuffle of equally popular items from stream 1 of `run`.

        gather: where several processes hold the histories, gather them in the first.
        """
        popularity = data.popularity().astype(np.float32)
        histories, stored = gathered_histories(data) if gather else (data.histories, data.stored)
        shuffle = run.rng(1).permutation(data.n_items)
        priority = np.empty(data.n_items, dtype=np.int32)
        priority[np.lexsort((shuffle, popularity))] = np.arange(data.n_items, dtype=np.int32)
        return cls(
            data.user_ids,
            data.item_ids,
            histories,
            data.candidates,
            popularity,
            priority,
            data.fingerprint,
            data.window,
            data.schema,
            data.position,
            stored,
            complete=(gather and data.group.rank == 0) or data.group.world == 1,
        )

    def write(self, folder: Path) -> None:
        """Write ids, histories and item arrays into an existing folder. `manifest` has the rest."""
        for name in _ITEM_ARRAYS:
            write_state(folder, f"known.{name}", getattr(self, name))
        for name in _HISTORY_ARRAYS:
            write_state(folder, f"history.{name}", getattr(self.histories, name))
        if self.stored is not None:
            write_state(folder, "history.stored", self.stored)
        if self.histories.features is not None:
            self.histories.features.write_ipc(folder / "history.features.arrow")
        self.user_ids.values.to_frame("id").write_ipc(folder / "users.arrow")
        self.item_ids.values.to_frame("id").write_ipc(folder / "items.arrow")

    def manifest(self) -> dict[str, Any]:
        """The fields that go into the manifest of the model, as JSON values."""
        return {
            "fingerprint": self.fingerprint,
            "window": list(self.window),
            "schema": None if self.schema is None else self.schema.state(),
            "position": None if self.position is None else dataclasses.asdict(self.position),
        }

    @classmethod
    def read(cls, folder: Path, manifest: dict[str, Any], mmap: bool) -> TrainingContext:
        """The context that `write` and `manifest` wrote. Raises ValueError, OSError or KeyError where it is damaged."""
        features = folder / "history.features.arrow"
        histories = {name: read_state(folder, f"history.{name}", "array", mmap) for name in _HISTORY_ARRAYS}
        item_arrays = {name: read_state(folder, f"known.{name}", "array", mmap) for name in _ITEM_ARRAYS}
        schema, position = manifest.get("schema"), manifest.get("position")
        stored = (folder / "history.stored.npy").exists()
        users, items = (Ids(pl.read_ipc(folder / f"{name}.arrow")["id"]) for name in ("users", "items"))
        _check_arrays(histories, item_arrays, len(users), len(items))
        return cls(
            users,
            items,
            Histories(**histories, features=pl.read_ipc(features) if features.exists() else None),
            **item_arrays,
            fingerprint=manifest["fingerprint"],
            window=tuple(manifest["window"]),
            schema=None if schema is None else EventSchema.from_state(schema),
            position=None if position is None else StorePosition(**position),
            stored=read_state(folder, "history.stored", "array", mmap) if stored else None,
        )


def _check_arrays(
    histories: dict[str, np.ndarray], item_arrays: dict[str, np.ndarray], n_users: int, n_items: int
) -> None:
    """Raise ValueError for codes or offsets out of range: compiled kernels index with them unchecked."""
    m, n = len(histories["items"]), len(histories["offsets"]) - 1
    check_offsets(histories["offsets"], m)
    check_range("items of histories", histories["items"], 0, n_items)
    check_range("users of histories", histories["users"], -1, n_users)
    for name in ("weights", "times", "kinds", "values"):
        if histories[name].shape != (m,):
            raise ValueError(f"history.{name} is of another length than history.items")
    if not len(histories["now"]) == len(histories["users"]) == n:
        raise ValueError("history.now and history.users are of another length than history.offsets")
    for name, array in item_arrays.items():
        if array.shape != (n_items,):
            raise ValueError(f"known.{name} is not as long as there are items")
