"""Copying of streams within a limit of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

from zhiyin.core.errors import DataError

BLOCK_BYTES = 1 << 20


def copy_stream(
    source: Any,
    out: BinaryIO,
    have: int,
    limit: int,
    url: str,
    advance: Callable[[int], None] = lambda n: None,
) -> int:
    """Copy until the end or the limit; returns the bytes there are now. A broken connection is an end."""
    while True:
        try:
            block = source.read(BLOCK_BYTES)
        except (TimeoutError, ConnectionError):
            return have
        if not block:
            return have
        have += len(block)
        if have > limit:
            raise too_large(url, limit)
        out.write(block)
        advance(len(block))


def too_large(url: object, limit: int) -> DataError:
    return DataError(
        f"the file is larger than the {limit:,} bytes expected of it",
        file=url,
        remedy="look at the publisher's page: this is not the file it was",
    )
