"""Training requests: moments of the log at which a user had positive events, which are the labels, with the history
strictly before."""

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
from zhiyin.ranking.asof_kernels import insert_candidates
from zhiyin.ranking.examples import Candidates


@dataclasses.dataclass(frozen=True)
class TrainingRequests:
    """n requests at moments of a log. Events are copied only by `histories`.

    Parameters
    ----------
    users: int32[n], user codes.
    ends: int64[n], row of data.events at which the user's history ends: the first event at the moment of the request.
    now: int64[n], moments, microseconds UTC.
    """

    data: Dataset
    users: np.ndarray
    ends: np.ndarray
    now: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def take(self, requests: np.ndarray) -> TrainingRequests:
        """A selection of the requests, in the given order."""
        return TrainingRequests(self.data, self.users[requests], self.ends[requests], self.now[requests])

    @property
    def lengths(self) -> np.ndarray:
        """int64[n]: number of events before each request."""
        return self.ends - self.data.histories.offsets[self.users]

    def histories(self, start: int = 0, stop: int | None = None) -> Histories:
        """The histories of requests [start, stop), each with the user's events before its moment, as a copy."""
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
        """Chunks (start, histories) over all requests, of at most `size` requests and about `events` events each."""
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
) -> TrainingRequests:
    """One request for each user and time with positive events; ordered by user, then by time.

    Parameters
    ----------
    cut: the first moment: microseconds UTC (int), a duration before the end of the log ("7d"), or the share of the
        events that come before it (float; default 0.9). Models and indexes that answer the requests should be learned
        on the events before it. In a log without times: the share of each user's events that come before.
    window: duration from the cut on; None for the rest of the log.
    max_requests: size of a random sample; None for all requests.
    rng: generator of the sample; None for stream 63 of `Run()`.

    Raises DataError where there is no request, ConfigError for a cut that is no share.
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
        mask = time >= first
        if window is not None:
            mask &= time < first + microseconds(window)
    else:
        if not isinstance(share, float) or window is not None:
            raise DataError("the log has no times: a cut is a share of each user's events", remedy="cut=0.9, no window")
        offsets = data.histories.offsets
        mask = row - offsets[user] >= np.floor(share * data.histories.lengths)[user]
    moment = np.maximum.accumulate(np.where(begins, row, 0))  # the first event of each user and time
    ends = np.unique(moment[mask & (events["weight"].to_numpy() > 0)])
    if not len(ends):
        raise DataError("there is no event to make a request of", remedy="an earlier cut or a longer window")
    if max_requests is not None and len(ends) > max_requests:
        ends = np.sort((rng or Run().rng(63)).choice(ends, max_requests, replace=False))
    return TrainingRequests(data, user[ends].copy(), ends, time[ends].copy())


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels of candidates.

    Parameters
    ----------
    values: float32[m], the largest weight of the user's positive events with the candidate, 0 where there is none.
    relevant: int64[n], number of items with positive events in each request, retrieved or not.
    """

    values: np.ndarray
    relevant: np.ndarray

    @property
    def recall(self) -> float:
        """Share of the relevant items that are among the candidates; NaN where there is no relevant item."""
        total = int(self.relevant.sum())
        return float((self.values > 0).sum() / total) if total else float("nan")


def labels(
    candidates: Candidates,
    requests: TrainingRequests,
    horizon: str | int | None = None,
    *,
    graded: bool = True,
    unseen: bool = False,
) -> Labels:
    """Labels of the candidates of requests.

    Parameters
    ----------
    horizon: duration after the moment within which events count ("7d"); None for events at that moment only. In a log
        without times: number of the user's next events that count; None for 1.
    graded: labels are event weights; otherwise 1 for every positive event.
    unseen: items of the history do not count, for sources that leave them out.
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
def _label(
    offsets, items, history_items, weights, times, begins, ends, bounds, until, graded, unseen, values, relevant
):
    n = len(offsets) - 1
    for row in range(n):
        begin, end = offsets[row], offsets[row + 1]
        stop = ends[row]
        while stop < bounds[row] and times[stop] <= until[row]:
            stop += 1
        positive = np.empty(stop - ends[row], dtype=np.int32)
        count = 0
        for at in range(ends[row], stop):
            if weights[at] > 0:
                positive[count] = history_items[at]
                count += 1
        distinct = np.unique(positive[:count])
        if unseen:
            new = np.ones(len(distinct), dtype=np.bool_)
            for at in range(begins[row], ends[row]):
                place = np.searchsorted(distinct, history_items[at])
                if place < len(distinct) and distinct[place] == history_items[at]:
                    new[place] = False
            distinct = distinct[new]
        relevant[row] = len(distinct)
        request_items = items[begin:end]
        slots = table(len(request_items))
        insert_candidates(slots, request_items)
        for at in range(ends[row], stop):
            if not weights[at] > 0:
                continue
            place = slots[find(slots, request_items, history_items[at])]
            if place < 0:
                continue
            if unseen:
                spot = np.searchsorted(distinct, history_items[at])
                if spot == len(distinct) or distinct[spot] != history_items[at]:
                    continue
            values[begin + place] = max(values[begin + place], weights[at] if graded else np.float32(1))
