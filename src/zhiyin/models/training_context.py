"""What every model remembers of its training data besides its own parameters."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.event_schema import EventSchema, StorePosition
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.models.masked_search import Mask


@dataclasses.dataclass(frozen=True)
class Known:
    """Ids, histories and popularity.

    Parameters
    ----------
    candidates: bool[n_items], items that may be recommended.
    popularity: float32[n_items], events worth more than nothing; a stranger's scores.
    priority: int32[n_items], a permutation by (popularity, seeded shuffle): how ties are broken.
    histories: each user's training history, row = user code.
    fingerprint: of the training data; window: its first and last moment, microseconds UTC.
    schema: what events mean, as they were learned. position, stored: how much of a store was read, and which events of
        `histories` are from there (bool[m]). None where a model was saved before these were kept, and where no store
        was read.
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

    @functools.cached_property
    def best_first(self) -> np.ndarray:
        """int32[n_items]: items by popularity, the most popular first, ties by priority."""
        return np.argsort(-self.priority).astype(np.int32)

    def mask(self, allowed: np.ndarray | Mask | None = None) -> Mask:
        """Items that may be recommended and are allowed; `allowed`: bool[n_items], a mask, or None for all."""
        if allowed is None:
            return self._mask
        return allowed.within(self.candidates) if isinstance(allowed, Mask) else Mask.of(self.candidates & allowed)

    def in_order(self, mask: Mask) -> np.ndarray:
        """int32: items by popularity as `best_first`, those that pass among them; not all that do not, where few do."""
        return mask.rows[np.argsort(-self.priority[mask.rows])] if mask.few else self.best_first

    @functools.cached_property
    def _mask(self) -> Mask:
        return Mask.of(np.asarray(self.candidates))

    @classmethod
    def of(cls, data: Dataset, run: Run) -> Known:
        positive = data.events["weight"].to_numpy() > 0
        popularity = np.bincount(data.events["item"].to_numpy()[positive], minlength=data.n_items).astype(np.float32)
        shuffle = run.rng(1).permutation(data.n_items)
        priority = np.empty(data.n_items, dtype=np.int32)
        priority[np.lexsort((shuffle, popularity))] = np.arange(data.n_items, dtype=np.int32)
        return cls(
            data.user_ids,
            data.item_ids,
            data.histories,
            data.candidates,
            popularity,
            priority,
            data.fingerprint,
            data.window,
            data.schema,
            data.position,
            data.stored,
        )
