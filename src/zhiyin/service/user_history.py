"""UserHistory: what one request knows of its user's events."""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.data.histories import Histories


@dataclasses.dataclass(frozen=True)
class UserHistory:
    """The history of a user or a session: learned events and those since.

    Parameters
    ----------
    history: one row, in codes of the model.
    code: code of the user in the version; -1: unknown to it.
    tail: events that the version has not learned, by time, as arrays: items, weights, times, kinds, values.
    new_items: codes of the items among them that the version does not know.
    seqs: int64, sequence numbers of the new events in the store's log, events of unknown items among them; 0: unknown.
    """

    history: Histories
    code: int
    tail: dict[str, np.ndarray]
    new_items: np.ndarray
    seqs: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
