"""Learning of click probabilities from displays: features as of each display, rankers, calibration, simple rates.

Features are those of the served list: what item and user did before the moment, the user's rates by category, columns.
The position is a feature of training, and 1 when serving, so that an item is not thought good because it stood first
(Ling et al., Model ensemble for click prediction in Bing search ads, WWW 2017). Neighbours of items are learned from
the first part of the log, of which no display is learned from, and stay as they are, so that they leak no click and
mean the same in training and serving.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.evaluation.pointwise_metrics import log_loss
from zhiyin.models.neighbors import ItemKNN
from zhiyin.pipeline.display_log import DisplayLog, without_values
from zhiyin.ranking import registry as rankers
from zhiyin.ranking.calibration import CALIBRATORS
from zhiyin.ranking.examples import Candidates, Examples, join
from zhiyin.ranking.feature_builder import FeatureBuilder
from zhiyin.ranking.ranker import Ranker

POSITION = "position"
# Share of the displays before the learned ones, for counts and neighbours; share at the end for calibration.
FIRST_SHARE, LAST_SHARE = 0.25, 0.2
# Displays that are learned from at most, drawn by request; fewest positives of a part.
MAX_DISPLAYS, MIN_CLICKS = 1_000_000, 20
# Newest positive events of a history that are kept with the examples: networks read no others.
NEWEST = 50
# Rankers that are tried, the surest first; networks where torch is installed.
SPECIFICATIONS = (
    "trees:objective=binary,leaves=15,min_leaf=200,learning_rate=0.05,reg=10,trees=1000,patience=50",
    "trees:objective=binary,leaves=7,min_leaf=500,learning_rate=0.1,reg=30,columns=0.5,trees=1000,patience=50",
    "fm:factors=8,epochs=10",
    "deepfm:factors=8,epochs=8",
    "trees:objective=binary,leaves=63,min_leaf=500,learning_rate=0.03,reg=30,columns=0.4,trees=1500,patience=50",
)


@dataclasses.dataclass(frozen=True)
class Taught:
    """A ranker, what makes its features, and how it was chosen.

    Parameters
    ----------
    tried: a record for each ranker: `ranker`, `log_loss` on the last displays, `seconds`, or `left_out`.
    """

    ranker: Ranker
    builder: FeatureBuilder
    specification: str
    tried: list[dict[str, Any]]


def labels_of(displays: DisplayLog, goal: str) -> np.ndarray:
    """float32[m]: what a goal predicts."""
    return (displays.purchases if goal == "cvr" else displays.clicks).astype(np.float32)


def teach(
    data: Dataset, displays: DisplayLog, goal: str, seconds: float, run: Run, specification: str | None = None
) -> Taught:
    """The best ranker by log-loss on the last displays, within a time; calibrated on these.

    Parameters
    ----------
    data: events that features are made of; those after a display do not count for it.
    displays: to learn from.
    specification: of the one ranker to learn; None: all that there is time for.

    Raises DataError where there are too few positives.
    """
    started = time.monotonic()
    moments = np.quantile(displays.times, [FIRST_SHARE, 1 - LAST_SHARE])
    first, last = int(moments[0]), int(moments[1])
    taught = displays.take(_sample(displays, first, last, run))
    held = displays.take(_sample(displays, last, int(displays.times.max()) + 1, run))
    for what, part in (("learn from", taught), ("calibrate by", held)):
        positives = int(labels_of(part, goal).sum())
        if positives < MIN_CLICKS:
            raise DataError(
                f"{positives} positives among {len(part):,} displays are too few to {what}",
                remedy=f"a longer log: {MIN_CLICKS} in the last {LAST_SHARE:.0%} of the displays, better hundreds",
            )
    builder = learn_builder(data, first, run)
    examples, held_examples = build(builder, taught, run), build(builder, held, run)
    labels, held_labels = labels_of(taught, goal), labels_of(held, goal)
    best: tuple[float, Ranker, str] | None = None
    tried: list[dict[str, Any]] = []
    for text in (specification,) if specification else _specifications():
        took = max((record.get("seconds", 0.0) for record in tried), default=0.0)
        if best is not None and time.monotonic() - started + took > seconds:
            tried.append({"ranker": text, "left_out": "no time left in the budget"})
            continue
        clock = time.monotonic()
        ranker = rankers.parse(text)
        ranker.calibrate = "platt"
        try:
            ranker.fit(examples, labels, valid=(held_examples, held_labels), run=run)
        except ZhiyinError as error:
            tried.append({"ranker": text, "left_out": error.message})
            continue
        loss = log_loss(held_labels, ranker.score(held_examples, run))
        record = {"ranker": text, "log_loss": loss, "seconds": round(time.monotonic() - clock, 2)}
        tried.append(record)
        log.info("probabilities: %s: log-loss %.5f", text, loss)
        if best is None or loss < best[0]:
            best = loss, ranker, text
    if best is None:
        raise DataError("no ranker could be learned: " + "; ".join(one["left_out"] for one in tried),
                        remedy='pip install "zhiyin[rank]"')  # fmt: skip
    calibrate(best[1], held_examples, held_labels, held.users, run)
    return Taught(best[1], builder, best[2], tried)


def learn_builder(data: Dataset, first: int, run: Run, like: FeatureBuilder | None = None) -> FeatureBuilder:
    """What makes features; neighbours are learned from the events before a moment, or are those of `like`."""
    plain = without_values(data)
    if like is not None:
        return FeatureBuilder.learn(plain, (), neighbors=like.index.neighbors, like=like, run=run)
    early = data.subset(data.events["time"].to_numpy() < first)
    neighbors = None
    if int((early.events["weight"].to_numpy() > 0).sum()) >= 100:
        neighbors = {"itemknn": ItemKNN().fit(early, run).similarities_}
    return FeatureBuilder.learn(plain, (), neighbors=neighbors or {}, rates=True, constants={POSITION: 1.0}, run=run)


def build(builder: FeatureBuilder, displays: DisplayLog, run: Run) -> Examples:
    """Examples of displays, each with the position that it had."""
    parts = []
    for part, histories in displays.chunks():
        examples = builder.build(histories, candidates_of(part.offsets, part.items), None, run)
        at = examples.number_names.index(POSITION)
        known = ~np.isnan(part.positions)
        examples.numbers[known, at] = part.positions[known]
        parts.append(dataclasses.replace(examples, histories=_newest(histories, NEWEST)))
    return join(parts)


def _newest(histories: Histories, count: int) -> Histories:
    """The last positive events of each history."""
    liked = np.flatnonzero(histories.weights > 0)
    ends = np.searchsorted(liked, histories.offsets[1:])
    kept = np.minimum(ends - np.searchsorted(liked, histories.offsets[:-1]), count)
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
    rows = liked[np.repeat(ends - offsets[1:], kept) + np.arange(offsets[-1])]
    parts = {name: getattr(histories, name)[rows] for name in ("items", "weights", "times", "kinds", "values")}
    return dataclasses.replace(histories, offsets=offsets, **parts)


def candidates_of(offsets: np.ndarray, items: np.ndarray) -> Candidates:
    """Candidates that no source has named."""
    m = len(items)
    return Candidates(
        np.asarray(offsets, np.int64),
        np.asarray(items, np.int32),
        (),
        np.zeros((m, 0), np.float32),
        np.zeros((m, 0), np.int32),
    )


def calibrate(ranker: Ranker, examples: Examples, labels: np.ndarray, users: np.ndarray, run: Run) -> None:
    """Calibrate by the method of the smaller log-loss on users that it was not fitted on: Platt's or isotonic."""
    raw = ranker._raw(examples, run).reshape(len(examples), -1)[:, 0]
    half = run.rng(71).permutation(int(users.max()) + 1)[users] % 2 == 0
    losses = {}
    for name, method in CALIBRATORS.items():
        p = np.empty(len(raw))
        for fold in (half, ~half):
            if fold.all() or not fold.any():
                return
            p[fold] = method.fit(raw[~fold], labels[~fold]).apply(raw[fold])
        losses[name] = log_loss(labels, np.clip(p, 1e-6, 1 - 1e-6))
    name = min(losses, key=losses.__getitem__)
    ranker.calibrate = name
    ranker.calibrators_ = [CALIBRATORS[name].fit(raw, labels)]  # type: ignore[misc]


def simple_rates(displays: DisplayLog, goal: str) -> dict[str, Callable[[DisplayLog], np.ndarray]]:
    """What a ranker has to beat: the base rate; and the rate of the item times that of the position over the base.

    Rates are smoothed by 20 displays of the base rate.
    """
    labels = labels_of(displays, goal)
    base = (labels.sum() + 1.0) / (len(labels) + 2.0)
    n_items = int(displays.items.max()) + 1
    of_item = _rates(displays.items, labels, n_items, base)
    place = _places(displays.positions)
    of_place = _rates(place, labels, int(place.max()) + 1, base)

    def item_and_position(part: DisplayLog) -> np.ndarray:
        known = part.items < n_items
        item = np.where(known, of_item[np.minimum(part.items, n_items - 1)], base)
        position = of_place[np.minimum(_places(part.positions), len(of_place) - 1)]
        return np.clip(item * position / base, 1e-6, 1 - 1e-6)

    return {
        "base rate": lambda part: np.full(len(part), base),
        "item and position rate": item_and_position,
    }


def _places(positions: np.ndarray) -> np.ndarray:
    """int64[m]: positions as codes; 0 where unknown, at most 1,000."""
    return np.clip(np.nan_to_num(positions, nan=0.0), 0, 1_000).astype(np.int64)


def _rates(codes: np.ndarray, labels: np.ndarray, n: int, base: float) -> np.ndarray:
    return (np.bincount(codes, labels, n) + 20 * base) / (np.bincount(codes, minlength=n) + 20)


def _sample(displays: DisplayLog, start: int, stop: int, run: Run) -> np.ndarray:
    """int64: requests of the moments [start, stop), a random part of them where they have over MAX_DISPLAYS."""
    now = displays.requests.now
    rows = np.flatnonzero((now >= start) & (now < stop))
    total = int(np.diff(displays.offsets)[rows].sum())
    if total > MAX_DISPLAYS:
        rows = np.sort(run.rng(72).choice(rows, int(len(rows) * MAX_DISPLAYS / total), replace=False))
    return rows


def _specifications() -> list[str]:
    has = {"trees": find_spec("lightgbm"), "fm": find_spec("torch"), "deepfm": find_spec("torch")}
    return [text for text in SPECIFICATIONS if has[text.partition(":")[0]] is not None]
