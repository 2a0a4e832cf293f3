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

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline import blending
from zhiyin.pipeline.fitting_plan import FittingPlan
from zhiyin.pipeline.ranker_training import MAX_RANKER_CANDIDATES, affordable_candidates, train_ranker
from zhiyin.pipeline.time_budget import OutOfTime, TimeBudget, spelled
from zhiyin.pipeline.time_windows import WindowPlan
from zhiyin.pipeline.window_candidates import WindowCandidates, fit_windows
from zhiyin.ranking.examples import Candidates, rows_of
from zhiyin.ranking.feature_builder import FeatureBuilder

if TYPE_CHECKING:
    from zhiyin.ranking.ranker import Ranker

# Requests whose features are in memory at once.
MAX_FEATURE_REQUESTS = 1_024
# Candidates that weights of a blend are learned from, and for each second of a budget: more tell little more.
MAX_BLEND_CANDIDATES, BLEND_CANDIDATES_PER_SECOND = 2_000_000, 20_000


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
    fitting: FittingPlan | None = None,
) -> FittedParts:
    """Learn all of a pipeline; see the module.

    Parameters
    ----------
    plan: the windows of `data`.
    ranker: an unfitted one, or None for blends only.
    fitting: the plan of a fit within a time, of the same sources; None for one without an end.
    """
    fitting = fitting or FittingPlan(sources, data.n_events)
    learned, evaluated = fit_windows(fitting, plan, candidates, run)
    fitted: dict[str, Recommender] = {}
    while True:
        several = bool(evaluated)
        join = _join(learned, evaluated, ranker, metric, run, fitting) if several else _join_without_windows(fitting)
        if not fitting.make_room():
            _fit_on_all(fitted, fitting, data, run)
            if set(join.sources) == set(fitted):
                break
        # The plan has dropped sources: they are taken out, and what joins the others is learned anew.
        learned, evaluated = ([a.of(fitting.sources) for a in windows] for windows in (learned, evaluated))
        fitted = {name: model for name, model in fitted.items() if name in fitting.sources}
        if ranker is not None:
            fitting.budget.decide("no ranker is learned: there is no time to learn it anew without what was left out")
            ranker = None
    fitted = {name: fitted[name] for name in fitting.sources}
    report = _report(plan, metric, join.choices)
    windows = [*learned, *evaluated]
    report["windows"] = [
        {"users": len(a.window) - a.copies, "found": a.recall, "events": a.past.n_events} for a in windows
    ]
    report["without"] = join.without
    builder = None
    if join.ranker is not None:
        builder = FeatureBuilder.learn(data, fitted, like=join.like, run=run)
    return FittedParts(fitted, join.weights, join.choices, join.ranker, builder, report)


def _fit_on_all(fitted: dict[str, Recommender], fitting: FittingPlan, data: Dataset, run: Run) -> None:
    """Fit the sources that are not yet fitted on the whole log, the most expensive first, whose time is least sure."""
    fitting.budget.begin("sources on all events")
    for name in sorted(fitting.sources, key=fitting.finish, reverse=True):
        if name not in fitted and (model := fitting.fit(name, data, run)) is not None:
            fitted[name] = model


@dataclasses.dataclass(frozen=True)
class Joined:
    """How sources are joined.

    Parameters
    ----------
    sources: their names.
    weights, choices, ranker: as `FittedParts`.
    like: whose columns the features of the ranker are.
    without: what the blend scores without each source.
    """

    sources: tuple[str, ...]
    weights: np.ndarray
    choices: dict[str, blending.Choice]
    ranker: Ranker | None = None
    like: FeatureBuilder | None = None
    without: dict[str, float] = dataclasses.field(default_factory=dict)


def _join(
    learned: list[WindowCandidates],
    evaluated: list[WindowCandidates],
    ranker: Ranker | None,
    metric: str,
    run: Run,
    fitting: FittingPlan,
) -> Joined:
    """Learn blends and the ranker, choose, and learn once more what was chosen."""
    budget = fitting.budget
    budget.begin("blends and ranker")
    most = MAX_RANKER_CANDIDATES
    if ranker is not None and learned:
        n_judged = sum(len(a.candidates.items) for a in evaluated)
        most = affordable_candidates(ranker, learned, n_judged, fitting.room, budget, run)
        ranker = ranker if most else None
    with budget.timed() as learning:
        weights = _weights(learned, run, budget) if learned and len(learned[0].sources) > 1 else None
    first, first_like = _ranker_within(ranker, learned, run, most, fitting) if ranker and learned else (None, None)
    values = _metric_by_method(evaluated, weights, first, first_like, metric, run)
    choices = _choices(learned, evaluated, values, metric)
    # Decided: now the windows that were chosen by may be learned from too.
    windows = [*learned, *evaluated]
    trained, like = None, None
    if first is not None and any(choice.method == "ranker" for choice in choices.values()):
        trained, like = _ranker_within(ranker, windows, run, most, fitting)
        if trained is None:  # for lack of time: the one that was judged
            trained, like = first, first_like
    final = _weights(windows, run, budget)
    without: dict[str, float] = {}
    if not budget.bounded or learning.seconds * (len(fitting.sources) + 1) < 0.5 * fitting.room:
        without = _ablation(learned, evaluated, metric, run, budget)
    else:
        budget.decide(f"what each source adds is not measured: {spelled(fitting.room)} are free for it")
    return Joined(tuple(evaluated[0].sources), final, choices, trained, like, without)


def _ranker_within(
    ranker: Ranker | None, windows: list[WindowCandidates], run: Run, most: int, fitting: FittingPlan
) -> tuple[Ranker | None, FeatureBuilder | None]:
    """The trained ranker and whose columns its features are; None for both where there is too little, or no time."""
    if ranker is None:
        return None, None
    limit = fitting.room if fitting.budget.bounded else float("inf")
    like = windows[-1].builder(run)
    try:
        trained = train_ranker(ranker, windows, fitting.budget.limited(run, limit), like, most)
    except OutOfTime:
        fitting.budget.decide(f"a ranker was not done after {spelled(limit)}")
        trained = None
    return (trained, like) if trained is not None else (None, None)


def _choices(
    learned: list[WindowCandidates],
    evaluated: list[WindowCandidates],
    values: Mapping[str, np.ndarray],
    metric: str,
) -> dict[str, blending.Choice]:
    """The method of all users, and of each segment. values: the metric of each request by every method."""
    segment, users = _segments(evaluated), np.concatenate([a.window.users for a in evaluated])
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
    several = len(evaluated[0].sources) > 1
    known_users = choice("known", (1, 2), None if (segment > 0).any() or not several else "rrf")
    for code, name in enumerate(SEGMENTS):
        choices[name] = choice(name, (code,), known_users.method if code else choices["all"].method)
    return choices


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


def _report(plan: WindowPlan, metric: str, choices: Mapping[str, blending.Choice]) -> dict[str, object]:
    return {
        "metric": metric,
        "plan": plan.to_rows(),
        "notes": list(plan.notes),
        "windows": [],
        "choices": {name: choice.to_dict() for name, choice in choices.items()},
        "without": {},
    }


def _join_without_windows(fitting: FittingPlan) -> Joined:
    """For a log, or a time, too short for windows: sources are joined by reciprocal ranks; the report says so."""
    names = tuple(fitting.sources)
    method = "rrf" if len(names) > 1 else names[0]
    what = "time" if fitting.budget.bounded and fitting.budget.decisions else "log"
    choice = blending.Choice("all", method, {}, 0, f"the {what} is too short to judge anything by")
    choices = {name: dataclasses.replace(choice, segment=name) for name in ("all", *SEGMENTS)}
    log.info("pipeline: the %s is too short to judge anything by: %s it is", what, method)
    reader = next((name for name, model in fitting.sources.items() if model.reads_user_columns), None)
    if reader is not None:
        why = f"who has done nothing is known by columns; the {what} is too short to judge anything by"
        choices["strangers"] = blending.Choice("strangers", reader, {}, 0, why)
    return Joined(names, np.ones((2, 2 * len(names))), choices)


def _metric_by_method(
    evaluated: list[WindowCandidates],
    weights: np.ndarray | None,
    trained: Ranker | None,
    like: FeatureBuilder | None,
    metric: str,
    run: Run,
) -> dict[str, np.ndarray]:
    """The metric of every request of the windows `evaluated` by every method. What learns from windows has learned from
    others; without weights and ranker, nothing that learns is evaluated."""
    several = len(evaluated[0].candidates.sources) > 1
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


def _weights(windows: list[WindowCandidates], run: Run, budget: TimeBudget) -> np.ndarray:
    """float64[2, 2 s]: weights for strangers, and for users with a history. Each group's own, where it has requests."""
    most = MAX_BLEND_CANDIDATES
    if budget.bounded:
        most = min(most, max(1, int(BLEND_CANDIDATES_PER_SECOND * budget.seconds)))
    whole, labels = _joined(windows)
    stranger = np.concatenate([a.window.histories.positives == 0 for a in windows])
    weights = []
    for group in (stranger, ~stranger):
        some = np.flatnonzero(group)
        n_candidates = int(np.diff(whole.offsets)[some].sum())
        if n_candidates > most:
            some = np.sort(run.rng(64).choice(some, max(1, len(some) * most // n_candidates), replace=False))
        weights.append(blending.learn_weights(whole.take(some), labels[rows_of(whole.offsets, some)[1]]))
    return np.stack(weights)


def weighted(a: WindowCandidates, weights: np.ndarray) -> np.ndarray:
    """float32[m]: scores of a window's candidates by `_weights`."""
    return blending.weighted(a.candidates, weights[(a.window.histories.positives > 0).astype(int)])


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


def _ablation(
    learned: list[WindowCandidates], evaluated: list[WindowCandidates], metric: str, run: Run, budget: TimeBudget
) -> dict[str, float]:
    """What the weighted blend scores without each source: what that source adds is the difference to "none".

    Measured on the windows to choose by, of weights from the windows to learn from; with one window alone there is
    nothing to say.
    """
    if not learned or len(evaluated[0].candidates.sources) < 2:
        return {}
    figures = {}
    for left_out in (None, *evaluated[0].candidates.sources):
        before, reduced = (
            [a if left_out is None else a.without(left_out) for a in windows] for windows in (learned, evaluated)
        )
        weights = _weights(before, run, budget)
        values = [
            blending.metric_values(a.candidates, weighted(a, weights), a.labels, a.relevant, metric) for a in reduced
        ]
        figures[left_out or "none"] = float(np.concatenate(values).mean())
    return figures
