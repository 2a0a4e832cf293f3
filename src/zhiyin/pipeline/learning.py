"""How a pipeline learns: sources on the past, ranker and blends on what came next, its choice on what came last.

The log is cut into a past and a few windows after it. For every window the sources are fitted on what lies before, and
asked for candidates as they would have been on its first day. Every blend, the ranker, and each source alone are judged
on every window, by weights and trees learned from the other windows; the best is kept, for strangers and for users with
short and long histories apart. Then everything is fitted once more on all there is. Nothing is chosen on what it was
fitted to.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import Split, folds, split
from zhiyin.evaluation.judging import Window
from zhiyin.models.base import Recommender
from zhiyin.pipeline import blend
from zhiyin.ranking.build import FeatureBuilder
from zhiyin.ranking.candidates import retrieve
from zhiyin.ranking.examples import Candidates, join, rows_of

if TYPE_CHECKING:
    from zhiyin.ranking.base import Ranker

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

    def builder(self, run: Run) -> FeatureBuilder:
        """What makes features of candidates as they were on the window's first day."""
        return FeatureBuilder.learn(self.past, self.sources, run=run)

    @property
    def relevant(self) -> np.ndarray:
        return self.window.relevant

    @property
    def found(self) -> float:
        """Share of right items that are among the candidates."""
        return float(self.labels.sum() / max(1, self.relevant.sum()))


def windows_of(data: Dataset, count: int, share: float, exclude_seen: bool, run: Run) -> list[tuple[Split, Window]]:
    """`count` windows of about `share` of the events each, oldest first; random shares of everybody's events where the
    log has no times. Fewer where the log is short, none where nobody could be judged."""
    found = []
    if data.has_times:
        times = np.sort(data.events["time"].to_numpy())
        width = max(1, int(times[-1] - times[int((1 - share) * (len(times) - 1))]) // 1_000_000)
        for number in range(count, 0, -1):
            try:
                found = folds(data, number, f"{width}s")
                break
            except DataError:
                continue
    else:
        for number in range(count):
            draw = dataclasses.replace(run, seed=run.seed + 7919 * number)
            with contextlib.suppress(DataError):  # histories too short to hold a share of each
                found.append(split(data, "ratio", test=share, run=draw))
    judged = []
    for part in found:
        try:
            judged.append((part, Window.of(part, exclude_seen)))
        except DataError as error:
            log.info("a window is left out: %s", error)
    return judged


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
    choices: dict[str, blend.Choice]
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
    *,
    candidates: int,
    ranker: Ranker | None,
    windows: int,
    share: float,
    metric: str,
    exclude_seen: bool,
    run: Run,
) -> Learned:
    """Learn all of a pipeline; see the module. `ranker` is an unfitted one, or None for blends only."""
    parts = windows_of(data, windows, share, exclude_seen, run)
    asked = []
    for number, (part, window) in enumerate(parts, 1):
        log.info("pipeline: window %d of %d, %d users", number, len(parts), len(window))
        asked.append(ask(sources, part, window, candidates, run))
    if not asked:
        return _unjudged(sources, data, metric, run)
    segment = np.concatenate([segments_of(a.window.histories.positives) for a in asked])
    values = _judged(asked, ranker, metric, run)
    blends = [name for name in ("rrf", "weighted", "ranker") if name in values]
    choices = {"all": blend.choose("all", values, blends)}
    # What is best for strangers says nothing of others: those stay with what is best for all who are known.
    of_known = {method: value[segment > 0] for method, value in values.items()}
    known = blend.choose("known", of_known, blends, default=None if (segment > 0).any() else "rrf")
    for code, name in enumerate(SEGMENTS):
        part_of = {method: value[segment == code] for method, value in values.items()}
        default = known.method if code else choices["all"].method
        choices[name] = blend.choose(name, part_of, blends, default=default)
    trained = None
    if ranker is not None and any(choice.method == "ranker" for choice in choices.values()):
        trained = _train_ranker(ranker, asked, run)
    weights = _weights(asked)
    report: dict[str, object] = {
        "metric": metric,
        "windows": [{"users": len(a.window), "found": a.found, "events": a.past.n_events} for a in asked],
        "choices": {name: choice.said() for name, choice in choices.items()},
        "without": _without(asked, metric),
    }
    fitted = {name: copy.deepcopy(model).fit(data, run) for name, model in sources.items()}
    builder = None
    if trained is not None:
        builder = FeatureBuilder.learn(data, fitted, run=run)
    return Learned(fitted, weights, choices, trained, builder, report)


def _unjudged(sources: Mapping[str, Recommender], data: Dataset, metric: str, run: Run) -> Learned:
    """A log too short to hold anything back: sources are joined by reciprocal ranks, and that is said."""
    method = "rrf" if len(sources) > 1 else next(iter(sources))
    choice = blend.Choice("all", method, {}, 0, "the log is too short to judge anything by")
    choices = {name: dataclasses.replace(choice, segment=name) for name in ("all", *SEGMENTS)}
    log.info("pipeline: the log is too short to judge anything by: %s it is", method)
    said: dict[str, object] = {name: each.said() for name, each in choices.items()}
    report: dict[str, object] = {"metric": metric, "windows": [], "choices": said, "without": {}}
    fitted = {name: copy.deepcopy(model).fit(data, run) for name, model in sources.items()}
    return Learned(fitted, np.ones((2, 2 * len(sources))), choices, None, None, report)


def _judged(asked: list[Asked], ranker: Ranker | None, metric: str, run: Run) -> dict[str, np.ndarray]:
    """The metric of every request of all windows by every method. What learns from windows has learned from the others
    alone when it is judged; with one window only, nothing that learns can be judged, and nothing that learns is."""
    found: dict[str, list[np.ndarray]] = {}
    for number, a in enumerate(asked):
        others = asked[:number] + asked[number + 1 :]
        names = a.candidates.sources
        scores = {name: blend.scores_by(name, a.candidates) for name in names}
        if len(names) > 1:
            scores["rrf"] = blend.scores_by("rrf", a.candidates)
            if others:
                scores["weighted"] = weighted(a, _weights(others))
        trained = _train_ranker(ranker, others, run) if ranker is not None and others else None
        if trained is not None:
            builder, rows = a.builder(run), np.arange(len(a.window))
            scores["ranker"] = np.concatenate([
                trained.score(builder.build(a.window.histories.take(part), a.candidates.take(part)), run)
                for part in np.split(rows, rows[CHUNK::CHUNK])
            ])  # fmt: skip
        for name, score in scores.items():
            found.setdefault(name, []).append(blend.judged(a.candidates, score, a.labels, a.relevant, metric))
    return {name: np.concatenate(values) for name, values in found.items() if len(values) == len(asked)}


def _weights(asked: list[Asked]) -> np.ndarray:
    """float64[2, 2 s]: weights for strangers, and for users with a history. Each group's own, where it has requests."""
    whole, labels = _joined(asked)
    stranger = np.concatenate([a.window.histories.positives == 0 for a in asked])
    found = []
    for group in (stranger, ~stranger):
        some = np.flatnonzero(group)
        found.append(blend.learn_weights(whole.take(some), labels[rows_of(whole.offsets, some)[1]]))
    return np.stack(found)


def weighted(a: Asked, weights: np.ndarray) -> np.ndarray:
    """float32[m]: scores of a window's candidates by `_weights`."""
    return blend.weighted(a.candidates, weights[(a.window.histories.positives > 0).astype(int)])


def _train_ranker(ranker: Ranker, asked: list[Asked], run: Run) -> Ranker | None:
    """Fit the ranker on the requests that have a right candidate, a fifth of them kept for stopping early; None where
    there are too few to learn from."""
    examples, labels = [], []
    for a in asked:
        right = np.bincount(a.candidates.owners, weights=a.labels, minlength=len(a.candidates)) > 0
        some = np.flatnonzero(right)
        room = MOST // (len(asked) * max(1, len(a.candidates.items) // max(1, len(a.candidates))))
        if len(some) > room:
            some = np.sort(run.rng(63).choice(some, room, replace=False))
        builder = a.builder(run)
        examples.append(builder.build(a.window.histories.take(some), a.candidates.take(some)))
        labels.append(a.labels[rows_of(a.candidates.offsets, some)[1]])
    whole, marks = join(examples), np.concatenate(labels)
    n = len(whole.offsets) - 1
    if n < FEWEST:
        log.info("pipeline: %d requests with a right candidate are too few for a ranker", n)
        return None
    kept_out = run.rng(62).permutation(n) < n // 5
    taught, held = np.flatnonzero(~kept_out), np.flatnonzero(kept_out)
    fitted = copy.deepcopy(ranker)
    fitted.fit(
        whole.take(taught),
        marks[rows_of(whole.offsets, taught)[1]],
        valid=(whole.take(held), marks[rows_of(whole.offsets, held)[1]]),
        run=run,
    )
    return fitted


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


def _without(asked: list[Asked], metric: str) -> dict[str, float]:
    """What the weighted blend scores without each source: what that source adds is the difference to "none".

    Learned on all windows but the last and judged on the last; with one window alone there is nothing to say.
    """
    if len(asked) < 2 or len(asked[0].candidates.sources) < 2:
        return {}
    figures = {}
    for left_out in (None, *asked[0].candidates.sources):
        few = [_dropped(a, left_out) for a in asked]
        score = weighted(few[-1], _weights(few[:-1]))
        values = blend.judged(few[-1].candidates, score, few[-1].labels, few[-1].relevant, metric)
        figures[left_out or "none"] = float(values.mean())
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
