"""What decided that an item is in a list: the source, the columns of the user, or the kind of feature that contributed
most to its score."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.models.recommender import Recommender, VectorRecommender
from zhiyin.pipeline import blending
from zhiyin.ranking.blend_kernels import reciprocal_rank
from zhiyin.ranking.examples import Candidates

if TYPE_CHECKING:
    from zhiyin.pipeline.pipeline import Pipeline

# Columns of a user that are left out one by one.
MAX_COLUMNS = 12
# Columns decide where they make this share of an item's score; below, it would be there for everyone.
COLUMN_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Cause:
    """What decided.

    Parameters
    ----------
    by: "source"; "columns", of the user; "history", what the user did; "item", columns of the item; "popularity".
    source: the source, where one decided.
    columns: the columns that decided, the most first.
    """

    by: str
    source: str = ""
    columns: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"by": self.by, "source": self.source or None, "columns": list(self.columns)}


POPULARITY = Cause("popularity")


def causes(
    pipeline: Pipeline,
    history: Histories,
    items: np.ndarray,
    rows: np.ndarray,
    candidates: Candidates,
    method: str,
    features: tuple[list[str], np.ndarray] | None,
    run: Run,
) -> list[Cause]:
    """The cause of each item.

    Parameters
    ----------
    rows: int64[k], the items among the candidates; -1: none.
    features: names, and contributions float32[k, features] to the ranker's score; None where no ranker decided.
    """
    found = [POPULARITY] * len(items)
    own = np.flatnonzero(rows >= 0)
    if not len(own):
        return found
    shares = _source_shares(pipeline, history, candidates, method)[rows[own]]
    for place, number in enumerate(own.tolist()):
        cause = None
        if features is not None:
            cause = _by_features(pipeline, *features, number)
        if cause is None and (shares[place] > 0).any():
            cause = Cause("source", candidates.sources[int(np.argmax(shares[place]))])
        found[number] = cause or POPULARITY
    return _with_columns(pipeline, history, items, found, run)


def _source_shares(pipeline: Pipeline, history: Histories, candidates: Candidates, method: str) -> np.ndarray:
    """float64[m, sources]: what each source adds to the scores of the candidates."""
    ranks = np.where(candidates.ranks >= 0, reciprocal_rank(np.maximum(candidates.ranks, 0)), 0.0)
    if method in candidates.sources:
        at = candidates.sources.index(method)
        ranks[:, at] += np.where(candidates.ranks[:, at] >= 0, 1.0, 0.0)  # it alone decides what it has named
    elif method == "weighted":
        signals, n = blending.signals(candidates), len(candidates.sources)
        moved = signals * pipeline.weights_[int(history.positives[0] > 0)]
        return moved[:, :n] + moved[:, n:]
    return ranks


def _by_features(pipeline: Pipeline, names: list[str], moved: np.ndarray, number: int) -> Cause | None:
    """The cause whose features together raised the score most; None where none did."""
    totals: dict[Cause, float] = {}
    for name, value in zip(names, moved[number].tolist()):
        cause = _cause_of_feature(pipeline, name)
        if cause is not None:
            totals[cause] = totals.get(cause, 0.0) + value
    best = max(totals, key=lambda cause: totals[cause], default=None)
    return None if best is None or totals[best] <= 0 else best


def _cause_of_feature(pipeline: Pipeline, name: str) -> Cause | None:
    """What a feature of the ranker stands for; None for what is the same of all items, such as the hour."""
    for source in pipeline.sources_:
        if name.startswith(f"{source} "):
            return Cause("source", source)
    builder = pipeline.builder_
    blocks = () if builder is None else ((builder.users, "columns"), (builder.items, "item"))
    for block, by in blocks:
        if block is not None and name.startswith(f"{block.prefix} "):
            rest = name.removeprefix(f"{block.prefix} ")
            of = [column for column in block.features.names if rest == column or rest.startswith(f"{column} ")]
            if of:
                return Cause(by, columns=(max(of, key=len),))
    if name.startswith("item "):
        return POPULARITY
    if name.startswith(("user ", "context ")) or name in ("hour", "weekday", "session events", "sources"):
        return None
    return None if name == "reciprocal ranks" else Cause("history")


def _with_columns(
    pipeline: Pipeline, history: Histories, items: np.ndarray, found: list[Cause], run: Run
) -> list[Cause]:
    """Sources that know a user by columns give way to the columns that raised the item most."""
    result = list(found)
    is_stranger = not bool(history.positives[0])
    for name, source in pipeline.sources_.items():
        own = [at for at, cause in enumerate(found) if cause == Cause("source", name)]
        if not own or not source.reads_user_columns or not source.knows_columns(history)[0]:
            continue
        if not is_stranger and not source.scores_empty_histories:
            continue  # such a source goes by what the user did
        effects, total = column_effects(source, history, items[own], run)
        for place, at in enumerate(own):
            order = sorted(effects, key=lambda column: -effects[column][place])
            least = COLUMN_SHARE * abs(float(total[place]))
            deciding = tuple(column for column in order[:2] if effects[column][place] > max(least, 0.0))
            result[at] = Cause("columns", name, deciding[:1]) if deciding else POPULARITY
    return result


def column_effects(
    source: Recommender, history: Histories, items: np.ndarray, run: Run
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """By how much each known column of a user raises the scores of items, float32[k] by column: the difference to the
    score without it; and the scores. Where the source has no vectors, no column."""
    if not isinstance(source, VectorRecommender) or history.features is None:
        return {}, np.zeros(len(items), np.float32)
    frame = history.features
    known = [name for name in frame.columns if frame[name][0] is not None][:MAX_COLUMNS]
    without = [frame.with_columns(pl.lit(None, dtype=frame.schema[name]).alias(name)) for name in known]
    batch = history.take(np.zeros(len(known) + 1, dtype=np.int64))
    batch = dataclasses.replace(batch, features=pl.concat([frame, *without]))
    scores = source.queries(batch, run) @ source.item_vectors_[items].T
    return {name: scores[0] - scores[1 + at] for at, name in enumerate(known)}, scores[0]
