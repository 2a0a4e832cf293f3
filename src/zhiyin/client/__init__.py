"""A client of the HTTP service for programs in Python: `Client`, `AsyncClient`, and `EventQueue`, which
sends events in the background.

Plain functions (`recommend`, `put_item`, ...) build requests and read responses, without a network; the clients send
them. Needs the extra `client`.

>>> from zhiyin.client import Client
>>> with Client("http://127.0.0.1:8000", "zy_read_...") as zy:  # doctest: +SKIP
...     zy.event("alice", "film-7", kind="view")
...     for row in zy.recommend(user="alice", k=5, explain=True):
...         print(row.item, row.sentence)
"""

from __future__ import annotations

from zhiyin.client.admin_calls import (
    delete_placement,
    get_placement,
    get_schema,
    health,
    list_placements,
    placement_versions,
    put_placement,
    put_schema,
    ready,
    rollback_placement,
    whatif,
)
from zhiyin.client.api_call import Call, CallSequence, call
from zhiyin.client.api_types import (
    ActivationResult,
    CatalogEntry,
    Columns,
    DecidedSlot,
    Decision,
    Diversity,
    Event,
    EventResult,
    EventsResult,
    Item,
    Page,
    Recommendations,
    RewardResult,
    Timestamp,
    WriteResult,
)
from zhiyin.client.catalog_calls import (
    MAX_BYTES_PER_REQUEST,
    MAX_ROWS_PER_REQUEST,
    delete_item,
    delete_user,
    get_item,
    get_user,
    patch_item,
    patch_user,
    put_item,
    put_items,
    put_user,
    put_users,
    search,
)
from zhiyin.client.clients import AsyncClient, Client
from zhiyin.client.decision_calls import activate, decide, reward
from zhiyin.client.errors import RETRYABLE_STATUS_CODES, ApiError
from zhiyin.client.event_calls import MAX_EVENTS_PER_REQUEST, event, events
from zhiyin.client.event_queue import EventQueue, EventQueueFullError
from zhiyin.client.experiment_calls import (
    delete_experiment,
    experiment_results,
    experiment_versions,
    get_experiment,
    list_experiments,
    put_experiment,
    stop_experiment,
)
from zhiyin.client.key_calls import PageKey, PageToken, add_key, list_keys, page_token, revoke_key
from zhiyin.client.list_calls import (
    get_list,
    history,
    impressions,
    more,
    pages,
    popular,
    rank,
    recommend,
    replay,
    similar,
    similar_users,
    trending,
)
from zhiyin.client.policy_calls import (
    freeze_policy,
    get_policy,
    kill_policy,
    list_policies,
    promote_policy,
    revive_policy,
    rollback_policy,
    unfreeze_policy,
)
from zhiyin.client.transport import MAX_RETRY_DELAY_SECONDS, retry_delay

__all__ = [
    "MAX_BYTES_PER_REQUEST",
    "MAX_EVENTS_PER_REQUEST",
    "MAX_RETRY_DELAY_SECONDS",
    "MAX_ROWS_PER_REQUEST",
    "RETRYABLE_STATUS_CODES",
    "ActivationResult",
    "ApiError",
    "AsyncClient",
    "Call",
    "CallSequence",
    "CatalogEntry",
    "Client",
    "Columns",
    "DecidedSlot",
    "Decision",
    "Diversity",
    "Event",
    "EventQueue",
    "EventQueueFullError",
    "EventResult",
    "EventsResult",
    "Item",
    "Page",
    "PageKey",
    "PageToken",
    "Recommendations",
    "RewardResult",
    "Timestamp",
    "WriteResult",
    "activate",
    "add_key",
    "call",
    "decide",
    "delete_experiment",
    "delete_item",
    "delete_placement",
    "delete_user",
    "event",
    "events",
    "experiment_results",
    "experiment_versions",
    "freeze_policy",
    "get_experiment",
    "get_item",
    "get_list",
    "get_placement",
    "get_policy",
    "get_schema",
    "get_user",
    "health",
    "history",
    "impressions",
    "kill_policy",
    "list_experiments",
    "list_keys",
    "list_placements",
    "list_policies",
    "more",
    "page_token",
    "pages",
    "patch_item",
    "patch_user",
    "placement_versions",
    "popular",
    "promote_policy",
    "put_experiment",
    "put_item",
    "put_items",
    "put_placement",
    "put_schema",
    "put_user",
    "put_users",
    "rank",
    "ready",
    "recommend",
    "replay",
    "retry_delay",
    "revive_policy",
    "revoke_key",
    "reward",
    "rollback_placement",
    "rollback_policy",
    "search",
    "similar",
    "similar_users",
    "stop_experiment",
    "trending",
    "unfreeze_policy",
    "whatif",
]
