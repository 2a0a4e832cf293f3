"""Random numbers and quantiles over the events of a data set, the same however many processes hold them."""

from __future__ import annotations

import numpy as np

from zhiyin.data.dataset import Dataset

# Random numbers drawn at once where other processes hold most of the events.
DRAWS_PER_CHUNK = 1 << 20


def event_draws(data: Dataset, rng: np.random.Generator) -> np.ndarray:
    """float64[n_events] in [0, 1): one number for each event, by its place in the whole log, sorted by (user, time)."""
    user = data.events["user"].to_numpy()
    if data.group.world == 1:
        return rng.random(len(user))
    own = np.bincount(user, minlength=data.n_users)
    every = data.group.sum(own)
    starts, own_starts = np.cumsum(every) - every, np.cumsum(own) - own
    places = (starts - own_starts)[user] + np.arange(len(user))  # ascending
    draws = np.empty(len(user))
    for start in range(0, int(every.sum()), DRAWS_PER_CHUNK):
        chunk = rng.random(min(DRAWS_PER_CHUNK, int(every.sum()) - start))
        first, last = np.searchsorted(places, [start, start + len(chunk)])
        draws[first:last] = chunk[places[first:last] - start]
    return draws


def time_quantile(data: Dataset, share: float) -> int:
    """`np.quantile(times, share, method="higher")` of the times of all events, microseconds UTC."""
    times = data.events["time"].to_numpy()
    if data.group.world == 1:
        return int(np.quantile(times, share, method="higher"))
    n = int(data.group.sum(np.array([len(times)], dtype=np.int64))[0])
    place = int(np.ceil((n - 1) * share))
    low, high = data.window  # the least moment with more than `place` events up to it lies between them
    while low < high:
        middle = (low + high) // 2
        n_before = int(data.group.sum(np.array([np.count_nonzero(times <= middle)], dtype=np.int64))[0])
        low, high = (low, middle) if n_before > place else (middle + 1, high)
    return int(low)
