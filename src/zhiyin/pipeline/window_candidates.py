"""Candidates of the windows that a pipeline learns from and is chosen by, each as of the window's first day."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.splits import Split
from zhiyin.evaluation.model_evaluation import Window
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline.fitting_plan import FittingPlan, newest_first
from zhiyin.pipeline.time_budget import spelled
from zhiyin.pipeline.time_windows import HeldOut, WindowPlan
from zhiyin.ranking.examples import Candidates
from zhiyin.ranking.feature_builder import FeatureBuilder
from zhiyin.ranking.retrieval import retrieve

# Requests of a window that are used: more add little and cost time.
MAX_WINDOW_REQUESTS = 20_000
# Strangers of a window, where sources know users by their columns: users with a history stand in for those that lack.
N_WINDOW_STRANGERS = 1_000


@dataclasses.dataclass(frozen=True)
class WindowCandidates:
    """The candidates of the n users of a window, as of its first day.

    Parameters
    ----------
    past: the events before the window.
    sources: fitted on them.
    labels: float32[m], 1 where the candidate is relevant: the user had it in the window.
    copies: the last requests, those of users asked for as if they had no history; see `with_strangers`.
    """

    past: Dataset
    window: Window
    sources: Mapping[str, Recommender]
    candidates: Candidates
    labels: np.ndarray
    copies: int = 0

    def builder(self, run: Run, like: FeatureBuilder | None = None) -> FeatureBuilder:
        """What makes features of candidates as they were on the window's first day. `like`: as of another window, whose
        columns these are to be: of many kinds of events others may be among the most frequent."""
        return FeatureBuilder.learn(self.past, self.sources, like=like, run=run)

    @property
    def relevant(self) -> np.ndarray:
        return self.window.relevant

    @property
    def recall(self) -> float:
        """Share of the relevant items that are among the candidates."""
        own = len(self.window) - self.copies
        labels = self.labels[: self.candidates.offsets[own]]
        return float(labels.sum() / max(1, self.relevant[:own].sum()))

    def of(self, sources: Iterable[str]) -> WindowCandidates:
        """The window as it would be with these of its sources alone."""
        kept, reduced = set(sources), self
        for name in self.sources:
            reduced = reduced if name in kept else reduced.without(name)
        return reduced

    def without(self, source: str) -> WindowCandidates:
        """The window as it would be without a source."""
        candidates = self.candidates
        columns = [at for at, name in enumerate(candidates.sources) if name != source]
        remaining = (candidates.ranks[:, columns] >= 0).any(axis=1)
        counts = np.bincount(candidates.owners[remaining], minlength=len(candidates))
        reduced = Candidates(
            np.concatenate([[0], np.cumsum(counts)]),
            candidates.items[remaining],
            tuple(candidates.sources[at] for at in columns),
            candidates.scores[remaining][:, columns],
            candidates.ranks[remaining][:, columns],
        )
        sources = {name: model for name, model in self.sources.items() if name != source}
        return dataclasses.replace(self, sources=sources, candidates=reduced, labels=self.labels[remaining])


def retrieve_window(
    sources: Mapping[str, Recommender], part: Split, window: Window, k: int, run: Run
) -> WindowCandidates:
    """Candidates of a window by copies of the sources, fitted on the events before it."""
    fitted = {name: copy.deepcopy(model).fit(part.train, run) for name, model in sources.items()}
    return _retrieved(fitted, part, few_requests(window, None, run), k, run)


def few_requests(window: Window, most: int | None, run: Run) -> Window:
    """The window with at most so many of its requests, drawn at random."""
    most = min(MAX_WINDOW_REQUESTS, most or MAX_WINDOW_REQUESTS)
    if len(window) <= most:
        return window
    return window.take(np.sort(run.rng(61).choice(len(window), most, replace=False)))


def _retrieved(fitted: Mapping[str, Recommender], part: Split, window: Window, k: int, run: Run) -> WindowCandidates:
    seen, copies = window.histories, 0
    if any(model.reads_user_columns for model in fitted.values()):
        window, seen, copies = with_strangers(window, run)
    candidates = retrieve(fitted, window.histories, k, exclude=seen if window.exclude_seen else None, run=run)
    return WindowCandidates(part.train, window, fitted, candidates, hits(candidates, window), copies)


def with_strangers(window: Window, run: Run) -> tuple[Window, Histories, int]:
    """The window with requests of users as if they had done nothing, so that there are strangers to learn from; the
    histories of all, which count as seen; and how many were added, as the last."""
    own = window.histories
    n_missing = N_WINDOW_STRANGERS - int((own.positives == 0).sum())
    rows = np.flatnonzero(own.positives > 0)
    if own.features is None or n_missing <= 0 or not len(rows):
        return window, own, 0
    if len(rows) > n_missing:
        rows = np.sort(run.rng(66).choice(rows, n_missing, replace=False))
    whole = window.take(np.concatenate([np.arange(len(window)), rows]))
    nothing = np.full(len(rows), own.offsets[-1])
    users = np.concatenate([own.users, np.full(len(rows), -1)]).astype(np.int32)
    asked = dataclasses.replace(own, offsets=np.concatenate([own.offsets, nothing]), now=whole.histories.now,
                                users=users, features=whole.histories.features)  # fmt: skip
    return dataclasses.replace(whole, histories=asked), whole.histories, len(rows)


def hits(candidates: Candidates, window: Window) -> np.ndarray:
    """float32[m]: 1 where a candidate is among the relevant items of its request."""
    n_items = window.train.n_items
    owners = np.repeat(np.arange(len(window), dtype=np.int64), window.relevant)
    relevant = owners * n_items + window.items
    named = candidates.owners * n_items + candidates.items
    at = np.minimum(np.searchsorted(relevant, named), max(0, len(relevant) - 1))
    return (relevant[at] == named).astype(np.float32) if len(relevant) else np.zeros(len(named), np.float32)


def fit_windows(
    fitting: FittingPlan, plan: WindowPlan, k: int, run: Run
) -> tuple[list[WindowCandidates], list[WindowCandidates]]:
    """Candidates of the windows to learn from and of those to choose by, each oldest first, for which there is time.

    The newest windows are made first. A source that is dropped on the way is dropped from all of them.
    """
    budget, costs = fitting.budget, fitting.costs
    parts: dict[str, Sequence[HeldOut]] = {"learn": plan.learn, "choose": plan.choose}
    order = newest_first(len(plan.learn), len(plan.choose))
    needed = len({purpose for purpose, _ in order})
    done: dict[tuple[str, int], WindowCandidates] = {}
    for number, (purpose, at) in enumerate(order, 1):
        part, window = parts[purpose][at]
        window = few_requests(window, fitting.max_requests, run)
        n_events, n_requests = part.train.n_events, len(window)

        def seconds(name: str, n_events: int = n_events, n_requests: int = n_requests) -> float:
            return costs.window(name, n_events, n_requests)

        if number <= needed:
            fitting.make_room(seconds, fitting.joining)
            if budget.bounded and fitting.room <= 0:
                budget.decide(f"nothing is judged by a window: {spelled(budget.left)} are left")
                return [], []
        elif sum(map(seconds, fitting.sources)) + fitting.joining > fitting.room:
            takes, free = sum(map(seconds, fitting.sources)), fitting.room - fitting.joining
            budget.decide(
                f"{number - 1} of {len(order)} windows are used, the newest: another would take {spelled(takes)}, "
                f"{spelled(free)} are free for it"
            )
            break
        budget.begin(f"window {number} of {len(order)}, to {purpose} {'from' if purpose == 'learn' else 'by'}")
        done[purpose, at] = _fit_window(fitting, part, window, k, run)
        done = {key: a.of(fitting.sources) for key, a in done.items()}
    learned = [done["learn", at] for at in range(len(plan.learn)) if ("learn", at) in done]
    return learned, [done["choose", at] for at in range(len(plan.choose)) if ("choose", at) in done]


def _fit_window(fitting: FittingPlan, part: Split, window: Window, k: int, run: Run) -> WindowCandidates:
    """Candidates of one window by the sources that are in the plan, from the least expensive on."""
    costs, n_events = fitting.costs, part.train.n_events
    fitted: dict[str, Recommender] = {}
    waiting = sorted(fitting.sources, key=lambda name: costs.fit(name, n_events))
    while waiting:
        name = waiting.pop(0)
        ahead = [name, *waiting]

        def seconds(one: str, ahead: Sequence[str] = ahead) -> float:
            return costs.fit(one, n_events) if one in ahead else 0.0

        fitting.make_room(seconds, fitting.joining)
        waiting = [one for one in waiting if one in fitting.sources]
        if name not in fitting.sources:
            continue
        others = sum(costs.fit(one, n_events) for one in waiting)
        model = fitting.fit(name, part.train, run, others + fitting.joining)
        if model is not None:
            fitted[name] = model
    in_order = {name: fitted[name] for name in fitting.sources if name in fitted}
    return _retrieved(in_order, part, window, k, run)
