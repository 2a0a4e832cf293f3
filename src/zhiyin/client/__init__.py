"""A client of the HTTP service for programs in Python: `Client`, `AsyncClient`, and `Events`, which waits for nothing.

Every call is built and read by a plain function (`recommend`, `put_item`, ...) that knows nothing of the network; the
two clients only send. Needs the extra `client`.

>>> from zhiyin.client import Client
>>> with Client("http://127.0.0.1:8000", "zy_read_...") as zy:  # doctest: +SKIP
...     zy.event("alice", "film-7", kind="view")
...     for row in zy.recommend(user="alice", k=5, explain=True):
...         print(row.item, row.sentence)
"""

from __future__ import annotations

from zhiyin.client.admin_calls import (
    delete_placement,
    health,
    placement,
    placement_versions,
    placements,
    put_placement,
    ready,
    rollback_placement,
)
from zhiyin.client.api_call import Call, Calls
from zhiyin.client.api_types import Columns, Diversity, Event, Fate, Item, Kept, Moment, Recommendations, Thing, Written
from zhiyin.client.catalog_calls import (
    BYTES,
    LINES,
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
from zhiyin.client.errors import AGAIN, ApiError
from zhiyin.client.event_calls import BATCH, event, events
from zhiyin.client.event_queue import Events, EventsFullError
from zhiyin.client.key_calls import PageKey, PageToken, add_key, keys, page_token, revoke_key
from zhiyin.client.list_calls import (
    history,
    impressions,
    list_,
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
from zhiyin.client.transport import LONGEST, pause

__all__ = [
    "AGAIN",
    "BATCH",
    "BYTES",
    "LINES",
    "LONGEST",
    "ApiError",
    "AsyncClient",
    "Call",
    "Calls",
    "Client",
    "Columns",
    "Diversity",
    "Event",
    "Events",
    "EventsFullError",
    "Fate",
    "Item",
    "Kept",
    "Moment",
    "PageKey",
    "PageToken",
    "Recommendations",
    "Thing",
    "Written",
    "add_key",
    "delete_item",
    "delete_placement",
    "delete_user",
    "event",
    "events",
    "get_item",
    "get_user",
    "health",
    "history",
    "impressions",
    "keys",
    "list_",
    "more",
    "page_token",
    "pages",
    "patch_item",
    "patch_user",
    "pause",
    "placement",
    "placement_versions",
    "placements",
    "popular",
    "put_item",
    "put_items",
    "put_placement",
    "put_user",
    "put_users",
    "rank",
    "ready",
    "recommend",
    "replay",
    "revoke_key",
    "rollback_placement",
    "search",
    "similar",
    "similar_users",
    "trending",
]
