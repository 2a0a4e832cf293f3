"""The sample of users on which models without batches report their loss: the same in each epoch, at a bounded cost."""

from __future__ import annotations

import numpy as np

from zhiyin.core.run import Run

# Entries of the matrix of users and items that a loss is computed on: some milliseconds an epoch.
LOSS_ENTRIES = 50_000
# Stream of draws of the users in the sample.
LOSS_STREAM = 15


def sampled_users(indptr: np.ndarray, run: Run) -> np.ndarray:
    """int64[n]: users drawn at random, ascending, who have LOSS_ENTRIES entries at most together; at least one user.

    indptr: int[n_users + 1], where the entries of each user begin.
    """
    n_users = len(indptr) - 1
    if indptr[-1] <= LOSS_ENTRIES:
        return np.arange(n_users)
    order = run.rng(LOSS_STREAM).permutation(n_users)
    n = np.searchsorted(np.cumsum(np.diff(indptr)[order]), LOSS_ENTRIES, side="right")
    return np.sort(order[: max(1, int(n))])
