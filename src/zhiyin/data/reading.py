"""`read`: from files, frames or a query to a Dataset. Every decision is noted and every bad row is set aside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl  # noqa: F401  the example of `read` uses it

from zhiyin.core.run import Run
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.dataset import Dataset
from zhiyin.data.pictures import find_pictures, split_image_column
from zhiyin.data.read_execution import execute
from zhiyin.data.read_plan import plan_read
from zhiyin.data.sql_query import QueryLimit
from zhiyin.data.store_snapshot import StoreSnapshot
from zhiyin.data.text_values import TextValues
from zhiyin.data.time_policy import wall_clock


def read(
    source: Any,
    *,
    items: Any = None,
    users: Any = None,
    links: Any = None,
    images: Any = None,
    columns: Mapping[str, Any] | None = None,
    weights: Mapping[str, float] | None = None,
    query: str | None = None,
    query_limit: QueryLimit | None = None,
    strict: bool = False,
    snapshot: StoreSnapshot | None = None,
    now: int | None = None,
    assume: Mapping[str, Any] | None = None,
    types: CatalogueSchema | None = None,
    reviews: TextValues | None = None,
    run: Run | None = None,
) -> Dataset:
    """Read an event log, and the descriptions of items and users.

    Parameters
    ----------
    source: a file (CSV, TSV, "::"-separated, Parquet, Arrow, JSON; plain, gzip, zstd, bzip2, xz or zip: detected by its
        content, not its name), a folder or list of them, a Polars or pandas frame, a database address with `query`
        ("postgresql://...", "sqlite:///shop.db"), or a mapping from event kind to any of these:
        {"view": "views.tsv", "buy": "buys.tsv"}.
    items, users: the same, for the catalogue and the users. In a folder they are detected, as are links.
    links: the same, for who follows or befriends whom: two columns of user ids, and optionally a weight above 0. A link
        has a direction; users that only links name become users without events.
    images: the folder of the pictures of items, named by item id or by a column of paths.
    columns: roles that need no guessing: {"user": "who", "item": "what", "time": "at", "rating": "stars",
        "kind": "action", "item_columns": [...], "user_columns": [...]}; `item_id` and `user_id` name the key
        columns of the items and users tables, `image` the items' column of paths of pictures, `link_user`, `link_other`
        and `link_weight` the columns of the links.
    weights: of events: {"view": 1, "purchase": 5, "rating >= 4": 1, "dislike": -1}; the first
        rule that matches decides, an event that matches none is kept with weight 0. Without rules every event
        has weight 1, known kinds their usual weight, and a negative rating or quantity -1. An event that names no kind
        is of the kind "event".
    query_limit: seconds and rows that the query may take; left out, ten minutes and 100 million rows.
    strict: raise DataError at the first bad row instead of setting bad rows aside in `Dataset.quarantine`.
    snapshot: what the service's store holds, joined with the files before events are weighed; then `source` may be
        None.
    now: what the clock says, microseconds UTC; left out, this machine's. Rows whose time is more than a day ahead of
        it are set aside; a time less far ahead is taken as this moment.
    reviews: makes values of events of the texts in one of the log's columns, where they have none; see
        `zhiyin.features.review_values.ReviewReader`.
    types: declared types of columns of items and users; what does not fit one is null there.
    assume: what the content of a source leaves open: {"day_first": True, "decimal": ",", "encoding": "gb18030",
        "separator": ";", "header": 3, "missing": ["-"], "text": ["zip"]}; see `Dialect`. What reading assumed
        is in `Dataset.assumed`.

    >>> read(pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"]})).n_events
    2
    """
    columns, image = split_image_column(columns)
    plan = plan_read(
        source,
        items=items,
        users=users,
        links=links,
        columns=columns,
        query=query,
        query_limit=query_limit,
        assume=assume,
        types=types,
        has_store=snapshot is not None,
        text=None if reviews is None else reviews.column,
    )
    data = execute(
        plan,
        weights=weights,
        strict=strict,
        snapshot=snapshot,
        now=wall_clock() if now is None else now,
        types=types,
        reviews=reviews,
        run=run or Run(),
    )
    data.images = find_pictures(images, image, data.items)
    return data
