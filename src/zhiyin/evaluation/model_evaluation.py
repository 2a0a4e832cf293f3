"""Evaluation of a model on a test window, ranking the whole catalogue: shared by `evaluate`, `tune` and the gate."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.core.ranking_metrics import RANKING, hits_of
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.evaluable_users import relevant_pairs
from zhiyin.data.histories import Histories
from zhiyin.data.splits import Split
from zhiyin.evaluation.pointwise_metrics import user_auc
from zhiyin.evaluation.rating_metric_names import RATING, is_rating_metric
from zhiyin.models.recommender import Recommender

# The remedy of an error where only repeats are relevant, for callers and for users of the command line.
REPEATS_REMEDY = "exclude_seen=False, in zhiyin.toml [evaluate] exclude_seen = false"


@dataclasses.dataclass(frozen=True)
class Window:
    """A test window: histories of n users before it, and their relevant items in it.

    Parameters
    ----------
    train: the training part.
    users: int64[n], codes of the evaluated users: those with a relevant item.
    histories: the users' input events; `now` is the start of the test window, or the user's last input event where
        that is later (splits that do not cut by time).
    offsets, items: CSR of the relevant items, sorted within each user.
    exclude_seen: whether items of the history may not be recommended.
    events: number of test events.
    seen: number of relevant items dropped because they are in the history.
    n_skipped_users: users of the test part without a relevant item left.
    """

    train: Dataset
    users: np.ndarray
    histories: Histories
    offsets: np.ndarray
    items: np.ndarray
    exclude_seen: bool
    events: int
    seen: int
    n_skipped_users: int

    @classmethod
    def of(cls, split: Split, exclude_seen: bool = True) -> Window:
        """The window of a split; `relevant_pairs` defines the relevant items.

        Raises DataError where no user has a relevant item.
        """
        train, test = split.train, split.test
        histories = split.fold_in.histories
        owner, relevant, seen = relevant_pairs(test, histories, exclude_seen)
        users, counts = np.unique(owner, return_counts=True)
        if not len(users):
            raise DataError(
                "nobody can be judged: no user has a relevant item in the test part"
                + (" that is new to them" if seen else ""),
                remedy="a longer test window" + (f", or {REPEATS_REMEDY}" if seen else ""),
            )
        start = test.window[0]
        now = np.full(len(users), start, dtype=np.int64)
        filled = histories.lengths[users] > 0
        now[filled] = np.maximum(start, histories.times[histories.offsets[users[filled] + 1] - 1])
        return cls(
            train,
            users,
            histories.take(users, now=now),
            np.concatenate([[0], np.cumsum(counts)]),
            relevant.astype(np.int32),
            exclude_seen,
            test.n_events,
            seen,
            test.events["user"].n_unique() - len(users),
        )

    def __len__(self) -> int:
        return len(self.users)

    @property
    def relevant(self) -> np.ndarray:
        """int64[n], the number of relevant items of each user."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Window:
        """The same window for some of its users."""
        lengths = self.relevant[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        picked = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return dataclasses.replace(
            self,
            users=self.users[rows],
            histories=self.histories.take(rows),
            offsets=offsets,
            items=self.items[picked],
        )


@dataclasses.dataclass(frozen=True)
class WindowResult:
    """Lists int32[n, K] of one model, their hits bool[n, K], metrics "ndcg@10": float64[n], ranking time."""

    lists: np.ndarray
    hits: np.ndarray
    per_user: dict[str, np.ndarray]
    seconds: float


def evaluate_window(
    model: Recommender,
    window: Window,
    ks: Sequence[int],
    run: Run,
    *,
    auc: bool = False,
    label: str = "",
) -> WindowResult:
    """Rank the whole catalogue for every user of the window with a fitted model, and score the lists.

    Lists are max(ks) long; where fewer items remain, the last places are misses (-1).
    """
    seen = window.histories if window.exclude_seen else None
    started = time.perf_counter()
    ranked, _ = model.rank(window.histories, max(ks), exclude=seen, run=run, label=label)
    seconds = time.perf_counter() - started
    lists = np.full((len(window), max(ks)), -1, dtype=np.int32)
    lists[:, : ranked.shape[1]] = ranked
    hits = hits_of(lists, window.offsets, window.items, run)
    per_user = accuracy(hits, window.relevant, ks)
    if auc:
        per_user["auc"] = _auc(model, window, run)
    return WindowResult(lists, hits, per_user, seconds)


def joined_results(parts: Sequence[WindowResult]) -> WindowResult:
    """The result of a window from those of its parts, in the order of its users."""
    return WindowResult(
        np.concatenate([part.lists for part in parts]),
        np.concatenate([part.hits for part in parts]),
        {name: np.concatenate([part.per_user[name] for part in parts]) for name in parts[0].per_user},
        sum(part.seconds for part in parts),
    )


def accuracy(
    hits: np.ndarray, relevant: np.ndarray, ks: Sequence[int], names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """{"recall@10": float64[n], ...} for every k; NaN for users without a relevant item. names: None for all."""
    has_relevant = relevant > 0
    at_least_one = np.maximum(relevant, 1)
    return {
        f"{name}@{k}": np.where(has_relevant, RANKING[name](hits, at_least_one, k), np.nan)
        for k in ks
        for name in (RANKING if names is None else names)
    }


def metric_k(metric: str, auc: bool = False) -> int | None:
    """The k of "ndcg@10"; None for "auc" and metrics of ratings. Raises ConfigError for what is no metric."""
    if (auc and metric == "auc") or is_rating_metric(metric):
        return None
    name, _, k = metric.partition("@")
    if name not in RANKING or not k.isdigit() or int(k) < 1:
        raise ConfigError(
            f"{metric!r} is no metric of ranked lists, nor of ratings",
            remedy="auc needs auc=True"
            if metric == "auc"
            else suggest(metric, [*(f"{n}@10" for n in RANKING), *RATING]),
        )
    return int(k)


def _auc(model: Recommender, window: Window, run: Run) -> np.ndarray:
    """float64[n]; a second pass over the scores, because `rank` marks what is excluded in them."""
    areas = np.empty(len(window))
    for start, batch in window.histories.chunks(model.chunk_rows):
        stop = start + len(batch)
        none = (np.zeros(len(batch) + 1, np.int64), np.zeros(0, np.int32))
        seen, seen_items = (batch.offsets, batch.items) if window.exclude_seen else none
        offsets = window.offsets[start : stop + 1]
        truth = window.items[offsets[0] : offsets[-1]]
        scores = model.score(batch, run)
        areas[start:stop] = user_auc(
            scores, seen, seen_items, offsets - offsets[0], truth, window.train.candidates, run
        )
    return areas


class PeakMemory:
    """The rise of this process's resident memory since the start, in MB (10^6 bytes).

    A lower bound: a thread samples every 10 ms and may miss shorter peaks, and memory that the allocator reuses does
    not show. NaN where there is no /proc.
    """

    mb = float("nan")

    def __enter__(self) -> PeakMemory:
        self._stop, self._thread = threading.Event(), None
        self._at_start = self._peak = _resident()
        if self._at_start:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self.mb = (max(self._peak, _resident()) - self._at_start) / 1e6

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self._peak = max(self._peak, _resident())


def _resident() -> int:
    """Resident bytes of this process; 0 where unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0
