"""What the service answers with, as types: /openapi.json is made of them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Number = float | int
Columns = dict[str, Any]


class Refusal(BaseModel):
    """An answer that is no success: what is wrong, what to do about it, and the field of the request."""

    error: str
    remedy: str
    field: str | None = None


class ResponseModel(BaseModel):
    """A success; has no other fields."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class EventResult(ResponseModel):
    """What became of an event. id: as given or made; none where it was rejected."""

    id: str | None = None
    status: str = Field(pattern="^(accepted|known|rejected)$")
    reason: str | None = None


class EventResults(ResponseModel):
    events: list[EventResult]
    rejected: int = Field(ge=0)


class LineError(ResponseModel):
    line: int = Field(ge=1)
    reason: str


class ImportResult(ResponseModel):
    """rejected: the first 100."""

    accepted: int = Field(ge=0)
    rejected: list[LineError]


class WriteResult(ResponseModel):
    """version 0: there was nothing to delete."""

    id: str
    version: int = Field(ge=0)


class CatalogEntry(ResponseModel):
    """version 0: as the catalogue of the version in use has it."""

    id: str
    columns: Columns
    version: int = Field(ge=0)


class ForgetResult(ResponseModel):
    id: str
    proof: dict[str, Any]


class SearchHit(ResponseModel):
    item: str
    columns: Columns


class SearchResults(ResponseModel):
    """next: given back as page, the items that follow."""

    items: list[SearchHit]
    next: str | None


class ListedItem(ResponseModel):
    """columns: those asked for. reason, sentence, sources: with explain. score: null where an item is not known."""

    item: str
    score: Number | None
    columns: Columns | None = None
    reason: dict[str, Any] | None = None
    sentence: str | None = None
    sources: dict[str, int] | None = None


class RemovedItem(ResponseModel):
    item: str
    rule: str


class ListDecision(ResponseModel):
    """By what a list was decided. mode: fallback: the list without the policy. snapshot: number of what was learned;
    0: nothing yet. explored: differs from what the policy believes best. reason: why the policy did not decide, or not
    freely; empty: it did."""

    policy: str
    mode: str
    snapshot: int
    explored: bool
    reason: str


class ItemList(ResponseModel):
    """next: given back as page, the items that follow. degraded: stages and sources left out. milliseconds: it took.
    experiments: the arm of each experiment that the list is made by. decision: where the placement has a policy."""

    list_id: str
    version: int
    placement: str
    method: str
    items: list[ListedItem]
    next: str | None
    degraded: list[str]
    removed: list[RemovedItem] | None = None
    experiments: dict[str, str] | None = None
    decision: ListDecision | None = None
    milliseconds: Number


class SimilarItems(ItemList):
    item: str


class PageLists(ResponseModel):
    class One(ItemList):
        name: str

    widgets: list[One]


class SimilarUser(ResponseModel):
    user: str
    score: Number


class SimilarUsers(ResponseModel):
    """next: given back as page, the users that follow."""

    user: str
    version: int
    users: list[SimilarUser]
    next: str | None


class UserLink(ResponseModel):
    user: str
    weight: Number


class UserLinkList(ResponseModel):
    """links: of `user`, or to `user`, as `direction` says; the strongest first."""

    user: str
    direction: str = Field(pattern="^(from|to)$")
    links: list[UserLink]


class LinkResult(ResponseModel):
    """changed: whether it was not so already."""

    user: str
    other: str
    changed: bool


class SuggestedUser(ResponseModel):
    """common: friends in common; via: up to three of them."""

    user: str
    score: Number
    common: int = Field(ge=1)
    via: list[str]


class SuggestedUsers(ResponseModel):
    user: str
    users: list[SuggestedUser]


class HistoryEvent(ResponseModel):
    id: str
    item: str
    time: int
    kind: str
    value: Number | None


class History(ResponseModel):
    user: str
    events: list[HistoryEvent]


class ImpressionResult(ResponseModel):
    """kept: items of the list that were shown; inserted: those shown that were not of it; dropped: those not shown."""

    list_id: str
    kept: list[str]
    inserted: list[str]
    dropped: list[str]


class ActionProbability(ResponseModel):
    id: str
    probability: Number = Field(ge=0, le=1)


class DecidedSlot(ResponseModel):
    """action: null where no action was left for the slot. propensity: the probability by which it was chosen, given the
    slots before. ranking: the actions that the slot could have, the most probable first."""

    id: str
    action: str | None
    propensity: Number | None
    ranking: list[ActionProbability]


class Decision(ResponseModel):
    """snapshot: number of the learned state that decided; 0: nothing was learned. explored: whether another action was
    chosen than the one believed best. reason: why the policy did not decide as its settings say; "": it did."""

    event_id: str
    policy: str
    snapshot: int = Field(ge=0)
    mode: str
    slots: list[DecidedSlot]
    explored: bool
    reason: str
    deferred: bool


class RewardResult(ResponseModel):
    """status: known: a reward of this id was there already. late: it came after the window, is kept, and is not learned
    from."""

    event_id: str
    status: str = Field(pattern="^(accepted|known)$")
    late: bool


class ActivationResult(ResponseModel):
    """status: known: it was active already. late: it came after the window: the decision was dropped."""

    event_id: str
    status: str = Field(pattern="^(activated|known)$")
    late: bool


class Placement(ResponseModel):
    name: str
    version: int
    settings: dict[str, Any]


class PlacementList(ResponseModel):
    placements: list[Placement]


class HealthIssueEntry(ResponseModel):
    """what: which, by its name or its sequence number. mend: the command or request that mends it."""

    what: str
    reason: str
    mend: str


class ColumnType(ResponseModel):
    """source: catalogue, first write, settings or declared."""

    type: str
    source: str


class ColumnSchema(ResponseModel):
    """Types by column. version: grows with each change. set_aside: after a change, all that is not used."""

    version: int
    items: dict[str, ColumnType]
    users: dict[str, ColumnType]
    set_aside: list[HealthIssueEntry] | None = None


class PlacementWriteResult(ResponseModel):
    """warnings: what the settings most likely do not mean."""

    name: str
    version: int
    warnings: list[str] = []


class PlacementDeleteResult(ResponseModel):
    name: str


class PlacementVersion(ResponseModel):
    version: int
    time: int
    by: str | None
    settings: dict[str, Any] | None


class PlacementVersions(ResponseModel):
    name: str
    versions: list[PlacementVersion]


class Experiment(ResponseModel):
    """by: who wrote the version: file, http, command, guardrail, allocation or look. state: when it began (microseconds
    UTC), what was stopped and why, weights that were drawn, results of planned looks. running: whether units are
    assigned; issue: why none is, though it was not stopped: an arm that cannot be served."""

    name: str
    version: int
    settings: dict[str, Any]
    state: dict[str, Any]
    running: bool
    issue: str
    by: str
    reason: str


class ExperimentList(ResponseModel):
    experiments: list[Experiment]


class ExperimentWriteResult(ResponseModel):
    name: str
    version: int


class ExperimentDeleteResult(ResponseModel):
    name: str


class ExperimentVersion(ResponseModel):
    version: int
    time: int
    by: str | None
    reason: str | None
    settings: dict[str, Any] | None
    state: dict[str, Any] | None


class ExperimentVersions(ResponseModel):
    name: str
    versions: list[ExperimentVersion]


class ExperimentResults(BaseModel):
    """started, until: of the lists that are counted, microseconds UTC. sample_ratio_ok: false where the numbers of
    units do not fit the weights; then nothing else means anything. comparisons: a row for each arm and metric."""

    name: str
    kind: str
    control: str
    started: int
    until: int
    arms: list[dict[str, Any]]
    sample_ratio_p_value: float
    sample_ratio_ok: bool
    comparisons: list[dict[str, Any]]
    interleaving: dict[str, Any] | None
    looks: list[dict[str, Any]]


class PolicySummary(ResponseModel):
    """A policy as it decides now. mode: that applies; settings_mode: that of the placement. snapshot: number of what
    was learned, 0: nothing; newest_snapshot: that there is, which a frozen policy does not use. reason: why it does not
    decide, or not freely. loss_spent: expected reward that exploring cost within a day. learned:
    decisions and outcomes. guard: share of the lists that it gets in mode guarded, and the interval of its difference
    to the baseline. monitors: figures of the learner."""

    name: str
    placement_version: int
    kind: str
    actions: str
    mode: str
    settings_mode: str
    frozen: bool
    killed: bool
    snapshot: int
    newest_snapshot: int
    reason: str
    loss_spent: Number
    loss_per_day: Number | None
    learned: dict[str, Any]
    guard: dict[str, Any]
    monitors: dict[str, Any]


class PolicyList(ResponseModel):
    policies: list[PolicySummary]


class PolicyControl(ResponseModel):
    """What was decided about a policy. by: promote, rollback, freeze, unfreeze, kill or revive."""

    version: int
    time: int
    by: str
    mode: str | None
    frozen: bool
    killed: bool
    snapshot: int | None


class PolicyDetails(PolicySummary):
    """history: what was decided, newest first."""

    settings: dict[str, Any]
    history: list[PolicyControl]


class WhatIfEstimate(ResponseModel):
    """One estimator's answer: reward per list, its interval, and the same of what it is above the log's own."""

    estimator: str
    title: str
    value: Number | None
    low: Number | None
    high: Number | None
    interval: str
    limit: Number | None = None
    standard_error: Number | None
    covers_bias: bool
    difference: Number | None
    difference_low: Number | None
    difference_high: Number | None
    difference_interval: str
    difference_error: Number | None


class WhatIfSlot(ResponseModel):
    """How well the log supports what the configuration would show from the first slot to this one. mean_weight: 1 where
    it can show all of it; unlogged: the share of the configuration's lists that it cannot show, where known."""

    slot: int = Field(ge=1)
    mean_weight: Number
    mean_weight_error: Number
    effective_size: Number
    logged_reward: Number
    unlogged: Number | None = None
    is_supported: bool


class WhatIfRefusal(ResponseModel):
    reasons: list[str]
    remedies: list[str]


class WhatIf(ResponseModel):
    """What a configuration would have earned per list. refusal: why the log cannot answer, and what to log; there are
    no estimates then. used: lists by why they were made; left_out: lists that were not used, by the reason."""

    target: str
    placement: str
    lists: int = Field(ge=0)
    logged_value: Number | None
    verdict: str
    estimates: list[WhatIfEstimate]
    refusal: WhatIfRefusal | None
    slots: list[WhatIfSlot]
    support: dict[str, Number | None] | None
    confidence: Number | None
    warnings: list[str]
    used: dict[str, int]
    left_out: dict[str, int]
    first_time: int | None
    last_time: int | None


class ReplayResult(BaseModel):
    """reason: why it cannot be made again, or is not the same."""

    list_id: str
    same: bool
    items: list[ListedItem]
    reason: str | None = None


class ListTrace(BaseModel):
    """What a list was made of, what was shown of it, what was done with it."""

    class Item(ResponseModel):
        item: str
        score: Number
        propensity: Number
        sources: dict[str, int]

    list_id: str
    user: str | None
    time: int
    version: int
    placement: str
    method: str
    request: dict[str, Any]
    decision: dict[str, Any] | None = None
    items: list[Item]
    impressions: list[dict[str, Any]]
    events: list[dict[str, Any]]


class KeyInfo(ResponseModel):
    """id: named by the page tokens that it signs. Moments in microseconds UTC; expires null: never; used: the day."""

    name: str
    id: str
    scopes: list[str]
    created: int
    expires: int | None
    expired: bool
    used: int | None


class NewKey(KeyInfo):
    """key: shown this once."""

    key: str


class KeyList(ResponseModel):
    keys: list[KeyInfo]


class KeyRevokeResult(ResponseModel):
    name: str
    id: str


class PageToken(ResponseModel):
    """expires: seconds since 1970."""

    token: str
    user: str | None
    session: str | None
    expires: int


class Health(BaseModel):
    status: str


class Ready(BaseModel):
    """version: none where no version can answer. set_aside: the first 20 things that are not used."""

    status: str
    version: int | None = None
    events: int | None = None
    waiting: int | None = None
    shops: int | None = None
    set_aside: list[HealthIssueEntry] | None = None
