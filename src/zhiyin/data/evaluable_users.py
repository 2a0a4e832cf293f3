"""Which users a test part can judge, and where a log is cut by time so that these are enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories

# Fewest users for a confidence interval.
MIN_USERS = 30
# Users that are counted first: where enough of them can be evaluated, the others need not be counted.
_SAMPLE = 1_000


def relevant_pairs(test: Dataset, histories: Histories, exclude_seen: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """The pairs (user, relevant item) of a test part, sorted by user and item.

    An item is relevant if the last of its events with a weight other than 0 has a positive weight (`Histories.matrix`,
    binary); with `exclude_seen`, only if it is not in the history that the model is given.

    Parameters
    ----------
    histories: of each user code, in the codes of `test`.

    Returns
    -------
    int64[m] users, int64[m] items, and the number of pairs dropped because the item is in the history.
    """
    truth = test.matrix()
    owner = np.repeat(np.arange(test.n_users, dtype=np.int64), np.diff(truth.indptr))
    relevant = truth.indices.astype(np.int64)
    if not exclude_seen:
        return owner, relevant, 0
    # A pair (user, item) as one number; only users with a truth matter.
    has_relevant = np.repeat(np.diff(truth.indptr) > 0, histories.lengths)
    past = np.repeat(np.arange(len(histories), dtype=np.int64), histories.lengths)[has_relevant]
    pairs = past * test.n_items + histories.items[has_relevant]
    new = ~np.isin(owner * test.n_items + relevant, pairs)
    return owner[new], relevant[new], int((~new).sum())


def count_judged(train: Dataset, test: Dataset, exclude_seen: bool) -> int:
    """Users with a relevant item in `test`: exact below `MIN_USERS`, a lower bound from there on."""
    users = np.unique(test.events["user"].to_numpy())
    if len(users) > _SAMPLE:
        last = users[_SAMPLE - 1]
        parts = [part.subset(part.events["user"].to_numpy() <= last) for part in (train, test)]
        count = len(np.unique(relevant_pairs(parts[1], parts[0].histories, exclude_seen)[0]))
        if count >= MIN_USERS:
            return count
    return len(np.unique(relevant_pairs(test, train.histories, exclude_seen)[0]))


def judges_enough_more(before: float, after: float) -> bool:
    """Whether a cut with `after` evaluable users replaces one with `before`: where it has at least twice as many."""
    return after > 0 if before < 1 else after >= max(2 * before, 10)


def balanced_cuts(data: Dataset, edges: Sequence[float]) -> list[int]:
    """The times before which given shares of the users' new items lie, where every user has the same weight.

    Only the first event of a pair (user, item) counts, and each user's pairs together count 1. However many events one
    user has, a cut moves by no more than that user's 1; and of the users at least the share behind a cut have a new
    item after it, but for what happened at one moment. Empty where no event has a positive weight.

    Parameters
    ----------
    edges: shares from 0 to 1; 1 is the moment after the last event.
    """
    events = data.events
    is_positive = events["weight"].to_numpy() > 0
    if not is_positive.any():
        return []
    user = events["user"].to_numpy()[is_positive].astype(np.int64)
    pair = user * data.n_items + events["item"].to_numpy()[is_positive]
    first = np.unique(pair, return_index=True)[1]  # events are sorted by user and time
    user, time = user[first], events["time"].to_numpy()[is_positive][first]
    mass = 1.0 / np.bincount(user)[user]
    order = np.argsort(time, kind="stable")
    total = np.cumsum(mass[order])
    positions = np.searchsorted(total, np.array(edges) * total[-1] * (1 - 1e-12))
    cuts = time[order[np.minimum(positions, len(order) - 1)]].tolist()
    return [data.window[1] + 1 if edge >= 1 else cut for edge, cut in zip(edges, cuts, strict=True)]
