"""Types of ads: campaigns, requests for ads, and what is answered. Money is whole micros: 1,000,000 are one unit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from zhiyin.api.requests import (
    ID_KEYS,
    Body,
    Bool,
    Fields,
    Filter,
    Id,
    Moment,
    Number,
    RequestSubject,
    Scalar,
    Text,
    Window,
    _whole_number,
)
from zhiyin.api.responses import ResponseModel
from zhiyin.core.limits import MAX_ID_CHARS, MAX_IDS

# A billion units of money; items of one campaign; ads of one request.
MAX_MICROS, MAX_CAMPAIGN_ITEMS, MAX_SLOTS = 10**15, 1_000, 20
Micros = Annotated[int, Field(ge=0, le=MAX_MICROS), BeforeValidator(_whole_number)]
PositiveMicros = Annotated[int, Field(ge=1, le=MAX_MICROS), BeforeValidator(_whole_number)]
Pricing = Literal["second", "first"]
Action = Literal["click", "purchase"]
Slots = Annotated[int, Field(ge=1, le=MAX_SLOTS), BeforeValidator(_whole_number)]


class FrequencyCap(Body):
    """How often a user is shown ads of a campaign: `at_most` times within `per`."""

    at_most: Annotated[int, Field(ge=1, le=1_000), BeforeValidator(_whole_number)]
    per: Window = "1d"


class CampaignSettings(Body):
    """A campaign. `items`: its ads, ids of the catalogue. `bid_micros`: what a click, or a purchase, is worth to it at
    most; `bid_column`: a column of the catalogue with bids in units of money, where an item has one. `pay`: for which
    of both it pays. `daily_budget_micros` (of a day, UTC) and `total_budget_micros`: it never spends more; left out,
    no limit. `start`, `end`: microseconds UTC. `pacing`: "even" over the day, along the "traffic" of the last days, or
    "none"; `pacing_by`: "score" lowers its place in auctions, "bid" its bids, "throttle" leaves auctions out.
    `frequency_cap`: per user. `paused`: takes no part."""

    items: Annotated[list[Id], Field(
        fail_fast=True, min_length=1, max_length=MAX_CAMPAIGN_ITEMS, json_schema_extra={"uniqueItems": True}
    )]  # fmt: skip
    bid_micros: PositiveMicros
    bid_column: Annotated[Text, Field(min_length=1, max_length=MAX_ID_CHARS)] | None = None
    pay: Action = "click"
    daily_budget_micros: PositiveMicros | None = None
    total_budget_micros: PositiveMicros | None = None
    start: Moment | None = None
    end: Moment | None = None
    pacing: Literal["even", "traffic", "none"] = "even"
    pacing_by: Literal["score", "bid", "throttle"] = "score"
    frequency_cap: FrequencyCap | None = None
    paused: Bool = False

    @model_validator(mode="after")
    def _check(self) -> CampaignSettings:
        if len(set(self.items)) < len(self.items):
            raise ValueError("items: an item is named twice; name each once")
        return self


class AdsRequest(RequestSubject):
    """Ads for someone. `slots`: how many; `placement`: whose filter and exclusions apply. `bids`: micros by item, for
    this request in place of those of campaigns; an item of no campaign that has a bid takes part too, and nothing is
    charged for it. `reserve_micros`: the least price; `quality_floor`: the least probability; `pricing`: "second" or
    "first" price; `per_campaign`: ads of one campaign at most. A page token may set none of the last five."""

    slots: Slots = 1
    placement: Id | None = None
    filter: Filter = ""
    exclude: Annotated[list[Id], Field(fail_fast=True, max_length=MAX_IDS)] = Field(default_factory=list)
    context: Annotated[dict[Annotated[Text, Field(max_length=MAX_ID_CHARS)], Scalar], Field(max_length=100)] = Field(
        default_factory=dict
    )
    fields: Fields = Field(default_factory=list)
    bids: Annotated[dict[Id, Micros], Field(max_length=MAX_CAMPAIGN_ITEMS, json_schema_extra=ID_KEYS)] = Field(
        default_factory=dict
    )
    reserve_micros: Micros | None = None
    quality_floor: Annotated[Number, Field(ge=0, le=1)] | None = None
    pricing: Pricing | None = None
    per_campaign: Slots | None = None


# Fields of a request that money hangs on: a page token may not set them.
SELLERS_FIELDS = ("bids", "reserve_micros", "quality_floor", "pricing", "per_campaign")


class Ad(ResponseModel):
    """An ad. `probability`: of what is paid for; `expected_micros`: probability × price. `campaign` null: of the bids
    of the request, nothing is charged."""

    item: str
    campaign: str | None
    pay: Action
    probability: float
    bid_micros: int
    price_micros: int
    expected_micros: int
    columns: dict[str, Any] | None = None


class AdsAnswer(ResponseModel):
    """Ads, best first. `list_id`: named by the events of a click. `left_out`: ads by what kept them out: inactive,
    rules, budget, frequency, pacing, quality or reserve."""

    list_id: str
    version: int
    placement: str
    pricing: Pricing
    ads: list[Ad]
    left_out: dict[str, int]
    milliseconds: float


class CampaignCounts(ResponseModel):
    """Displays, clicks and purchases; `paid` of them were charged, `unpaid` came when no budget could bear them.
    `ctr`: clicks by display; null without one."""

    displays: int
    clicks: int
    purchases: int
    paid: int
    unpaid: int
    spend_micros: int
    ctr: float | None


class Pace(ResponseModel):
    """How a campaign spends. `multiplier`: of its bids or of its part in auctions, in the process that answers;
    `target_micros`: what the curve would have spent by now of the day's budget, or else of the whole; null without a
    budget or an end. `reserved_micros`: what displays of the last minutes are expected to cost."""

    multiplier: float
    target_micros: int | None
    spend_micros: int
    reserved_micros: int


class CampaignAd(ResponseModel):
    item: str
    displays: int
    events: int
    expected: float


class Campaign(ResponseModel):
    """A campaign. `state`: active, paused, scheduled, ended, spent (its budget), or unusable, for the reason in
    `issue`: it takes no part."""

    id: str
    version: int
    settings: dict[str, Any]
    state: str
    issue: str


class CampaignReport(Campaign):
    """`total` and `today` (UTC), up to this moment; `ads`: what is paid for, as many as came and as expected."""

    today: CampaignCounts
    total: CampaignCounts
    pace: Pace
    ads: list[CampaignAd]


class CampaignList(ResponseModel):
    campaigns: list[Campaign]


class CampaignWriteResult(ResponseModel):
    id: str
    version: int


class CampaignDeleteResult(ResponseModel):
    id: str
