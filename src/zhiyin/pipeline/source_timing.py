"""How long fits and lists of a source take on this machine, measured on growing samples of the log.

The first fit, on a few events, is for the compiler alone and is not counted. The next one tells whether all
fits of the source are sure to fit into the time that is left, or sure not to; between the two a sample four times as
large is tried, as long as that is a small part of the time.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from zhiyin.core.errors import ZhiyinError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.recommender import Recommender
from zhiyin.models.registry import parse
from zhiyin.pipeline.fit_costs import Measured, is_popularity
from zhiyin.pipeline.suitable_sources import SuitableSource
from zhiyin.pipeline.time_budget import OutOfTime, TimeBudget, spelled

# Events of the fit that is for the compiler, of the smallest sample that is measured, and how much larger the next is.
COMPILED_EVENTS, FIRST_EVENTS, GROWTH = 300, 4_000, 4
# Items of the sample that a source is measured on whose fit grows with the items.
SAMPLED_ITEMS = 1_500
# Requests that the time of a list is measured on.
SAMPLED_REQUESTS = 256
# Share of what is left that one source may take in all.
SOURCE_SHARE = 0.6
# Shares of what is left that a measurement may take, and below which it is made just to know better.
TIMING_SHARE, CHEAP_SHARE = 0.12, 0.015
# Share of the budget after which no further source is measured.
ALL_TIMING_SHARE = 0.4


class SourceTimer:
    """Measures sources one after another, and notes what they cost.

    Parameters
    ----------
    data: the first part of the log, before all windows.
    fits: events of each fit that a source needs at the least: of a window of each purpose, of all, of those afterwards.
    requests: lists that it needs at the least. k: length of a list of candidates.
    """

    def __init__(self, data: Dataset, fits: list[int], requests: int, k: int, budget: TimeBudget, run: Run) -> None:
        self.data, self.fits, self.requests, self.k = data, fits, requests, k
        self.budget, self.costs, self.run = budget, budget.costs, run
        self._smallest = next(iter(samples(data, run, COMPILED_EVENTS)))
        self._samples = list(samples(data, run))
        self._end = budget.elapsed + ALL_TIMING_SHARE * max(0.0, budget.left)

    def why_not(self, source: SuitableSource) -> str:
        """Measure a source; returns why it is left out, nothing where it is kept."""
        text = source.specification
        if self.budget.elapsed > self._end and not is_popularity(text):
            if self.budget.left <= 0:
                return "no time is left"
            return f"{spelled(self.budget.left)} are left, too little to measure it"
        self.budget.work_on(text)
        if source.growth == "items" and self.data.n_items > SAMPLED_ITEMS:
            parts = [of_items(self.data, SAMPLED_ITEMS, self.run)]
        else:
            parts = self._samples
        try:
            part = self._smallest
            if source.growth == "items":
                part = of_items(part, COMPILED_EVENTS, self.run)
            self._fit(text, part, compile_only=True)
            for place, part in enumerate(parts):
                if self.budget.left <= 0 and not is_popularity(text):
                    raise OutOfTime
                seconds, per_request = self._fit(text, part)
                seconds, per_request, events = self._scaled(source, part, seconds, per_request)
                self.costs.measure(text, Measured(seconds, events, source.growth == "events", per_request))
                if self._decided(text, seconds, per_request, parts[place + 1 :]):
                    break
        except OutOfTime:
            return f"a fit on {part.n_events:,} of {self.data.n_events:,} events was not done in the time for it"
        except ZhiyinError as error:  # a source that does not fit the data after all is no reason to stop
            return str(error)
        needed, left = self.needed(text), max(0.0, self.budget.left)
        if not is_popularity(text) and needed > SOURCE_SHARE * left:
            return f"its fits would take {spelled(needed)} of the {spelled(left)} left"
        return ""

    def needed(self, text: str) -> float:
        """Seconds of all fits and lists that a source needs at the least."""
        return sum(self.costs.fit(text, events) for events in self.fits) + self.costs.lists(text, self.requests)

    def _decided(self, text: str, seconds: float, per_request: float, larger: list[Dataset]) -> bool:
        """Whether what was measured is enough."""
        left = max(0.0, self.budget.left)
        at_least = seconds * len(self.fits) + per_request * self.requests
        if at_least > SOURCE_SHARE * left or not larger:
            return True
        if seconds * GROWTH < CHEAP_SHARE * left:
            return False
        if self.needed(text) < SOURCE_SHARE * left / GROWTH:
            return True
        return self.costs.fit(text, larger[0].n_events) > TIMING_SHARE * left

    def _scaled(
        self, source: SuitableSource, part: Dataset, seconds: float, per_request: float
    ) -> tuple[float, float, int]:
        """Seconds of a fit and of a list on all items, from those on a sample; and of how many events that is."""
        if source.growth == "items":
            ratio = self.data.n_items / max(1, part.n_items)
            return seconds * ratio**3, per_request * ratio, part.n_events
        if source.growth == "known items":
            known = [max(1, int((one.popularity() > 0).sum())) for one in (self.data, part)]
            return seconds * known[0] / known[1], per_request, self.data.n_events
        return seconds, per_request, part.n_events

    def _fit(self, text: str, part: Dataset, compile_only: bool = False) -> tuple[float, float]:
        """Seconds of a fit, and of each list."""
        model: Recommender = parse(text)
        limit = TIMING_SHARE * max(0.0, self.budget.left)
        run = self.run if is_popularity(text) else self.budget.limited(self.run, limit)
        with self.budget.timed() as fit:
            model.fit(part, run)
        n = min(2 if compile_only else SAMPLED_REQUESTS, part.n_users)
        histories = part.histories.take(np.arange(n))
        with self.budget.timed() as lists:
            model.rank(histories, self.k, exclude=histories, run=self.run)
        return fit.seconds, lists.seconds / max(1, n)


def samples(data: Dataset, run: Run, size: int = FIRST_EVENTS) -> list[Dataset]:
    """Samples of the users of a log with all of their events, each four times as large as the one before; the last is
    the log."""
    order = run.rng(241).permutation(data.n_users)
    lengths = np.bincount(data.events["user"].to_numpy(), minlength=data.n_users)[order]
    total = np.cumsum(lengths)
    parts = []
    while size * 2 < data.n_events:
        chosen = np.zeros(data.n_users, dtype=bool)
        chosen[order[: np.searchsorted(total, size) + 1]] = True
        parts.append(data.subset(chosen[data.events["user"].to_numpy()]))
        size *= GROWTH
    return [*parts, data]


def of_items(data: Dataset, n: int, run: Run) -> Dataset:
    """A log of so many of the items, drawn at random, those that have events first, and of nothing else."""
    order = run.rng(242).permutation(data.n_items)
    order = order[np.argsort(data.popularity()[order] == 0, kind="stable")]
    kept = np.zeros(data.n_items, dtype=bool)
    kept[order[:n]] = True
    events = data.events.filter(pl.Series(kept[data.events["item"].to_numpy()]))
    frame = pl.DataFrame({
        "user": data.user_ids.decode(events["user"].to_numpy()),
        "item": data.item_ids.decode(events["item"].to_numpy()),
        **({"time": events["time"]} if data.has_times else {}),
        "weight": events["weight"],
    })  # fmt: skip
    return Dataset.build(frame, items=data.items.select("id").filter(pl.Series(kept)))
