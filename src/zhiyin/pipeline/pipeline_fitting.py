"""Fitting of a pipeline: sources on the past, blends and the ranker on later windows, the choice on the last ones.

1. The log is cut by `time_windows`.
2. For every window the sources are fitted on the events before it and retrieve candidates as of its first day.
3. Blends and the ranker learn from the first windows.
4. Each of them, and each source alone, is evaluated on the later windows. The best is chosen, separately for users
   without a history, with a short one and with a long one.
5. Then everything is fitted again: sources on the whole log, weights and ranker on all windows.

Nothing is chosen on what it was fitted to, and no window serves both purposes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.splits import Split
from zhiyin.evaluation.model_evaluation import Window
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline import blending
from zhiyin.pipeline.time_windows import HeldOut, WindowPlan
from zhiyin.ranking.examples import Candidates, join, rows_of
from zhiyin.ranking.feature_builder import FeatureBuilder
from zhiyin.ranking.retrieval import retrieve

if TYPE_CHECKING:
    from zhiyin.ranking.ranker import Ranker

# Requests of a window that are used: more add little and cost time.
MAX_WINDOW_REQUESTS = 20_000
# Requests below which a ranker would learn noise; candidates above which it would learn little more.
MIN_RANKER_REQUESTS, MAX_RANKER_CANDIDATES = 50, 600_000
# Strangers of a window, where sources know users by their columns: users with a history stand in for those that lack.
N_WINDOW_STRANGERS = 1_000
# Requests whose features are in memory at once.
MAX_FEATURE_REQUESTS = 1_024


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


def retrieve_window(
    sources: Mapping[str, Recommender], part: Split, window: Window, k: int, run: Run
) -> WindowCandidates:
    """Candidates of a window by copies of the sources, fitted on the events before it."""
    if len(window) > MAX_WINDOW_REQUESTS:
        window = window.take(np.sort(run.rng(61).choice(len(window), MAX_WINDOW_REQUESTS, replace=False)))
    fitted = {name: copy.deepcopy(model).fit(part.train, run) for name, model in sources.items()}
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


@dataclasses.dataclass
class FittedParts:
    """The result of `learn`: models fitted on the whole log, and how they are joined."""

    sources: dict[str, Recommender]
    weights: np.ndarray
    choices: dict[str, blending.Choice]
    ranker: Ranker | None
    builder: FeatureBuilder | None
    report: dict[str, object]


SEGMENTS = ("strangers", "short", "long")
# Up to this many events a history is short.
MAX_SHORT_HISTORY = 4
# Events from which on the second and the third segment begin.
SEGMENT_STARTS = (1, MAX_SHORT_HISTORY + 1)


def segments_of(lengths: np.ndarray) -> np.ndarray:
    """int8[n]: 0 for strangers, 1 for short histories, 2 for longer ones."""
    return np.digitize(lengths, SEGMENT_STARTS).astype(np.int8)


def learn(
    sources: Mapping[str, Recommender],
    data: Dataset,
    plan: WindowPlan,
    *,
    candidates: int,
    ranker: Ranker | None,
    metric: str,
    run: Run,
) -> FittedParts:
    """Learn all of a pipeline; see the module. `plan`: the windows of `data`. `ranker` is an unfitted one, or None for
    blends only."""
    learned = [
        retrieve_window(sources, part, window, candidates, run) for part, window in _announced("learn", plan.learn)
    ]
    evaluated = [
        retrieve_window(sources, part, window, candidates, run) for part, window in _announced("choose", plan.choose)
    ]
    if not evaluated:
        return _fit_without_windows(sources, data, plan, metric, run)
    segment, users = _segments(evaluated), np.concatenate([a.window.users for a in evaluated])
    values = _metric_by_method(learned, evaluated, ranker, metric, run)
    before, alone = _segments(learned), _metric_by_source(learned, metric)
    real, real_before = _real(evaluated), _real(learned)
    blends = [name for name in ("rrf", "weighted", "ranker") if name in values]

    def choice(name: str, codes: Sequence[int], default: str | None) -> blending.Choice:
        of, earlier = np.isin(segment, codes), np.isin(before, codes)
        if name == "all":
            of, earlier = of & real, earlier & real_before
        return blending.choose(
            name,
            {method: value[of] for method, value in values.items()},
            blends,
            users[of],
            default,
            {method: value[earlier] for method, value in alone.items()},
        )

    choices = {"all": choice("all", range(len(SEGMENTS)), None)}
    # What is best for strangers says nothing of others: those stay with what is best for all who are known.
    known_users = choice("known", (1, 2), None if (segment > 0).any() else "rrf")
    for code, name in enumerate(SEGMENTS):
        choices[name] = choice(name, (code,), known_users.method if code else choices["all"].method)
    # Decided: now the windows that were chosen by may be learned from too.
    windows = [*learned, *evaluated]
    trained = None
    like = None
    if ranker is not None and any(choice.method == "ranker" for choice in choices.values()):
        like = windows[-1].builder(run)
        trained = _train_ranker(ranker, windows, run, like)
    report = _report(plan, metric, choices)
    report["windows"] = [
        {"users": len(a.window) - a.copies, "found": a.recall, "events": a.past.n_events} for a in windows
    ]
    report["without"] = _ablation(learned, evaluated, metric)
    fitted = {name: copy.deepcopy(model).fit(data, run) for name, model in sources.items()}
    builder = None
    if trained is not None:
        builder = FeatureBuilder.learn(data, fitted, like=like, run=run)
    return FittedParts(fitted, _weights(windows), choices, trained, builder, report)


def _segments(windows: list[WindowCandidates]) -> np.ndarray:
    """int8[n]: the segment of each request of the windows."""
    return np.concatenate([np.zeros(0, np.int8), *(segments_of(a.window.histories.positives) for a in windows)])


def _real(windows: list[WindowCandidates]) -> np.ndarray:
    """bool[n]: which requests of the windows are none of `with_strangers`."""
    return np.concatenate([np.zeros(0, bool), *(np.arange(len(a.window)) < len(a.window) - a.copies for a in windows)])


def _metric_by_source(windows: list[WindowCandidates], metric: str) -> dict[str, np.ndarray]:
    """The metric of every request of the windows by each source alone."""
    return {
        name: np.concatenate([
            blending.metric_values(a.candidates, blending.scores_by(name, a.candidates), a.labels, a.relevant, metric)
            for a in windows
        ])
        for name in (windows[0].candidates.sources if windows else ())
    }  # fmt: skip


def _announced(purpose: str, windows: Sequence[HeldOut]) -> Iterator[HeldOut]:
    """The windows, each announced in the log."""
    for number, (part, window) in enumerate(windows, 1):
        log.info("pipeline: window %d of %d to %s from, %d users", number, len(windows), purpose, len(window))
        yield part, window


def _report(plan: WindowPlan, metric: str, choices: Mapping[str, blending.Choice]) -> dict[str, object]:
    return {
        "metric": metric,
        "plan": plan.to_rows(),
        "notes": list(plan.notes),
        "windows": [],
        "choices": {name: choice.to_dict() for name, choice in choices.items()},
        "without": {},
    }


def _fit_without_windows(
    sources: Mapping[str, Recommender], data: Dataset, plan: WindowPlan, metric: str, run: Run
) -> FittedParts:
    """For a log too short for windows: sources are joined by reciprocal ranks; the report says so."""
    method = "rrf" if len(sources) > 1 else next(iter(sources))
    choice = blending.Choice("all", method, {}, 0, "the log is too short to judge anything by")
    choices = {name: dataclasses.replace(choice, segment=name) for name in ("all", *SEGMENTS)}
    log.info("pipeline: the log is too short to judge anything by: %s it is", method)
    fitted = {name: copy.deepcopy(model).fit(data, run) for name, model in sources.items()}
    reader = next((name for name, model in fitted.items() if model.reads_user_columns), None)
    if reader is not None:
        why = "who has done nothing is known by columns; the log is too short to judge anything by"
        choices["strangers"] = blending.Choice("strangers", reader, {}, 0, why)
    return FittedParts(fitted, np.ones((2, 2 * len(sources))), choices, None, None, _report(plan, metric, choices))


def _metric_by_method(
    learned: list[WindowCandidates], evaluated: list[WindowCandidates], ranker: Ranker | None, metric: str, run: Run
) -> dict[str, np.ndarray]:
    """The metric of every request of the windows `evaluated` by every method. What learns from windows has learned from
    `learned` alone; without any, nothing that learns is evaluated."""
    trained = like = None
    if ranker is not None and learned:
        like = learned[-1].builder(run)
        trained = _train_ranker(ranker, learned, run, like)
    several = len(evaluated[0].candidates.sources) > 1
    weights = _weights(learned) if several and learned else None
    values_by_method: dict[str, list[np.ndarray]] = {}
    for a in evaluated:
        scores = {name: blending.scores_by(name, a.candidates) for name in a.candidates.sources}
        if several:
            scores["rrf"] = blending.scores_by("rrf", a.candidates)
        if weights is not None:
            scores["weighted"] = weighted(a, weights)
        if trained is not None:
            builder, rows = a.builder(run, like), np.arange(len(a.window))
            scores["ranker"] = np.concatenate([
                trained.score(builder.build(a.window.histories.take(part), a.candidates.take(part)), run)
                for part in np.split(rows, rows[MAX_FEATURE_REQUESTS::MAX_FEATURE_REQUESTS])
            ])  # fmt: skip
        for name, score in scores.items():
            values_by_method.setdefault(name, []).append(
                blending.metric_values(a.candidates, score, a.labels, a.relevant, metric)
            )
    return {name: np.concatenate(values) for name, values in values_by_method.items()}


def _weights(windows: list[WindowCandidates]) -> np.ndarray:
    """float64[2, 2 s]: weights for strangers, and for users with a history. Each group's own, where it has requests."""
    whole, labels = _joined(windows)
    stranger = np.concatenate([a.window.histories.positives == 0 for a in windows])
    weights = []
    for group in (stranger, ~stranger):
        some = np.flatnonzero(group)
        weights.append(blending.learn_weights(whole.take(some), labels[rows_of(whole.offsets, some)[1]]))
    return np.stack(weights)


def weighted(a: WindowCandidates, weights: np.ndarray) -> np.ndarray:
    """float32[m]: scores of a window's candidates by `_weights`."""
    return blending.weighted(a.candidates, weights[(a.window.histories.positives > 0).astype(int)])


def _train_ranker(ranker: Ranker, windows: list[WindowCandidates], run: Run, like: FeatureBuilder) -> Ranker | None:
    """Fit the ranker on the requests that have a right candidate, those of a fifth of the users kept for stopping
    early; None where there are too few to learn from. `like`: whose columns the features of all windows are."""
    picked = []
    for a in windows:
        some = np.flatnonzero(np.bincount(a.candidates.owners, weights=a.labels, minlength=len(a.candidates)) > 0)
        room = MAX_RANKER_CANDIDATES // (len(windows) * max(1, len(a.candidates.items) // max(1, len(a.candidates))))
        picked.append(np.sort(run.rng(63).choice(some, room, replace=False)) if len(some) > room else some)
    n = sum(map(len, picked))
    if n < MIN_RANKER_REQUESTS:
        log.info("pipeline: %d requests with a right candidate are too few for a ranker", n)
        return None
    examples, labels, users = [], [], []
    for a, some in zip(windows, picked):
        examples.append(a.builder(run, like).build(a.window.histories.take(some), a.candidates.take(some)))
        labels.append(a.labels[rows_of(a.candidates.offsets, some)[1]])
        users.append(a.window.users[some])
    whole, marks = join(examples), np.concatenate(labels)
    kept_out = validation_users(np.concatenate(users), 0.2, run)
    taught, held = np.flatnonzero(~kept_out), np.flatnonzero(kept_out)
    fitted = copy.deepcopy(ranker)
    fitted.fit(
        whole.take(taught),
        marks[rows_of(whole.offsets, taught)[1]],
        valid=(whole.take(held), marks[rows_of(whole.offsets, held)[1]]),
        run=run,
    )
    return fitted


def validation_users(users: np.ndarray, share: float, run: Run) -> np.ndarray:
    """bool[n]: requests of about this share of the users, drawn at random, all requests of a user together.

    users: int64[n], whose each request is.
    """
    everyone, of = np.unique(users, return_inverse=True)
    out = run.rng(62).permutation(len(everyone)) < max(1, round(share * len(everyone)))
    return out[of] if len(everyone) > 1 else np.zeros(len(users), dtype=bool)


def _joined(windows: list[WindowCandidates]) -> tuple[Candidates, np.ndarray]:
    """Candidates and labels of several windows, one after another."""
    offsets = [np.zeros(1, np.int64)]
    for a in windows:
        offsets.append(a.candidates.offsets[1:] + offsets[-1][-1])
    first = windows[0].candidates
    joined = Candidates(
        np.concatenate(offsets),
        np.concatenate([a.candidates.items for a in windows]),
        first.sources,
        np.concatenate([a.candidates.scores for a in windows]),
        np.concatenate([a.candidates.ranks for a in windows]),
    )
    return joined, np.concatenate([a.labels for a in windows])


def _ablation(learned: list[WindowCandidates], evaluated: list[WindowCandidates], metric: str) -> dict[str, float]:
    """What the weighted blend scores without each source: what that source adds is the difference to "none".

    WindowResult on the windows to choose by, of weights from the windows to learn from; with one window alone there is
    nothing to say.
    """
    if not learned or len(evaluated[0].candidates.sources) < 2:
        return {}
    figures = {}
    for left_out in (None, *evaluated[0].candidates.sources):
        weights = _weights([_without_source(a, left_out) for a in learned])
        reduced = [_without_source(a, left_out) for a in evaluated]
        values = [
            blending.metric_values(a.candidates, weighted(a, weights), a.labels, a.relevant, metric) for a in reduced
        ]
        figures[left_out or "none"] = float(np.concatenate(values).mean())
    return figures


def _without_source(a: WindowCandidates, source: str | None) -> WindowCandidates:
    """A window as it would be without a source."""
    if source is None:
        return a
    candidates = a.candidates
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
    return dataclasses.replace(a, candidates=reduced, labels=a.labels[remaining])
