"""Cursors of pages: the `next` of a list, which holds the items listed so far and the route that it is for."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence

import orjson

from zhiyin.core.errors import ConfigError

# Items that the pages of one list show in all.
MAX_PAGED_ITEMS = 2_000
# Bytes of items that are not compressed.
MAX_STORED_BYTES = 512
# Bytes of a cursor once unpacked; characters of an item id and of a route in it.
MAX_CURSOR_BYTES, MAX_ITEM_CHARS, MAX_ROUTE_CHARS = 1 << 20, 256, 300


def list_route(origin: str, similar_to: str | None = None) -> str:
    """The route that gives lists of an origin, and takes their cursors."""
    if similar_to is None:
        return f"/v1/{origin}"
    return f"/v1/covisits?item={similar_to}" if origin == "covisits" else f"/v1/items/{similar_to}/similar"


def encode_cursor(items: Sequence[str], route: str) -> str:
    """A cursor of the items listed so far and of the route that it is for."""
    try:
        text = orjson.dumps([route, *items])
    except TypeError:  # half a character
        text = json.dumps([route, *items], ensure_ascii=False).encode("utf-8", "surrogatepass")
    packed = zlib.compress(text, 1) if len(text) > MAX_STORED_BYTES else _stored(text)
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _stored(text: bytes) -> bytes:
    """A stream of zlib that holds a text of less than 64 KiB as it is: to compress a short one takes longer than all
    else of its cursor."""
    size = len(text).to_bytes(2, "little")
    complement = (len(text) ^ 0xFFFF).to_bytes(2, "little")
    return b"\x78\x01\x01" + size + complement + text + zlib.adler32(text).to_bytes(4, "big")


def next_cursor(listed: Sequence[str], has_more: bool, route: str) -> str | None:
    """`next` of a page; None for the last page, and where the pages hold as many items as they may.

    Parameters
    ----------
    listed: items of the page and of those before it.
    has_more: whether there are more items.
    """
    return encode_cursor(listed, route) if has_more and len(listed) < MAX_PAGED_ITEMS else None


def decode_cursor(cursor: str, route: str) -> list[str]:
    """The items of a cursor. Raises ConfigError for what is no cursor, and for a cursor of another route."""
    try:
        packed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        decompressor = zlib.decompressobj()
        parts = json.loads(decompressor.decompress(packed, MAX_CURSOR_BYTES))
        if decompressor.unconsumed_tail or not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PAGED_ITEMS + 1:
            raise ValueError
        if not all(isinstance(part, str) and part for part in parts):
            raise ValueError
        own_route, *items = parts
        if not own_route.startswith("/v1/") or len(own_route) > MAX_ROUTE_CHARS:
            raise ValueError
        if any(len(item) > MAX_ITEM_CHARS for item in items):
            raise ValueError
    except (ValueError, zlib.error, RecursionError):
        raise ConfigError("this is no page", column="page", remedy="send what `next` said, unchanged") from None
    if own_route != route:
        raise ConfigError(
            f"this page belongs to {own_route}", column="page", remedy=f"ask {own_route} for it, not {route}"
        )
    return items
