"""Calls for predicted ratings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zhiyin.api import endpoints
from zhiyin.client.api_call import Call, endpoint_call, known_fields, present_fields
from zhiyin.client.api_types import PredictedRating, RatingPredictions


def predict(
    items: Sequence[str],
    *,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    ratings: Mapping[str, float] | None = None,
) -> Call[RatingPredictions]:
    """Predicted ratings of items by a user, a session, or a visitor who had items (`history`) or has rated some.

    Raises ApiError with status 409 where the version in use predicts no ratings.
    """
    request = present_fields(
        user=user, session=session, history=history, items=list(items),
        ratings=None if ratings is None else dict(ratings),
    )  # fmt: skip

    def read(body: Any) -> RatingPredictions:
        rows = [PredictedRating(**known_fields(PredictedRating, row)) for row in body["ratings"]]
        low, high = body["range"]
        return RatingPredictions(rows, body["version"], body["known"], (low, high))

    return endpoint_call(endpoints.PREDICT, read=read, body=request)
