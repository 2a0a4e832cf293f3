"""The endpoints of the service, each once.

To add one: an entry here, its types in `requests` and `responses`, and a handler in `zhiyin.service` under
`@handles(endpoints.NAME)`. It is then routed, decoded, described in /openapi.json, refused without a key of its scope,
and called from Python by `client.call(endpoints.NAME, ...)`.
"""

from __future__ import annotations

import functools

from zhiyin.api import ad_requests, decision_requests, experiment_settings, rating_requests, requests, responses
from zhiyin.api.endpoint import Endpoint, JsonObject, RawBody

# -- events -----------------------------------------------------------------------------------------------------------

EVENTS = Endpoint(
    "events", "POST", "/v1/events", scope="events", visitors=True, tags=("events",),
    body=RawBody(requests.event_batch_schemas), response=responses.EventResults, row_results=True,
    description="Keep events. Each is accepted, known already, or rejected with its reason; answered once they are on "
    "the\ndisk, and they count in the very next list, whatever their time. A time more than a day ahead of the clock, "
    "or\nbefore 1971, is rejected; one less far ahead is taken as now.",
)  # fmt: skip
IMPRESSIONS = Endpoint(
    "impressions", "POST", "/v1/impressions/{list_id}", scope="events", visitors=True, tags=("events",),
    body=requests.ImpressionBody, response=responses.ImpressionResult,
    description="What was really shown of a list, in order: so that what is learned from it is true.",
)  # fmt: skip

# -- lists ------------------------------------------------------------------------------------------------------------

RECOMMEND = Endpoint(
    "recommend", "POST", "/v1/recommendations", scope="read", visitors=True, tags=("lists",),
    body=requests.RecommendRequest, response=responses.ItemList,
    description="The best items for a user, a session, a visitor with a history, or a stranger.",
)  # fmt: skip
RECOMMEND_BY_QUERY = Endpoint(
    "recommend_by_query", "GET", "/v1/recommendations", scope="read", visitors=True, tags=("lists",),
    query=requests.RecommendQuery, response=responses.ItemList,
    description="The same in one line.",
)  # fmt: skip
RANK = Endpoint(
    "rank", "POST", "/v1/rank", scope="read", visitors=True, tags=("lists",),
    body=requests.RankRequest, response=responses.ItemList,
    description="The given items in the best order for this user; those nobody knows or may see come last, as given.",
)  # fmt: skip
PREDICT = Endpoint(
    "predict", "POST", "/v1/predict", scope="read", visitors=True, tags=("ratings",),
    body=rating_requests.PredictRequest, response=rating_requests.PredictedRatings,
    description="The rating that a user would give to each of some items, with the range that ratings have. Needs a "
    "version\nof `zhiyin train --goal rating`, or another one with a model of ratings; 409 where it predicts none.",
)  # fmt: skip
PAGES = Endpoint(
    "pages", "POST", "/v1/pages", scope="read", visitors=True, tags=("lists",),
    body=requests.PageRequest, response=responses.PageLists,
    description="Several lists for one page; no item is in two of them.",
)  # fmt: skip
POPULAR = Endpoint(
    "popular", "GET", "/v1/popular", scope="read", visitors=True, tags=("lists",),
    query=requests.ListQuery, response=responses.ItemList,
    description="What most users had.",
)  # fmt: skip
TRENDING = Endpoint(
    "trending", "GET", "/v1/trending", scope="read", visitors=True, tags=("lists",),
    query=requests.ListQuery, response=responses.ItemList,
    description="What users choose right now: the weight of each event of the store's log, halved for every day that "
    "passed.\n\nEvents that count against an item, such as dislikes, are left out.",
)  # fmt: skip
COVISITS = Endpoint(
    "covisits", "GET", "/v1/covisits", scope="read", visitors=True, tags=("lists",),
    query=requests.CovisitsQuery, response=responses.ItemList,
    description="What other users visit on the same day (UTC) as an item; without `item`, as the last 10 items of the "
    "user or session,\nwhere each item has one vote, 0.8 of the next newer one's. A pair of items counts once a user "
    "and day, half after\n7 days; events that count against an item are left out. A page token is given those of its "
    "own user.",
)  # fmt: skip
SIMILAR = Endpoint(
    "similar", "GET", "/v1/items/{key}/similar", scope="read", visitors=True, tags=("lists", "items"),
    query=requests.ListQuery, response=responses.SimilarItems,
    description="What goes with an item.",
)  # fmt: skip
SIMILAR_USERS = Endpoint(
    "similar_users", "GET", "/v1/users/{key}/similar", scope="read", tags=("lists", "users"),
    query=requests.PagedQuery, response=responses.SimilarUsers,
    description="Users of the training data who did alike.",
)  # fmt: skip
HISTORY = Endpoint(
    "history", "GET", "/v1/users/{key}/history", scope="read", visitors=True, tags=("lists", "users"),
    query=requests.HistoryQuery, response=responses.History,
    description="Events of a user that the store has heard, oldest first; a page token is told those of its own user.",
)  # fmt: skip
GET_LIST = Endpoint(
    "get_list", "GET", "/v1/lists/{list_id}", scope="admin", tags=("lists", "traces"),
    response=responses.ListTrace,
    description="What a list was made of, what was really shown of it, and what was done with it.",
)  # fmt: skip
REPLAY = Endpoint(
    "replay", "POST", "/v1/lists/{list_id}/replay", scope="admin", tags=("lists", "traces"),
    query=requests.ReplayQuery, response=responses.ReplayResult,
    description="Make a list again, by the version and the items of then, and say whether it is the same. `explain`: "
    "with the\nreason of each item, and what was removed by which rule.",
)  # fmt: skip

# -- decisions among actions of the caller ----------------------------------------------------------------------------

DECIDE = Endpoint(
    "decide", "POST", "/v1/decisions", scope="read", visitors=True, tags=("decisions",),
    body=decision_requests.DecisionRequest, response=responses.Decision,
    description="Choose one of the given actions, or one for each slot, by a policy that learns from rewards. The same "
    "event_id is\nanswered with the same decision; with another body it is refused: 409.",
)  # fmt: skip
REWARD = Endpoint(
    "reward", "POST", "/v1/decisions/{event_id}/reward", scope="events", visitors=True, tags=("decisions",),
    body=decision_requests.RewardRequest, response=responses.RewardResult,
    description="What a decision was worth, or a list that a policy decided; answered once it is on the disk. One that "
    "comes after\nthe window of the policy is kept, and not learned from.",
)  # fmt: skip
ACTIVATE = Endpoint(
    "activate", "POST", "/v1/decisions/{event_id}/activate", scope="events", visitors=True, tags=("decisions",),
    response=responses.ActivationResult,
    description="A deferred decision was really shown: it is learned from. One that is not activated within its window "
    "is dropped.",
)  # fmt: skip

# -- ads --------------------------------------------------------------------------------------------------------------

ADS = Endpoint(
    "ads", "POST", "/v1/ads", scope="read", visitors=True, tags=("ads",),
    body=ad_requests.AdsRequest, response=ad_requests.AdsAnswer,
    description="Ads for a user, a session or a stranger: by probability × bid, of campaigns that have budget left. A "
    "click is an\nevent of kind click with the list_id. It needs a version whose scores are probabilities.",
)  # fmt: skip
LIST_CAMPAIGNS = Endpoint(
    "list_campaigns", "GET", "/v1/campaigns", scope="admin", tags=("ads",),
    response=ad_requests.CampaignList,
    description="All campaigns with their settings and states.",
)  # fmt: skip
GET_CAMPAIGN = Endpoint(
    "get_campaign", "GET", "/v1/campaigns/{key}", scope="admin", tags=("ads",),
    response=ad_requests.CampaignReport,
    description="One of them: displays, clicks, spend and pace, up to this moment.",
)  # fmt: skip
PUT_CAMPAIGN = Endpoint(
    "put_campaign", "PUT", "/v1/campaigns/{key}", scope="admin", tags=("ads",),
    body=ad_requests.CampaignSettings, response=ad_requests.CampaignWriteResult,
    description="Begin or change a campaign: its next auction is by the new settings. What it has spent stays counted.",
)  # fmt: skip
DELETE_CAMPAIGN = Endpoint(
    "delete_campaign", "DELETE", "/v1/campaigns/{key}", scope="admin", tags=("ads",),
    response=ad_requests.CampaignDeleteResult,
    description="Remove a campaign: later clicks on its ads cost nothing. To stop it for a while, set paused.",
)  # fmt: skip

# -- items and users --------------------------------------------------------------------------------------------------

_ITEM_COLUMNS, _USER_COLUMNS = (
    JsonObject(requests.columns_schema("items")),
    JsonObject(requests.columns_schema("users")),
)
_PUT = "Write all columns. An item with `hidden: true` is not shown."
_PATCH = "Change the columns named. The others stay as they are; those of the catalogue's file go on following it."
_GET = "Columns and version; version 0: as the catalogue of the version in use has it."
_DELETE = "Items: no longer shown. Users: all of them is removed, with the proof."
_PUT_MANY = "Many at once, a line each; each is kept or rejected with its reason."

PUT_ITEM = Endpoint(
    "put_item", "PUT", "/v1/items/{key}", scope="admin", tags=("items",),
    body=_ITEM_COLUMNS, response=responses.WriteResult, description=_PUT,
)  # fmt: skip
PATCH_ITEM = Endpoint(
    "patch_item", "PATCH", "/v1/items/{key}", scope="admin", tags=("items",),
    body=_ITEM_COLUMNS, response=responses.WriteResult, description=_PATCH,
)  # fmt: skip
GET_ITEM = Endpoint(
    "get_item", "GET", "/v1/items/{key}", scope="read", visitors=True, tags=("items",),
    response=responses.CatalogEntry, description=_GET,
)  # fmt: skip
DELETE_ITEM = Endpoint(
    "delete_item", "DELETE", "/v1/items/{key}", scope="admin", tags=("items",),
    response=responses.WriteResult, description=_DELETE,
)  # fmt: skip
PUT_ITEMS = Endpoint(
    "put_items", "POST", "/v1/items", scope="admin", tags=("items",),
    body=RawBody(functools.partial(requests.lines_schemas, "items")), response=responses.ImportResult,
    row_results=True, description=_PUT_MANY,
)  # fmt: skip
SEARCH = Endpoint(
    "search", "GET", "/v1/items", scope="read", visitors=True, tags=("items",),
    query=requests.SearchQuery, response=responses.SearchResults,
    description="Items whose title or id holds all words; without words the most popular ones.",
)  # fmt: skip
PUT_USER = Endpoint(
    "put_user", "PUT", "/v1/users/{key}", scope="admin", tags=("users",),
    body=_USER_COLUMNS, response=responses.WriteResult, description=_PUT,
)  # fmt: skip
PATCH_USER = Endpoint(
    "patch_user", "PATCH", "/v1/users/{key}", scope="admin", tags=("users",),
    body=_USER_COLUMNS, response=responses.WriteResult, description=_PATCH,
)  # fmt: skip
GET_USER = Endpoint(
    "get_user", "GET", "/v1/users/{key}", scope="read", tags=("users",),
    response=responses.CatalogEntry, description=_GET,
)  # fmt: skip
DELETE_USER = Endpoint(
    "delete_user", "DELETE", "/v1/users/{key}", scope="admin", tags=("users",),
    response=responses.ForgetResult, description=_DELETE,
)  # fmt: skip
PUT_USERS = Endpoint(
    "put_users", "POST", "/v1/users", scope="admin", tags=("users",),
    body=RawBody(functools.partial(requests.lines_schemas, "users")), response=responses.ImportResult,
    row_results=True, description=_PUT_MANY,
)  # fmt: skip

# -- links between users ----------------------------------------------------------------------------------------------

GET_LINKS = Endpoint(
    "get_links", "GET", "/v1/users/{key}/links", scope="read", tags=("links",),
    query=requests.LinksQuery, response=responses.UserLinkList,
    description="Whom a user is linked to, or who is linked to them, the strongest first.",
)  # fmt: skip
PUT_LINK = Endpoint(
    "put_link", "PUT", "/v1/users/{key}/links/{other}", scope="events", tags=("links",),
    body=requests.LinkBody, response=responses.LinkResult,
    description="Link a user to another one: they follow, or befriend them. A link has one direction; a friendship is "
    "two. It\ncounts in the very next answer, and in the next training.",
)  # fmt: skip
DELETE_LINK = Endpoint(
    "delete_link", "DELETE", "/v1/users/{key}/links/{other}", scope="events", tags=("links",),
    response=responses.LinkResult,
    description="Remove a link, also one that the training data has.",
)  # fmt: skip
PUT_LINKS = Endpoint(
    "put_links", "POST", "/v1/links", scope="events", tags=("links",),
    body=RawBody(requests.link_lines_schemas), response=responses.ImportResult, row_results=True,
    description="Many links, a line each; weight null removes one. Of a pair the last line counts.",
)  # fmt: skip
SUGGESTED_USERS = Endpoint(
    "suggested_users", "GET", "/v1/users/{key}/suggested", scope="read", tags=("links", "lists"),
    query=requests.SuggestedQuery, response=responses.SuggestedUsers,
    description="People a user may know: those whom the user's friends are linked to, each friend worth the less, the "
    "more links\nthey have.",
)  # fmt: skip

# -- placements -------------------------------------------------------------------------------------------------------

LIST_PLACEMENTS = Endpoint(
    "list_placements", "GET", "/v1/placements", scope="admin", tags=("placements",),
    response=responses.PlacementList,
    description="All placements with their versions and settings.",
)  # fmt: skip
GET_PLACEMENT = Endpoint(
    "get_placement", "GET", "/v1/placements/{name}", scope="admin", tags=("placements",),
    response=responses.Placement,
    description="One of them.",
)  # fmt: skip
PUT_PLACEMENT = Endpoint(
    "put_placement", "PUT", "/v1/placements/{name}", scope="admin", tags=("placements",),
    body=requests.PlacementSettings, response=responses.PlacementWriteResult,
    description="Change settings for all lists from now on. They are checked first: what cannot be changes nothing.",
)  # fmt: skip
DELETE_PLACEMENT = Endpoint(
    "delete_placement", "DELETE", "/v1/placements/{name}", scope="admin", tags=("placements",),
    response=responses.PlacementDeleteResult,
    description="Lists may no longer name it. Its versions are kept. 409 while a running experiment uses it.",
)  # fmt: skip
PLACEMENT_VERSIONS = Endpoint(
    "placement_versions", "GET", "/v1/placements/{name}/versions", scope="admin", tags=("placements",),
    response=responses.PlacementVersions,
    description="All versions, newest first.",
)  # fmt: skip
ROLLBACK_PLACEMENT = Endpoint(
    "rollback_placement", "POST", "/v1/placements/{name}/rollback", scope="admin", tags=("placements",),
    body=requests.RollbackRequest, response=responses.PlacementWriteResult,
    description="Write the settings of an old version as a new one.",
)  # fmt: skip
WHATIF = Endpoint(
    "whatif", "POST", "/v1/whatif", scope="admin", tags=("placements", "policies"),
    body=requests.WhatIfRequest, response=responses.WhatIf,
    description="What another configuration would have earned: the lists that a placement's policy decided, made again "
    "by\nother settings, rules or models. With intervals, or refused, with what to log. One is answered at a time.",
)  # fmt: skip

# -- experiments ------------------------------------------------------------------------------------------------------

LIST_EXPERIMENTS = Endpoint(
    "list_experiments", "GET", "/v1/experiments", scope="admin", tags=("experiments",),
    response=responses.ExperimentList,
    description="All experiments with their settings and what became of their arms.",
)  # fmt: skip
GET_EXPERIMENT = Endpoint(
    "get_experiment", "GET", "/v1/experiments/{name}", scope="admin", tags=("experiments",),
    response=responses.Experiment,
    description="One of them.",
)  # fmt: skip
PUT_EXPERIMENT = Endpoint(
    "put_experiment", "PUT", "/v1/experiments/{name}", scope="admin", tags=("experiments",),
    body=experiment_settings.ExperimentSettings, response=responses.ExperimentWriteResult,
    description="Begin or change an experiment, from the next list on. Other arms, units, shares or placements begin it"
    "\nanew; other metrics and guardrails go on counting.",
)  # fmt: skip
DELETE_EXPERIMENT = Endpoint(
    "delete_experiment", "DELETE", "/v1/experiments/{name}", scope="admin", tags=("experiments",),
    response=responses.ExperimentDeleteResult,
    description="Lists are made as without it. Its versions are kept.",
)  # fmt: skip
EXPERIMENT_VERSIONS = Endpoint(
    "experiment_versions", "GET", "/v1/experiments/{name}/versions", scope="admin", tags=("experiments",),
    response=responses.ExperimentVersions,
    description="All versions, newest first, with who wrote each and why.",
)  # fmt: skip
EXPERIMENT_RESULTS = Endpoint(
    "experiment_results", "GET", "/v1/experiments/{name}/results", scope="admin", tags=("experiments",),
    response=responses.ExperimentResults,
    description="Units of each arm and whether their numbers fit the weights; the difference of each metric to the "
    "control,\nwith an interval that holds at a planned end (fixed) and one that holds at any time (anytime); of an "
    "interleaving,\nwhich placement is preferred. Lists count once their window is closed.",
)  # fmt: skip
STOP_EXPERIMENT = Endpoint(
    "stop_experiment", "POST", "/v1/experiments/{name}/stop", scope="admin", tags=("experiments",),
    body=experiment_settings.StopRequest, response=responses.ExperimentWriteResult,
    description="Stop an arm, whose units get the control's lists from the next request on, or the whole experiment.",
)  # fmt: skip

# -- policies ---------------------------------------------------------------------------------------------------------

LIST_POLICIES = Endpoint(
    "list_policies", "GET", "/v1/policies", scope="admin", tags=("policies",),
    response=responses.PolicyList,
    description="The policies of all placements, as they decide now.",
)  # fmt: skip
GET_POLICY = Endpoint(
    "get_policy", "GET", "/v1/policies/{name}", scope="admin", tags=("policies",),
    response=responses.PolicyDetails,
    description="One of them, by the name of its placement, with its settings and what was decided about it.",
)  # fmt: skip
PROMOTE_POLICY = Endpoint(
    "promote_policy", "POST", "/v1/policies/{name}/promote", scope="admin", tags=("policies",),
    body=requests.PromoteRequest, response=responses.PolicyDetails,
    description="Let the policy decide more: from shadow to apprentice, guarded and online. Refused (409) where the log"
    "\ndoes not show that it earns more than the baseline, but with `force`. As all controls it acts on the next "
    "request.",
)  # fmt: skip
ROLLBACK_POLICY = Endpoint(
    "rollback_policy", "POST", "/v1/policies/{name}/rollback", scope="admin", tags=("policies",),
    body=requests.PolicyRollbackRequest, response=responses.PolicyDetails,
    description="Take back the last promotion or choice of a snapshot; or have an older snapshot decide until it is "
    "unfrozen. Whether the policy is frozen or killed stays as it is.",
)  # fmt: skip
FREEZE_POLICY = Endpoint(
    "freeze_policy", "POST", "/v1/policies/{name}/freeze", scope="admin", tags=("policies",),
    response=responses.PolicyDetails,
    description="Learn nothing from now on; the present snapshot goes on deciding.",
)  # fmt: skip
UNFREEZE_POLICY = Endpoint(
    "unfreeze_policy", "POST", "/v1/policies/{name}/unfreeze", scope="admin", tags=("policies",),
    response=responses.PolicyDetails,
    description="Learn again, also of the decisions that were made meanwhile.",
)  # fmt: skip
KILL_POLICY = Endpoint(
    "kill_policy", "POST", "/v1/policies/{name}/kill", scope="admin", tags=("policies",),
    response=responses.PolicyDetails,
    description="Have the baseline make every list from the next request on.",
)  # fmt: skip
REVIVE_POLICY = Endpoint(
    "revive_policy", "POST", "/v1/policies/{name}/revive", scope="admin", tags=("policies",),
    response=responses.PolicyDetails,
    description="Let a killed policy decide again.",
)  # fmt: skip

# -- types of columns -------------------------------------------------------------------------------------------------

GET_SCHEMA = Endpoint(
    "get_schema", "GET", "/v1/schema", scope="admin", tags=("schema",),
    response=responses.ColumnSchema,
    description="The type of each column, and where it comes from: the catalogue, the first write, the settings, or a"
    "\ndeclaration.",
)  # fmt: skip
PUT_SCHEMA = Endpoint(
    "put_schema", "PUT", "/v1/schema", scope="admin", tags=("schema",),
    body=requests.SchemaRequest, response=responses.ColumnSchema,
    description="Declare types of columns; others stay as they are. Values that do not fit are null from then on, and "
    "told in\nset_aside. Refused where a rule of the house could not be used any more.",
)  # fmt: skip

# -- keys and page tokens ---------------------------------------------------------------------------------------------

LIST_KEYS = Endpoint(
    "list_keys", "GET", "/v1/keys", scope="admin", tags=("keys",),
    response=responses.KeyList,
    description="All keys: what is kept of them, never the keys themselves.",
)  # fmt: skip
ADD_KEY = Endpoint(
    "add_key", "POST", "/v1/keys", scope="admin", tags=("keys",),
    body=requests.KeyRequest, response=responses.NewKey,
    description="Make a key. It is shown in this answer and never again. Of several processes that answer, the others "
    "have\nlooked by then.",
)  # fmt: skip
REVOKE_KEY = Endpoint(
    "revoke_key", "DELETE", "/v1/keys/{name}", scope="admin", tags=("keys",),
    response=responses.KeyRevokeResult,
    description="Revoke a key, and the page tokens that it signed: at once here; where several processes answer, the "
    "answer\nwaits until they have looked. The last admin key stays.",
)  # fmt: skip
PAGE_TOKEN = Endpoint(
    "page_token", "POST", "/v1/tokens", scope="page", tags=("keys", "tokens"),
    body=requests.TokenRequest, response=responses.PageToken,
    description="Sign a page token for a user, a session, or both; without any, for a new session. It lets a page "
    "bring events\nand read lists of these alone, until it expires (by default in an hour, at most in 7 days) or its "
    "key is\nrevoked. An admin key has it signed by the newest page key.",
)  # fmt: skip

# -- state of the service ---------------------------------------------------------------------------------------------

HEALTH = Endpoint(
    "health", "GET", "/health", scope=None, tags=("state",), refusals=(422,),
    response=responses.Health,
    description="Whether the process lives.",
)  # fmt: skip
READY = Endpoint(
    "ready", "GET", "/ready", scope=None, tags=("state",), refusals=(503, 422),
    response=responses.Ready,
    description="Whether it can answer: a version, and a store that can be read. set_aside: what is not used, and how "
    "it is\nmended. Without a version events are kept and lists are refused: 503.",
)  # fmt: skip
METRICS = Endpoint(
    "metrics", "GET", "/metrics", scope="admin", tags=("state",), response=None,
    description="Figures for Prometheus; of several shops, those of the key's own.",
)  # fmt: skip
# In place of METRICS where every shop shows its figures to all.
OPEN_METRICS = Endpoint(
    "metrics", "GET", "/metrics", scope=None, tags=("state",), refusals=(422,), response=None,
    description="Figures for Prometheus.",
)  # fmt: skip

# Every endpoint by its name.
ENDPOINTS = {
    endpoint.name: endpoint
    for name, endpoint in list(globals().items())
    if isinstance(endpoint, Endpoint) and name != "OPEN_METRICS"
}
