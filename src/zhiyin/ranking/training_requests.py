"""Requests for training: moments of the log at which a user did something, with the history strictly before, and what
they then took as labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.hashing import find, table
from zhiyin.core.parallel import kernel, read_only
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.ranking.asof_kernels import enter, widest_of
from zhiyin.ranking.examples import Candidates


@dataclasses.dataclass(frozen=True)
class Requests:
    """n requests made of a log. Nothing of it is copied until their histories are asked for.

    users: int32[n], codes; ends: int64[n], the row of data.events where the user's history ends: the first event at the
    moment of the request; now: int64[n], the moments, microseconds UTC.
    """

    data: Dataset
    users: np.ndarray
    ends: np.ndarray
    now: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def take(self, requests: np.ndarray) -> Requests:
        """Some of them, in their order."""
        return Requests(self.data, self.users[requests], self.ends[requests], self.now[requests])

    @property
    def lengths(self) -> np.ndarray:
        """int64[n]: events before each request."""
        return self.ends - self.data.histories.offsets[self.users]

    def histories(self, start: int = 0, stop: int | None = None) -> Histories:
        """The histories of requests start..stop, each with the user's events before its moment. Copied: a user with
        several requests has several histories."""
        stop = len(self) if stop is None else stop
        whole = self.data.histories
        users, lengths = self.users[start:stop], self.lengths[start:stop]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        picked = np.repeat(whole.offsets[users] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Histories(
            offsets,
            whole.items[picked],
            whole.weights[picked],
            whole.times[picked],
            whole.kinds[picked],
            whole.values[picked],
            self.now[start:stop].copy(),
            users.copy(),
            None if whole.features is None else whole.features[users],
        )

    def chunks(self, size: int = 4096, events: int = 4_000_000) -> Iterator[tuple[int, Histories]]:
        """(start, histories) over all requests, at most `size` at once, and about `events` events."""
        total, start = np.cumsum(self.lengths), 0
        while start < len(self):
            base = total[start - 1] if start else 0
            stop = min(
                start + size, max(start + 1, int(np.searchsorted(total, base + events, side="right"))), len(self)
            )
            yield start, self.histories(start, stop)
            start = stop


def training_requests(
    data: Dataset,
    cut: int | float | str | None = None,
    window: str | None = None,
    max_requests: int | None = 100_000,
    rng: np.random.Generator | None = None,
) -> Requests:
    """Requests at real moments of a log: one where a user had events worth more than nothing at one time.

    Parameters
    ----------
    cut: the first moment, microseconds UTC (a whole number); or a duration before the end of the log ("7d"); or a share
        of the events that come before it (0.9, the default). Models and indexes that answer the requests should be
        learned on what lies before it. In a log without times: the share of each user's events that come before.
    window: how long from the cut on; None: to the end of the log.
    max_requests: a random choice of so many; None: all.

    They stand by user, oldest first. Raises DataError where there is none.
    """
    events = data.events
    user, time = events["user"].to_numpy(), events["time"].to_numpy()
    row = np.arange(len(user))
    share = 0.9 if cut is None else cut
    if isinstance(share, float) and not 0 <= share < 1:
        raise ConfigError(f"cut = {cut!r} is no share of the log", remedy="a number from 0 to 1, such as 0.9")
    begins = np.ones(len(user), dtype=bool)
    if data.has_times:
        begins[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
        if isinstance(share, float):
            share = int(np.quantile(time, share, method="higher")) if len(time) else 0
        first = data.window[1] + 1 - microseconds(share) if isinstance(share, str) else int(share)
        kept = time >= first
        if window is not None:
            kept &= time < first + microseconds(window)
    else:
        if not isinstance(share, float) or window is not None:
            raise DataError("the log has no times: a cut is a share of each user's events", remedy="cut=0.9, no window")
        offsets = data.histories.offsets
        kept = row - offsets[user] >= np.floor(share * data.histories.lengths)[user]
    moment = np.maximum.accumulate(np.where(begins, row, 0))  # the first event of each user and time
    ends = np.unique(moment[kept & (events["weight"].to_numpy() > 0)])
    if not len(ends):
        raise DataError("there is no event to make a request of", remedy="an earlier cut or a longer window")
    if max_requests is not None and len(ends) > max_requests:
        ends = np.sort((rng or Run().rng(63)).choice(ends, max_requests, replace=False))
    return Requests(data, user[ends].copy(), ends, time[ends].copy())


@dataclasses.dataclass(frozen=True)
class Labels:
    """What came of candidates.

    values: float32[m], the largest weight of the user's positive events with the candidate, 0 where there was none;
    relevant: int64[n], items that each user had, whether or not a source had found them.
    """

    values: np.ndarray
    relevant: np.ndarray

    @property
    def recall(self) -> float:
        """Share of the items that users had which are among their candidates; NaN where they had none."""
        total = int(self.relevant.sum())
        return float((self.values > 0).sum() / total) if total else float("nan")


def labels(
    candidates: Candidates,
    requests: Requests,
    horizon: str | int | None = None,
    *,
    graded: bool = True,
    unseen: bool = False,
) -> Labels:
    """Labels of the candidates of requests.

    Parameters
    ----------
    horizon: how long after the moment an event still counts ("7d"); None: events at the very moment. In a log without
        times: how many of the user's next events count; None: one.
    graded: by weight; else 1 for every positive event.
    unseen: whether only items that are not in the history count, for sources that leave those out.
    """
    data = requests.data
    whole, limits = data.histories, data.histories.offsets[requests.users.astype(np.int64) + 1]
    if data.has_times:
        if isinstance(horizon, int):
            raise ConfigError(f"horizon = {horizon!r} is no duration", remedy='such as "7d"')
        until = requests.now + (microseconds(horizon) if horizon is not None else 0)
        bound = limits
    else:
        if isinstance(horizon, str):
            raise ConfigError("the log has no times: a horizon is a number of events", remedy="such as 1")
        until = np.zeros(len(requests), np.int64)
        bound = np.minimum(limits, requests.ends + (1 if horizon is None else horizon))
    values = np.zeros(len(candidates.items), dtype=np.float32)
    relevant = np.zeros(len(requests), dtype=np.int64)
    _label(
        read_only(candidates.offsets), read_only(candidates.items),
        read_only(whole.items), read_only(whole.weights), read_only(whole.times),
        read_only(whole.offsets[requests.users]), read_only(requests.ends), read_only(bound), read_only(until),
        graded, unseen, values, relevant,
    )  # fmt: skip
    return Labels(values, relevant)


@kernel
def _label(offsets, items, had, weights, times, begins, ends, bounds, until, graded, unseen, values, relevant):
    n = len(offsets) - 1
    slots = table(widest_of(offsets, 0, n))
    for row in range(n):
        begin, end = offsets[row], offsets[row + 1]
        stop = ends[row]
        while stop < bounds[row] and times[stop] <= until[row]:
            stop += 1
        positive = np.empty(stop - ends[row], dtype=np.int32)
        count = 0
        for at in range(ends[row], stop):
            if weights[at] > 0:
                positive[count] = had[at]
                count += 1
        distinct = np.unique(positive[:count])
        if unseen:
            new = np.ones(len(distinct), dtype=np.bool_)
            for at in range(begins[row], ends[row]):
                place = np.searchsorted(distinct, had[at])
                if place < len(distinct) and distinct[place] == had[at]:
                    new[place] = False
            distinct = distinct[new]
        relevant[row] = len(distinct)
        enter(slots, items, begin, end)
        mine = items[begin:end]
        for at in range(ends[row], stop):
            if not weights[at] > 0:
                continue
            place = slots[find(slots, mine, had[at])]
            if place < 0:
                continue
            if unseen:
                spot = np.searchsorted(distinct, had[at])
                if spot == len(distinct) or distinct[spot] != had[at]:
                    continue
            values[begin + place] = max(values[begin + place], weights[at] if graded else np.float32(1))
