"""How a pipeline learns: sources on the past, blends and the ranker on what came next, its choice on what came last.

The log is cut by `selection_windows`. For every window the sources are fitted on what lies before it, and asked for
candidates as they would have been on its first day. Blends and the ranker learn from the first windows; then every one
of them, and each source alone, is judged on the later windows, and the best is kept, for strangers and for users with
short and long histories apart. When that is decided, everything is fitted once more on all there is: sources on the
whole log, weights and ranker on all windows. Nothing is chosen on what it was fitted to, and no window is used both
ways.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import Split
from zhiyin.evaluation.window_evaluation import Window
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline import blending
from zhiyin.pipeline.selection_windows import HeldOut, WindowPlan
from zhiyin.ranking.candidates import retrieve
from zhiyin.ranking.examples import Candidates, join, rows_of
from zhiyin.ranking.feature_builder import FeatureBuilder

if TYPE_CHECKING:
    from zhiyin.ranking.ranker import Ranker

# Requests of a window that are learned from and judged by: more teach little and cost time.
REQUESTS = 20_000
# Requests below which a ranker would learn noise, and candidates above which it would learn little more.
FEWEST, MOST = 50, 600_000
# Requests whose features exist at once.
CHUNK = 1_024


@dataclasses.dataclass(frozen=True)
class Asked:
    """A window: n users asked on its first day, the candidates of the sources, and which of them were right.

    labels: float32[m], 1 where the user had the candidate in the window; relevant: int64[n], right items in all.
    """

    past: Dataset
    window: Window
    sources: Mapping[str, Recommender]
    candidates: Candidates
    labels: np.ndarray

    def builder(self, run: Run, like: FeatureBuilder | None = None) -> FeatureBuilder:
        """What makes features of candidates as they were on the window's first day. `like`: as of another window, whose
        columns these are to be: of many kinds of events others may be among the most frequent."""
        return FeatureBuilder.learn(self.past, self.sources, like=like, run=run)

    @property
    def relevant(self) -> np.ndarray:
        return self.window.relevant

    @property
    def found(self) -> float:
        """Share of right items that are among the candidates."""
        return float(self.labels.sum() / max(1, self.relevant.sum()))


def ask(sources: Mapping[str, Recommender], part: Split, window: Window, k: int, run: Run) -> Asked:
    """Fit copies of the sources on the past of a window, and ask them."""
    if len(window) > REQUESTS:
        window = window.take(np.sort(run.rng(61).choice(len(window), REQUESTS, replace=False)))
    fitted = {name: copy.deepcopy(model).fit(part.train, run) for name, model in sources.items()}
    exclude = window.histories if window.exclude_seen else None
    candidates = retrieve(fitted, window.histories, k, exclude=exclude, run=run)
    return Asked(part.train, window, fitted, candidates, hits(candidates, window))


def hits(candidates: Candidates, window: Window) -> np.ndarray:
    """float32[m]: 1 where a candidate is among the relevant items of its request."""
    n_items = window.train.n_items
    owners = np.repeat(np.arange(len(window), dtype=np.int64), window.relevant)
    right = owners * n_items + window.items
    asked = candidates.owners * n_items + candidates.items
    at = np.minimum(np.searchsorted(right, asked), max(0, len(right) - 1))
    return (right[at] == asked).astype(np.float32) if len(right) else np.zeros(len(asked), np.float32)


@dataclasses.dataclass
class Learned:
    """What `learn` finds: models fitted on all of the log, and how they are joined."""

    sources: dict[str, Recommender]
    weights: np.ndarray
    choices: dict[str, blending.Choice]
    ranker: Ranker | None
    builder: FeatureBuilder | None
    report: dict[str, object]


SEGMENTS = ("strangers", "short", "long")
# Up to this many events a history is short.
SHORT = 4
# Events from which on the second and the third segment begin.
BEGINS = (1, SHORT + 1)


def segments_of(lengths: np.ndarray) -> np.ndarray:
    """int8[n]: 0 for strangers, 1 for short histories, 2 for longer ones."""
    return np.digitize(lengths, BEGINS).astype(np.int8)


def learn(
    sources: Mapping[str, Recommender],
    data: Dataset,
    plan: WindowPlan,
    *,
    candidates: int,
    ranker: Ranker | None,
    metric: str,
    run: Run,
) -> Learned:
    """Learn all of a pipeline; see the module. `plan`: the windows of `data`. `ranker` is an unfitted one, or None for
    blends only."""
    learned = [ask(sources, part, window, candidates, run) for part, window in _told("learn", plan.learn)]
    judged = [ask(sources, part, window, candidates, run) for part, window in _told("choose", plan.choose)]
    if not judged:
        return _unjudged(sources, data, plan, metric, run)
    segment, users = _segments(judged), np.concatenate([a.window.users for a in judged])
    values = _judged(learned, judged, ranker, metric, run)
    before, alone = _segments(learned), _alone(learned, metric)
    blends = [name for name in ("rrf", "weighted", "ranker") if name in values]

    def choice(name: str, codes: Sequence[int], default: str | None) -> blending.Choice:
        of, earlier = np.isin(segment, codes), np.isin(before, codes)
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
    known = choice("known", (1, 2), None if (segment > 0).any() else "rrf")
    for code, name in enumerate(SEGMENTS):
        choices[name] = choice(name, (code,), known.method if code else choices["all"].method)
    # Decided: now the windows that were chosen by may be learned from too.
    asked = [*learned, *judged]
    trained = None
    like = None
    if ranker is not None and any(choice.method == "ranker" for choice in choices.values()):
        like = asked[-1].builder(run)
        trained = _train_ranker(ranker, asked, run, like)
    report = _report(plan, metric, choices)
    report["windows"] = [{"users": len(a.window), "found": a.found, "events": a.past.n_events} for a in asked]
    report["without"] = _without(learned, judged, metric)
    fitted = {name: copy.deepcopy(model).fit(data, run) for name, model in sources.items()}
    builder = None
    if trained is not None:
        builder = FeatureBuilder.learn(data, fitted, like=like, run=run)
    return Learned(fitted, _weights(asked), choices, trained, builder, report)


def _segments(asked: list[Asked]) -> np.ndarray:
    """int8[n]: the segment of each request of the windows."""
    return np.concatenate([np.zeros(0, np.int8), *(segments_of(a.window.histories.positives) for a in asked)])


def _alone(asked: list[Asked], metric: str) -> dict[str, np.ndarray]:
    """The metric of every request of the windows by each source alone."""
    return {
        name: np.concatenate([
            blending.judged(a.candidates, blending.scores_by(name, a.candidates), a.labels, a.relevant, metric)
            for a in asked
        ])
        for name in (asked[0].candidates.sources if asked else ())
    }  # fmt: skip


def _told(purpose: str, windows: Sequence[HeldOut]) -> Iterator[HeldOut]:
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


def _unjudged(sources: Mapping[str, Recommender], data: Dataset, plan: WindowPlan, metric: str, run: Run) -> Learned:
    """A log too short to hold anything back: sources are joined by reciprocal ranks, and that is said."""
    method = "rrf" if len(sources) > 1 else next(iter(sources))
    choice = blending.Choice("all", method, {}, 0, "the log is too short to judge anything by")
    choices = {name: dataclasses.replace(choice, segment=name) for name in ("all", *SEGMENTS)}
    log.info("pipeline: the log is too short to judge anything by: %s it is", method)
    fitted = {name: copy.deepcopy(model).fit(data, run) for name, model in sources.items()}
    return Learned(fitted, np.ones((2, 2 * len(sources))), choices, None, None, _report(plan, metric, choices))


def _judged(
    learned: list[Asked], judged: list[Asked], ranker: Ranker | None, metric: str, run: Run
) -> dict[str, np.ndarray]:
    """The metric of every request of the windows `judged` by every method. What learns from windows has learned from
    `learned` alone; without any, nothing that learns is judged."""
    trained = like = None
    if ranker is not None and learned:
        like = learned[-1].builder(run)
        trained = _train_ranker(ranker, learned, run, like)
    several = len(judged[0].candidates.sources) > 1
    weights = _weights(learned) if several and learned else None
    found: dict[str, list[np.ndarray]] = {}
    for a in judged:
        scores = {name: blending.scores_by(name, a.candidates) for name in a.candidates.sources}
        if several:
            scores["rrf"] = blending.scores_by("rrf", a.candidates)
        if weights is not None:
            scores["weighted"] = weighted(a, weights)
        if trained is not None:
            builder, rows = a.builder(run, like), np.arange(len(a.window))
            scores["ranker"] = np.concatenate([
                trained.score(builder.build(a.window.histories.take(part), a.candidates.take(part)), run)
                for part in np.split(rows, rows[CHUNK::CHUNK])
            ])  # fmt: skip
        for name, score in scores.items():
            found.setdefault(name, []).append(blending.judged(a.candidates, score, a.labels, a.relevant, metric))
    return {name: np.concatenate(values) for name, values in found.items()}


def _weights(asked: list[Asked]) -> np.ndarray:
    """float64[2, 2 s]: weights for strangers, and for users with a history. Each group's own, where it has requests."""
    whole, labels = _joined(asked)
    stranger = np.concatenate([a.window.histories.positives == 0 for a in asked])
    found = []
    for group in (stranger, ~stranger):
        some = np.flatnonzero(group)
        found.append(blending.learn_weights(whole.take(some), labels[rows_of(whole.offsets, some)[1]]))
    return np.stack(found)


def weighted(a: Asked, weights: np.ndarray) -> np.ndarray:
    """float32[m]: scores of a window's candidates by `_weights`."""
    return blending.weighted(a.candidates, weights[(a.window.histories.positives > 0).astype(int)])


def _train_ranker(ranker: Ranker, asked: list[Asked], run: Run, like: FeatureBuilder) -> Ranker | None:
    """Fit the ranker on the requests that have a right candidate, those of a fifth of the users kept for stopping
    early; None where there are too few to learn from. `like`: whose columns the features of all windows are."""
    picked = []
    for a in asked:
        some = np.flatnonzero(np.bincount(a.candidates.owners, weights=a.labels, minlength=len(a.candidates)) > 0)
        room = MOST // (len(asked) * max(1, len(a.candidates.items) // max(1, len(a.candidates))))
        picked.append(np.sort(run.rng(63).choice(some, room, replace=False)) if len(some) > room else some)
    n = sum(map(len, picked))
    if n < FEWEST:
        log.info("pipeline: %d requests with a right candidate are too few for a ranker", n)
        return None
    examples, labels, users = [], [], []
    for a, some in zip(asked, picked):
        examples.append(a.builder(run, like).build(a.window.histories.take(some), a.candidates.take(some)))
        labels.append(a.labels[rows_of(a.candidates.offsets, some)[1]])
        users.append(a.window.users[some])
    whole, marks = join(examples), np.concatenate(labels)
    kept_out = held_back(np.concatenate(users), 0.2, run)
    taught, held = np.flatnonzero(~kept_out), np.flatnonzero(kept_out)
    fitted = copy.deepcopy(ranker)
    fitted.fit(
        whole.take(taught),
        marks[rows_of(whole.offsets, taught)[1]],
        valid=(whole.take(held), marks[rows_of(whole.offsets, held)[1]]),
        run=run,
    )
    return fitted


def held_back(users: np.ndarray, share: float, run: Run) -> np.ndarray:
    """bool[n]: requests of about this share of the users, drawn at random, all requests of a user together.

    users: int64[n], whose each request is.
    """
    everyone, of = np.unique(users, return_inverse=True)
    out = run.rng(62).permutation(len(everyone)) < max(1, round(share * len(everyone)))
    return out[of] if len(everyone) > 1 else np.zeros(len(users), dtype=bool)


def _joined(asked: list[Asked]) -> tuple[Candidates, np.ndarray]:
    """Candidates and labels of several windows, one after another."""
    offsets = [np.zeros(1, np.int64)]
    for a in asked:
        offsets.append(a.candidates.offsets[1:] + offsets[-1][-1])
    first = asked[0].candidates
    joined = Candidates(
        np.concatenate(offsets),
        np.concatenate([a.candidates.items for a in asked]),
        first.sources,
        np.concatenate([a.candidates.scores for a in asked]),
        np.concatenate([a.candidates.ranks for a in asked]),
    )
    return joined, np.concatenate([a.labels for a in asked])


def _without(learned: list[Asked], judged: list[Asked], metric: str) -> dict[str, float]:
    """What the weighted blend scores without each source: what that source adds is the difference to "none".

    WindowResult on the windows to choose by, of weights from the windows to learn from; with one window alone there is
    nothing to say.
    """
    if not learned or len(judged[0].candidates.sources) < 2:
        return {}
    figures = {}
    for left_out in (None, *judged[0].candidates.sources):
        weights = _weights([_dropped(a, left_out) for a in learned])
        few = [_dropped(a, left_out) for a in judged]
        values = [blending.judged(a.candidates, weighted(a, weights), a.labels, a.relevant, metric) for a in few]
        figures[left_out or "none"] = float(np.concatenate(values).mean())
    return figures


def _dropped(a: Asked, source: str | None) -> Asked:
    """A window as it would be without a source."""
    if source is None:
        return a
    candidates = a.candidates
    columns = [at for at, name in enumerate(candidates.sources) if name != source]
    kept = (candidates.ranks[:, columns] >= 0).any(axis=1)
    counts = np.bincount(candidates.owners[kept], minlength=len(candidates))
    few = Candidates(
        np.concatenate([[0], np.cumsum(counts)]),
        candidates.items[kept],
        tuple(candidates.sources[at] for at in columns),
        candidates.scores[kept][:, columns],
        candidates.ranks[kept][:, columns],
    )
    return dataclasses.replace(a, candidates=few, labels=a.labels[kept])
