"""Origins of lists: recommendations, popular, trending, co-visits, similar items, and ranks of given items."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np

from zhiyin.pipeline.request import Answer, Request
from zhiyin.ranking.live_index import IndexState
from zhiyin.service.event_scores import EventScores
from zhiyin.service.version_view import View


def answer_request(
    view: View,
    visible: np.ndarray,
    request: Request,
    origin: str,
    similar_to: str | None,
    index: IndexState | None,
    event_scores: EventScores,
) -> Answer:
    """The answer to a request for a list of an origin.

    Parameters
    ----------
    visible: bool[items], items that may be listed.
    origin: "recommendations", "popular", "trending", "covisits", "similar" or "rank".
    similar_to: the item of a list of similar ones, or of co-visits; None for all other lists.
    index: state of the feature index; None where no ranker reads one.
    """
    answers = view.answers
    if origin == "covisits":
        scores = event_scores.covisits.scores(view, request, similar_to)
        if similar_to is None:  # a list for somebody, as recommendations are
            request = dataclasses.replace(request, exclude_seen=answers.excludes_seen(request))
        return answers.list_by_score(scores, request, visible, "covisits")
    if similar_to is not None:
        return answers.similar(similar_to, request, visible)
    if origin == "popular":
        scores = np.concatenate([view.context.popularity, np.zeros(answers.new_items.m, np.float32)])
        return answers.list_by_score(scores, request, visible, "popular")
    if origin == "trending":
        return answers.list_by_score(event_scores.trending.scores(view), request, visible, "trending")
    return answers.ask(request, visible, None if index is None else index.index)


def reading_index(view: View) -> contextlib.AbstractContextManager[IndexState | None]:
    """The state of a version's feature index, for one list; None where it has none."""
    return contextlib.nullcontext() if view.loaded.index is None else view.loaded.index.reading()
