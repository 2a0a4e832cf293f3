"""What requests bring: every field with its type, its range and its size. What is not here is refused.

Lists stop at the first value that is wrong (fail_fast): of many errors one is told.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from zhiyin.core.errors import DataError
from zhiyin.data.event_schema import LARGEST_VALUE
from zhiyin.pipeline.request import MAX_IDS
from zhiyin.pipeline.rules import MAX_ITEMS
from zhiyin.store.records import ID, KIND, TIMES, text

# Events of one request; widgets of a page; a page token's characters; columns asked for; characters of a text of the
# context; characters of a filter.
MOST_EVENTS, WIDGETS, TOKEN, FIELDS, CONTEXT, FILTER = 1_000, 20, 64_000, 50, 1_024, 4_000


def _right(value: str) -> str:
    try:
        return text(value, "id", ID)
    except DataError as error:
        raise ValueError(f"{error.message}; {error.remedy}") from None


def _unicode(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half a character") from None
    return value


_SLOTS = {"propertyNames": {"pattern": "^[1-9][0-9]{0,3}$"}}
# Said in the description as well: what it allows is taken.
_PLAIN = {"pattern": r"^[^\u0000-\u001f\u007f]+$"}
Id = Annotated[str, Field(min_length=1, max_length=ID, json_schema_extra=_PLAIN), AfterValidator(_right)]
Text = Annotated[str, AfterValidator(_unicode)]
Filter = Annotated[str, Field(max_length=FILTER), AfterValidator(_unicode)]
Fields = Annotated[list[Annotated[Text, Field(max_length=ID)]], Field(fail_fast=True, max_length=FIELDS)]
Scalar = Annotated[Text, Field(max_length=CONTEXT)] | bool | int | float | None
K = Annotated[int, Field(ge=1, le=MAX_ITEMS)]
Language = Literal["en", "zh"]
Variety = Literal["none", "mmr", "dpp", "calibrate"]
Duration = Annotated[
    str, Field(max_length=20, pattern=r"^([0-9]*[1-9][0-9]*(\.[0-9]+)?|0+\.[0-9]*[1-9][0-9]*)[smhdwy]$")
]
Pins = dict[Annotated[int, Field(ge=1, le=MAX_ITEMS)], Id]
# A factor or an addend: a number, or an expression.
Amount = float | Annotated[Text, Field(max_length=1_000)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class EventIn(Body):
    """One event. `time`: microseconds UTC, from 1971 to now, left out for now; `id`: of one id only the first event is
    kept."""

    user: Id
    item: Id
    kind: Annotated[str, Field(min_length=1, max_length=KIND, json_schema_extra=_PLAIN)] | None = "event"
    time: Annotated[int, Field(ge=TIMES.earliest)] | None = None
    value: Annotated[float, Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE)] | None = None
    id: Id | None = None
    list_id: Id | None = None


class BoostIn(Body):
    when: Filter = ""
    multiply: Amount = 1.0
    add: Amount = 0.0


class Made(Body):
    """What a list is made like: of a placement, and of a request."""

    k: K = 10
    filter: Filter = ""
    boosts: Annotated[list[BoostIn], Field(fail_fast=True, max_length=20)] = Field(default_factory=list)
    exclude: Annotated[list[Id], Field(fail_fast=True, max_length=MAX_IDS)] = Field(default_factory=list)
    pins: Annotated[Pins, Field(max_length=100, json_schema_extra=_SLOTS)] = Field(default_factory=dict)
    exclude_seen: bool | None = None
    diversity: Variety | None = None
    balance: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None


class Setting(Made):
    """A placement. `explore`: probability that one slot is given to an item that did not make the list; `budget`:
    milliseconds after which stages are left out."""

    explore: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.0
    budget: Annotated[int, Field(ge=1, le=60_000)] | None = None


class Who(Body):
    """Whose list. `user` is known by events; so is `session`, a visitor's, and both may be given; `history`: items,
    oldest first, of a visitor whose events are not kept."""

    user: Id | None = None
    session: Id | None = None
    history: Annotated[list[Id], Field(fail_fast=True, max_length=1_000)] | None = None
    context: Annotated[dict[Annotated[Text, Field(max_length=ID)], Scalar], Field(max_length=100)] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _one(self) -> Who:
        if self.history is not None and (self.user is not None or self.session is not None):
            raise ValueError("history cannot be given with user or session: send one of them")
        return self


class Ask(Who, Made):
    """Who asks for how many of what; where a placement says otherwise, the request wins, and both filters hold."""

    placement: Id | None = None
    include: Annotated[list[Id], Field(fail_fast=True, max_length=MAX_IDS)] | None = None
    explain: bool = False
    language: Language = "en"
    fields: Fields = Field(default_factory=list)
    page: Annotated[str, Field(max_length=TOKEN)] | None = None
    now: Annotated[int, Field(ge=0, le=7_258_118_400_000_000)] | None = None


class RankIn(Who):
    """Items to be ordered for someone."""

    items: Annotated[list[Id], Field(fail_fast=True, min_length=1, max_length=1_000)]
    placement: Id | None = None
    explain: bool = False
    language: Language = "en"
    fields: Fields = Field(default_factory=list)


class Widget(Body):
    """One list of a page. `page`: `next` of the same widget before."""

    name: Id
    kind: Literal["recommendations", "popular", "trending"] = "recommendations"
    similar_to: Id | None = None
    placement: Id | None = None
    k: K | None = None
    filter: Filter = ""
    page: Annotated[str, Field(max_length=TOKEN)] | None = None


class PageIn(Who):
    """Several lists for one page, no item twice; the first widget chooses first."""

    widgets: Annotated[list[Widget], Field(fail_fast=True, min_length=1, max_length=WIDGETS)]
    explain: bool = False
    language: Language = "en"
    fields: Fields = Field(default_factory=list)


class ShownIn(Body):
    """What was really shown of a list, in order."""

    items: Annotated[list[Id], Field(fail_fast=True, max_length=MAX_ITEMS)]


class RollbackIn(Body):
    version: Annotated[int, Field(ge=1)]


class KeyIn(Body):
    """A key to be made. `scopes`: read, events, admin, or page alone. `expires`: a duration from now such as "90d";
    left out, never."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    scopes: Annotated[list[Literal["read", "events", "page", "admin"]], Field(min_length=1, max_length=4)]
    expires: Duration | None = None


class TokenIn(Body):
    """Whom a page token is for. `session`: made by the shop's server, never taken from a page: an id of one's choice
    could be another user's. `scope`: what it allows. `expires`: "1s" to "7d"."""

    user: Id | None = None
    session: Id | None = None
    expires: Duration = "1h"
    scope: Annotated[list[Literal["events", "read"]], Field(min_length=1, max_length=2)] = ["events", "read"]


ColumnsIn = dict[str, Any]
