"""Types of requests: every field with its type, its range and its size. What is not here is refused.

The description of the service (/openapi.json) is made of these types, and says of each what is taken: what JSON Schema
can say stands in it as a pattern, a bound or an alternative; what it cannot stands there as a `format` of ours and is
told in words. Nothing is converted from another type: true is no number, "5" is no number, 1 is not true.

Lists stop at the first value that is wrong (fail_fast): of many errors one is told.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from zhiyin.core.durations import SECOND, pattern_of
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.limits import (
    EARLIEST,
    LARGEST_VALUE,
    LATEST,
    MAX_COLUMNS,
    MAX_ID_CHARS,
    MAX_IDS,
    MAX_INTEGER,
    MAX_ITEMS,
    MAX_KIND_CHARS,
    MAX_LIFETIME_MICROSECONDS,
    MAX_LINK_WEIGHT,
)
from zhiyin.core.page_tokens import MAX_LIFETIME_SECONDS
from zhiyin.core.text_validation import text
from zhiyin.data.type_names import HIDDEN, MAX_TABLE_COLUMNS, TYPE_PATTERN, parse_type

MAX_EVENTS_PER_REQUEST, MAX_LINES_PER_REQUEST = 1_000, 10_000
# Widgets of a page; columns asked for.
MAX_WIDGETS, MAX_FIELDS = 20, 50
# Characters of a page's token, of a text of the context, of a filter, of a search; of a column of a user.
MAX_PAGE_TOKEN_CHARS, MAX_CONTEXT_CHARS, MAX_FILTER_CHARS, MAX_SEARCH_CHARS = 64_000, 1_024, 4_000, 200
MAX_USER_VALUE_CHARS = 256
# Characters of a review.
MAX_REVIEW_CHARS = 10_000


def _valid_id(value: str) -> str:
    try:
        return text(value, "id", MAX_ID_CHARS)
    except DataError as error:
        raise ValueError(f"{error.message}; {error.remedy}") from None


def _valid_unicode(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half a character") from None
    return value


def _whole_number(value: Any) -> Any:
    """A whole number, which JSON may write as 5.0; a text or a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is no whole number")
    return value


_SLOT = "([1-9][0-9]{0,2}|1000)"
assert MAX_ITEMS == 1_000


def _slot(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(_SLOT, value):
        return int(value)
    if type(value) is int and 1 <= value <= MAX_ITEMS:
        return value
    raise ValueError(f"a slot is a whole number from 1 to {MAX_ITEMS:,}")


def _duration(pattern: str, range: str) -> AfterValidator:
    """A check of durations. range: the shortest and the longest, in words."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.match(value):
            raise ValueError(f"is no duration {range}, such as 90m")
        return value

    return AfterValidator(check)


_SLOTS = {"propertyNames": {"pattern": f"^{_SLOT}$"}}
# Said in the description as well: what it allows is taken.
PLAIN = {"pattern": r"^[^\u0000-\u001f\u007f]+$"}
# What a text is, where no pattern can say it: conditions and expressions by the grammar of filters and the columns of
# the catalogue, and what `next` of a list said.
CONDITION, EXPRESSION, PAGE = "zhiyin-condition", "zhiyin-expression", "zhiyin-page"
# Names of policies and of their hyperparameters: those of the registry.
POLICY_KIND, POLICY_SETTINGS = "zhiyin-policy-kind", "zhiyin-policy-settings"
# [rules] of the settings.
RULES = "zhiyin-rules"
Bool = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS, json_schema_extra=PLAIN), AfterValidator(_valid_id)]
Text = Annotated[str, AfterValidator(_valid_unicode)]
Filter = Annotated[
    str,
    Field(max_length=MAX_FILTER_CHARS, json_schema_extra={"format": CONDITION}),
    AfterValidator(_valid_unicode),
]
Page = Annotated[Text, Field(max_length=MAX_PAGE_TOKEN_CHARS, json_schema_extra={"format": PAGE})]
Fields = Annotated[list[Annotated[Text, Field(max_length=MAX_ID_CHARS)]], Field(fail_fast=True, max_length=MAX_FIELDS)]
Scalar = Annotated[Text, Field(max_length=MAX_CONTEXT_CHARS)] | bool | int | float | None
UserValue = Annotated[Text, Field(max_length=MAX_USER_VALUE_CHARS)] | bool | int | float | None
K = Annotated[int, Field(ge=1, le=MAX_ITEMS), BeforeValidator(_whole_number)]
# Milliseconds; microseconds UTC until the year 2200.
Budget = Annotated[int, Field(ge=1, le=60_000), BeforeValidator(_whole_number)]
Moment = Annotated[int, Field(ge=0, le=7_258_118_400_000_000), BeforeValidator(_whole_number)]
# When something happened: from 1971 on; that it is not ahead of the clock is checked later.
EventTime = Annotated[int, Field(ge=EARLIEST, le=LATEST)]
Version = Annotated[int, Field(ge=1, le=MAX_INTEGER), BeforeValidator(_whole_number)]
Language = Literal["en", "zh"]
Variety = Literal["none", "mmr", "dpp", "calibrate"]
_TOKEN_LIFE, _KEY_LIFE = pattern_of(SECOND, MAX_LIFETIME_SECONDS * SECOND), pattern_of(1, MAX_LIFETIME_MICROSECONDS)
TokenLife = Annotated[str, _duration(_TOKEN_LIFE, "from 1s to 7d"), Field(json_schema_extra={"pattern": _TOKEN_LIFE})]
KeyLife = Annotated[str, _duration(_KEY_LIFE, "up to 100y"), Field(json_schema_extra={"pattern": _KEY_LIFE})]
Pins = dict[Annotated[int, Field(ge=1, le=MAX_ITEMS), BeforeValidator(_slot)], Id]
# A factor or an addend: a number, or an expression.
Amount = Number | Annotated[Text, Field(min_length=1, max_length=1_000, json_schema_extra={"format": EXPRESSION})]


class Body(BaseModel):
    """A JSON object; has no other fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, defer_build=True)


class EventBody(Body):
    """One event. `time`: microseconds UTC, from 1971 to a day ahead of the service's clock, left out for now; `id`: of
    one id only the first event is kept; `text`: a review, which becomes the value of an event that has none, and is
    not kept."""

    user: Id
    item: Id
    kind: Annotated[str, Field(min_length=1, max_length=MAX_KIND_CHARS, json_schema_extra=PLAIN)] | None = "event"
    time: EventTime | None = None
    value: Annotated[float, Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE)] | None = None
    id: Id | None = None
    list_id: Id | None = None
    text: Annotated[Text, Field(max_length=MAX_REVIEW_CHARS)] | None = None


LinkWeight = Annotated[Number, Field(gt=0, le=MAX_LINK_WEIGHT)]


class LinkBody(Body):
    weight: LinkWeight = 1.0


class LinkLine(Body):
    """A link of `user` to `other`; weight null: it is removed."""

    user: Id
    other: Id
    weight: LinkWeight | None = 1.0


class BoostBody(Body):
    when: Filter = ""
    multiply: Amount = 1.0
    add: Amount = 0.0


class ListOptions(Body):
    """What a list is made like: of a placement, and of a request."""

    k: K = 10
    filter: Filter = ""
    boosts: Annotated[list[BoostBody], Field(fail_fast=True, max_length=20)] = Field(default_factory=list)
    exclude: Annotated[list[Id], Field(fail_fast=True, max_length=MAX_IDS)] = Field(default_factory=list)
    pins: Annotated[Pins, Field(max_length=100, json_schema_extra=_SLOTS)] = Field(default_factory=dict)
    exclude_seen: Bool | None = None
    diversity: Variety | None = None
    balance: Annotated[Number, Field(ge=0, le=1)] | None = None


_WINDOW, _UPDATE = pattern_of(SECOND, 90 * 86_400 * SECOND), pattern_of(SECOND, 86_400 * SECOND)
Window = Annotated[str, _duration(_WINDOW, "from 1s to 90d"), Field(json_schema_extra={"pattern": _WINDOW})]
Update = Annotated[str, _duration(_UPDATE, "from 1s to 1d"), Field(json_schema_extra={"pattern": _UPDATE})]
EventKind = Annotated[
    str, Field(min_length=1, max_length=MAX_KIND_CHARS, json_schema_extra=PLAIN), AfterValidator(_valid_id)
]
Reward = Annotated[Number, Field(ge=-1e6, le=1e6)]
Share = Annotated[Number, Field(ge=0, le=1)]
PolicyMode = Literal["shadow", "apprentice", "guarded", "online"]
# In the order of `promote`: each lets the policy decide more.
POLICY_MODES: tuple[PolicyMode, ...] = ("shadow", "apprentice", "guarded", "online")


class RewardRule(Body):
    """What an event is worth; where its value is below `value_at_least`, or it has none, nothing."""

    reward: Reward
    value_at_least: Annotated[Number, Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE)] | None = None


class ExplorationSettings(Body):
    """How much a policy may explore. `share`: of the lists may differ from what it believes best; `loss_per_day`:
    expected reward that exploring may cost in a day; `user_per_day`: explored lists of one user in a day;
    `slot_shares`: of the lists may differ in a slot, by slot; `first_slot`: slots before it are not explored."""

    share: Share = 0.2
    loss_per_day: Annotated[Number, Field(ge=0, le=1e12)] | None = None
    user_per_day: Annotated[int, Field(ge=0, le=1_000_000), BeforeValidator(_whole_number)] | None = None
    slot_shares: Annotated[
        dict[Annotated[int, Field(ge=1, le=MAX_ITEMS), BeforeValidator(_slot)], Share],
        Field(max_length=100, json_schema_extra=_SLOTS),
    ] = Field(default_factory=dict)
    first_slot: K = 1


class PolicySettings(Body):
    """What chooses the items of a placement's lists and learns from rewards. `kind`: name of a policy of
    `zhiyin.policies`, or "one_slot"; `settings`: its hyperparameters; `actions`: "items" of the placement's
    lists, or "own", those that a caller brings to POST /v1/decisions, its lists being made without it;
    `shortlist`: items it chooses among; `rewards`: by kind of event; `window`: after the list in which they
    count; `randomisation`: probability of a swap in a slot of the top 5 in mode apprentice; `margin`: relative
    loss against the baseline that mode guarded bears; `control`: share of its lists that the baseline always
    makes; `update`: how often rewards are learned."""

    kind: Annotated[str, Field(min_length=1, max_length=64, json_schema_extra={"format": POLICY_KIND})]
    settings: Annotated[
        dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=256)] | bool | int | float | None],
        Field(max_length=50, json_schema_extra={"format": POLICY_SETTINGS}),
    ] = Field(default_factory=dict)
    actions: Literal["items", "own"] = "items"
    mode: PolicyMode = "shadow"
    shortlist: K = 50
    rewards: Annotated[
        dict[EventKind, Reward | RewardRule], Field(max_length=100, json_schema_extra={"additionalProperties": False})
    ] = Field(default_factory=dict)
    window: Window = "10m"
    aggregation: Literal["sum", "first", "last", "max", "min", "mean", "median"] = "sum"
    default_reward: Reward = 0.0
    impressions: Literal["optional", "required"] = "optional"
    exploration: ExplorationSettings = Field(default_factory=ExplorationSettings)
    randomisation: Share = 0.02
    margin: Share = 0.05
    control: Annotated[Number, Field(ge=0.01, le=0.9)] = 0.1
    update: Update = "2s"


_POLICY_OR_EXPLORE: dict[str, Any] = {
    "anyOf": [{"properties": {"policy": {"type": "null"}}}, {"properties": {"explore": {"const": 0}}}]
}


class PlacementSettings(ListOptions):
    """A placement. `explore`: probability that one slot is given to an item that did not make the list; `budget`:
    milliseconds after which stages are left out; `policy`: what chooses the items, in place of `explore`."""

    model_config = ConfigDict(json_schema_extra=_POLICY_OR_EXPLORE)

    explore: Share = 0.0
    budget: Budget | None = None
    policy: PolicySettings | None = None

    @model_validator(mode="after")
    def _check_one_exploration(self) -> PlacementSettings:
        if self.policy is not None and self.explore > 0:
            raise ValueError("explore and policy are given: the policy says what is explored, leave explore out")
        return self


_NULL: dict[str, Any] = {"type": "null"}
_HISTORY_OR_WHO: dict[str, Any] = {"anyOf": [
    {"properties": {"history": _NULL}}, {"properties": {"user": _NULL, "session": _NULL}},
]}  # fmt: skip


class RequestSubject(Body):
    """Whose list. `user` is known by events; so is `session`, a visitor's, and both may be given; `history`, which
    neither of them goes with: items, oldest first, of a visitor whose events are not kept. `user_columns`: columns of
    the user for this request, over those that are kept of them; not with a page token."""

    model_config = ConfigDict(json_schema_extra=_HISTORY_OR_WHO)

    user: Id | None = None
    session: Id | None = None
    history: Annotated[list[Id], Field(fail_fast=True, max_length=1_000)] | None = None
    context: Annotated[dict[Annotated[Text, Field(max_length=MAX_ID_CHARS)], Scalar], Field(max_length=100)] = Field(
        default_factory=dict
    )
    user_columns: Annotated[dict[Annotated[Text, Field(max_length=MAX_ID_CHARS)], UserValue], Field(max_length=50)] = (
        Field(default_factory=dict)
    )

    @model_validator(mode="after")
    def _check_history_alone(self) -> RequestSubject:
        if self.history is not None and (self.user is not None or self.session is not None):
            raise ValueError("history cannot be given with user or session: send one of them")
        return self


class RecommendRequest(RequestSubject, ListOptions):
    """Who asks for how many of what; where a placement says otherwise, the request wins, and both filters hold."""

    placement: Id | None = None
    include: Annotated[list[Id], Field(fail_fast=True, max_length=MAX_IDS)] | None = None
    explain: Bool = False
    language: Language = "en"
    fields: Fields = Field(default_factory=list)
    page: Page | None = None
    now: Moment | None = None


class RankRequest(RequestSubject):
    """Items to be ordered for someone."""

    items: Annotated[list[Id], Field(fail_fast=True, min_length=1, max_length=1_000)]
    placement: Id | None = None
    explain: Bool = False
    language: Language = "en"
    fields: Fields = Field(default_factory=list)


class PageWidget(Body):
    """One list of a page. `similar_to`: an item, for items similar to it, or, of kind covisits, its co-visits. `page`:
    `next` of the same widget before."""

    name: Id
    kind: Literal["recommendations", "popular", "trending", "covisits"] = "recommendations"
    similar_to: Id | None = None
    placement: Id | None = None
    k: K | None = None
    filter: Filter = ""
    page: Page | None = None


class PageRequest(RequestSubject):
    """Several lists for one page, no item twice; the first widget chooses first. Each has a name of its own."""

    widgets: Annotated[list[PageWidget], Field(fail_fast=True, min_length=1, max_length=MAX_WIDGETS)]
    explain: Bool = False
    language: Language = "en"
    fields: Fields = Field(default_factory=list)

    @model_validator(mode="after")
    def _check_names_differ(self) -> PageRequest:
        if len({widget.name for widget in self.widgets}) < len(self.widgets):
            raise ValueError("two widgets have one name: give each a name of its own")
        return self


class ImpressionBody(Body):
    """What was really shown of a list, in order."""

    items: Annotated[list[Id], Field(fail_fast=True, max_length=MAX_ITEMS)]


class RollbackRequest(Body):
    version: Version


class PromoteRequest(Body):
    """`mode`: that the policy gets; left out, the next one. `force`: also where the log does not show that it is
    better."""

    mode: PolicyMode | None = None
    force: Bool = False


class PolicyRollbackRequest(Body):
    """`snapshot`: that decides from now on, 0 the prior, and nothing is learned until `unfreeze`; left out, what was
    decided before the last change applies again."""

    snapshot: Annotated[int, Field(ge=0, le=MAX_INTEGER), BeforeValidator(_whole_number)] | None = None


# Lists that one request may have replayed.
MAX_WHATIF_LISTS = 5_000


class WhatIfRequest(Body):
    """Another configuration, and the lists that are asked about. `placement`: that made them; `settings`: of the
    placement, in place of its own; `rules`: all of [rules], in place of those in use; `version`: of the models;
    `as_placement`: whose settings make the lists; `mode`: of its policy; `snapshot`: learned state of the policy, the
    newest one where none is named; `since`, `until`: when the lists were made, microseconds UTC; `limit`: the newest
    lists that are read; `interval`: how intervals are made."""

    placement: Id = "default"
    settings: PlacementSettings | None = None
    rules: Annotated[dict[str, Any], Field(json_schema_extra={"format": RULES})] | None = None
    version: Version | None = None
    as_placement: Id | None = None
    mode: PolicyMode | None = None
    snapshot: Annotated[int, Field(ge=0), BeforeValidator(_whole_number)] | None = None
    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_WHATIF_LISTS), BeforeValidator(_whole_number)] = 1_000
    confidence: Annotated[Number, Field(ge=0.5, le=0.999)] = 0.95
    interval: Literal["clopper_pearson", "gamma", "normal", "empirical_bernstein", "anytime"] = "clopper_pearson"


_PAGE_ALONE = {"oneOf": [{"items": {"const": "page"}}, {"items": {"enum": ["read", "events", "admin"]}}]}


def _page_alone(scopes: list[str]) -> list[str]:
    if "page" in scopes and len({*scopes}) > 1:
        raise ValueError("a key for pages signs tokens and does nothing else: make another key for the other scopes")
    return scopes


class KeyRequest(Body):
    """A key to be made. `scopes`: of read, events and admin, or page alone. `expires`: a duration from now such as
    "90d"; left out, never."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    scopes: Annotated[
        list[Literal["read", "events", "page", "admin"]],
        Field(min_length=1, max_length=4, json_schema_extra=_PAGE_ALONE),
        AfterValidator(_page_alone),
    ]
    expires: KeyLife | None = None


class TokenRequest(Body):
    """Whom a page token is for. `session`: made by the shop's server, never taken from a page: an id of one's choice
    could be another user's. `scope`: what it allows. `expires`: "1s" to "7d"."""

    user: Id | None = None
    session: Id | None = None
    expires: TokenLife = "1h"
    scope: Annotated[list[Literal["events", "read"]], Field(min_length=1, max_length=2)] = ["events", "read"]


# What a column of an item or a user may hold. Checked by `records.columns` and by the types of the columns.
_TEXT = {"type": "string", "pattern": r"^[^\u0000]*$"}
_NUMBER = {"type": "number", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER}
_COLUMN = {"anyOf": [
    _NULL, {"type": "boolean"}, _TEXT, _NUMBER,
    *({"type": "array", "items": {"anyOf": [one, _NULL]}} for one in (_TEXT, _NUMBER)),
]}  # fmt: skip
_TRUE_OR_FALSE = {"anyOf": [
    {"type": ["boolean", "null"]}, {"enum": [0, 1]},
    {"type": "string", "pattern": r"^\s*([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])\s*$"},
]}  # fmt: skip


def columns_schema(table: str) -> dict[str, Any]:
    """What the columns of one of "items" or "users" may be, as a JSON Schema."""
    return {
        "type": "object", "title": "Columns", "maxProperties": MAX_COLUMNS,
        "propertyNames": {"minLength": 1, "maxLength": MAX_ID_CHARS, **PLAIN, "not": {"const": "id"}},
        "properties": {HIDDEN: _TRUE_OR_FALSE} if table == "items" else {},
        "additionalProperties": _COLUMN,
        "description": "Texts, numbers, booleans, null, or lists of texts or of numbers, by column; each of the type "
        "that GET /v1/schema tells, a new column of the type of its first value. At most 256 KiB.",
    }  # fmt: skip


ID_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS, **PLAIN}


# Of objects whose keys are ids.
ID_KEYS: dict[str, Any] = {"propertyNames": {name: rule for name, rule in ID_SCHEMA.items() if name != "type"}}


def _valid_type(text: str) -> str:
    try:
        return parse_type(text, "")
    except ConfigError as error:
        raise ValueError(f"{text!r} is no type: {error.remedy}") from None


# Types by column, as `parse_type` reads them; null takes a declaration back.
Type = Annotated[
    str, AfterValidator(_valid_type), Field(max_length=20, json_schema_extra={"pattern": f"^{TYPE_PATTERN}$"})
]


# Names of columns whose types are fixed are refused.
_COLUMN_NAMES = {name: rule for name, rule in ID_SCHEMA.items() if name != "type"} | {"not": {"enum": ["id", HIDDEN]}}


def _without_fixed(types: dict[str, str | None]) -> dict[str, str | None]:
    for column in ("id", HIDDEN):
        if column in types:
            raise ValueError(f"the type of {column!r} is fixed: name other columns")
    return types


Types = Annotated[
    dict[Id, Type | None],
    Field(max_length=MAX_TABLE_COLUMNS, json_schema_extra={"propertyNames": _COLUMN_NAMES}),
    AfterValidator(_without_fixed),
]


class SchemaRequest(Body):
    """Types by column: bool, int, number, text, date, time, texts, piped (texts parted by |), numbers, vector or
    vector(64). null: as it was without a declaration."""

    items: Types = Field(default_factory=dict)
    users: Types = Field(default_factory=dict)


# -- bodies that are no model -----------------------------------------------------------------------------------------


def event_batch_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schemas of a batch of events, by media type."""
    batch = {"type": "array", "minItems": 1, "maxItems": MAX_EVENTS_PER_REQUEST, "items": EventBody.model_json_schema()}
    return {
        "application/json": {
            "type": "object", "required": ["events"], "additionalProperties": False, "properties": {"events": batch},
        },
        "application/x-ndjson": batch | {"description": "one event a line"},
    }  # fmt: skip


def lines_schemas(table: str) -> dict[str, dict[str, Any]]:
    """JSON Schema of many of "items" or "users", a line each, as an array of what stands in a line; by media type."""
    columns = {"anyOf": [columns_schema(table), {"type": "null"}]}
    return {"application/x-ndjson": {
        "type": "array", "minItems": 1, "maxItems": MAX_LINES_PER_REQUEST,
        "items": {
            "type": "object", "required": ["id", "columns"], "additionalProperties": False,
            "properties": {"id": ID_SCHEMA, "columns": columns},
        },
        "description": 'a line each, such as {"id": "i1", "columns": {"price": 3}}; columns null: deleted',
    }}  # fmt: skip


def link_lines_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema of many links, a line each, as an array of what stands in a line; by media type."""
    return {"application/x-ndjson": {
        "type": "array", "minItems": 1, "maxItems": MAX_LINES_PER_REQUEST, "items": LinkLine.model_json_schema(),
        "description": 'a line each, such as {"user": "u1", "other": "u2", "weight": 1}; weight null: removed',
    }}  # fmt: skip


# -- queries of addresses ---------------------------------------------------------------------------------------------


def column_names(fields: str) -> list[str]:
    """Names between commas, each once."""
    return list(dict.fromkeys(name.strip() for name in fields.split(",") if name.strip()))


def _valid_fields(fields: str) -> str:
    names = column_names(fields)
    if len(names) > MAX_FIELDS or any(len(name) > MAX_ID_CHARS for name in names):
        raise ValueError(f"at most {MAX_FIELDS} names of at most {MAX_ID_CHARS} characters")
    return fields


# One text, described as the array between commas that it is.
_FIELDS_SCHEMA: dict[str, Any] = {
    "type": "array", "items": {"type": "string", "maxLength": MAX_ID_CHARS, "pattern": "^[^,]*$"},
    "maxItems": MAX_FIELDS,
}  # fmt: skip
_FieldsText = Annotated[
    Text,
    Field(
        max_length=MAX_FIELDS * (MAX_ID_CHARS + 1),
        description=f"at most {MAX_FIELDS} columns, between commas",
        json_schema_extra=_FIELDS_SCHEMA,
    ),
    AfterValidator(_valid_fields),
]
_ListSize = Annotated[int, Field(ge=1, le=MAX_ITEMS)]
_NextPage = Annotated[Page | None, Field(description="`next` of the list before")]


class Query(BaseModel):
    """Parameters of an address; each value is read from a text."""

    model_config = ConfigDict(defer_build=True)


class PagedQuery(Query):
    k: _ListSize = 10
    page: _NextPage = None


class ListQuery(Query):
    k: _ListSize = 10
    filter: Filter = ""
    fields: _FieldsText = ""
    page: _NextPage = None


class CovisitsQuery(ListQuery):
    item: Id | None = None
    user: Id | None = None
    session: Id | None = None


class SearchQuery(Query):
    search: Annotated[Text, Field(max_length=MAX_SEARCH_CHARS)] = ""
    k: _ListSize = 10
    fields: _FieldsText = ""
    page: _NextPage = None


class RecommendQuery(Query):
    user: Id | None = None
    session: Id | None = None
    placement: Id | None = None
    k: _ListSize | None = None
    filter: Filter = ""
    explain: bool = False
    language: Language = "en"
    fields: _FieldsText = ""
    page: _NextPage = None


class LinksQuery(Query):
    direction: Literal["from", "to"] = "from"
    most: Annotated[int, Field(ge=1, le=10_000)] = 1_000


class SuggestedQuery(Query):
    k: Annotated[int, Field(ge=1, le=MAX_ITEMS)] = 10


class HistoryQuery(Query):
    most: Annotated[int, Field(ge=1, le=1_000)] = 100


class ReplayQuery(Query):
    explain: bool = False
