"""Probabilities of a click, and of a purchase, of items for requests: the one owner of what bids are multiplied by.

They come from the ranker of a version that was trained for them (`[train] goal = "ctr"` or "cvr"), from the features
that served lists are scored by, with the position fixed to the first: the same request has the same probability in a
list, in an ad and in a table. A score that is no calibrated probability is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.examples import Candidates

if TYPE_CHECKING:
    from zhiyin.pipeline.pipeline import Pipeline

# Goals whose versions answer with probabilities, and the label of a goal without several tasks.
LABELS = {"ctr": "click", "cvr": "purchase"}


def has_probabilities(pipeline: object) -> bool:
    """Whether a model answers with probabilities."""
    ranker = getattr(pipeline, "ranker_", None)
    return getattr(pipeline, "goal_", "ranking") in LABELS and bool(getattr(ranker, "probabilities", False))


def probabilities(
    pipeline: Pipeline,
    histories: Histories,
    offsets: np.ndarray,
    items: np.ndarray,
    *,
    run: Run | None = None,
    index: AsOf | None = None,
) -> dict[str, np.ndarray]:
    """Probabilities of the items of n requests, by label.

    Parameters
    ----------
    histories: of the n users, as of their moments.
    offsets, items: int64[n + 1] into int32[m]; the items of each request, none twice.
    index: what the ranker knows of items, where it has heard of more than the pipeline has learned.

    Returns
    -------
    By label float32[m], each in 0..1: "click" of a version for "ctr"; "purchase", given a click, of one for "cvr".

    Raises ConfigError for a version that was not trained for probabilities.
    """
    if not has_probabilities(pipeline):
        raise ConfigError(
            "the version in use does not know probabilities: its scores only order a list",
            remedy="zhiyin train --goal ctr",
        )
    label, m = LABELS[pipeline.goal_], len(items)
    sources, width = tuple(pipeline.sources_), len(pipeline.sources_)
    candidates = Candidates(
        np.asarray(offsets, dtype=np.int64),
        np.asarray(items, dtype=np.int32),
        sources,
        np.full((m, width), np.nan, dtype=np.float32),
        np.full((m, width), -1, dtype=np.int32),
    )
    return {label: pipeline.scored(histories, candidates, run, index, method="ranker").scores}
