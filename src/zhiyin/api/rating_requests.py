"""Types of the requests and responses of predicted ratings."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from zhiyin.api.requests import ID_KEYS, Id, Number, RequestSubject, Scalar, UserValue
from zhiyin.api.responses import ResponseModel
from zhiyin.core.limits import LARGEST_VALUE, MAX_ITEMS

Rating = Annotated[Number, Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE)]
_NULL: dict[str, Any] = {"type": "null"}
_RATINGS_OR_WHO: dict[str, Any] = {"anyOf": [
    {"properties": {"history": _NULL, "ratings": _NULL}}, {"properties": {"user": _NULL, "session": _NULL}},
]}  # fmt: skip


class PredictRequest(RequestSubject):
    """Whose ratings of which items. `history`: items that a visitor had whose events are not kept; `ratings`: what such
    a visitor has given to items. Neither goes with user or session. `context` and
    `user_columns` are of lists, and stay empty."""

    model_config = ConfigDict(json_schema_extra=_RATINGS_OR_WHO)

    items: Annotated[list[Id], Field(fail_fast=True, min_length=1, max_length=MAX_ITEMS)]
    ratings: Annotated[dict[Id, Rating], Field(max_length=MAX_ITEMS, json_schema_extra=ID_KEYS)] | None = None
    context: Annotated[dict[str, Scalar], Field(max_length=0)] = Field(default_factory=dict)
    user_columns: Annotated[dict[str, UserValue], Field(max_length=0)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_ratings_alone(self) -> PredictRequest:
        if self.ratings is not None and (self.user is not None or self.session is not None):
            raise ValueError("ratings cannot be given with user or session: send them as events")
        return self


class PredictedRating(ResponseModel):
    """low, high: 90 % of ratings that were held back lay as close to their prediction; null where not measured.
    known: whether the version knows the item; of another one it is the rating of a mean item."""

    item: str
    rating: Number
    low: Number | None
    high: Number | None
    known: bool


class PredictedRatings(ResponseModel):
    """known: whether an event of the user is known. range: lowest and highest rating that was learned."""

    version: int = Field(ge=0)
    user: str | None
    known: bool
    range: list[Number] = Field(min_length=2, max_length=2)
    ratings: list[PredictedRating]
