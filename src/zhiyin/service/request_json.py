"""The JSON of requests, read within limits that stop early.

What a body holds is looked at by its shape before any model looks at its values: a model that meets a hundred thousand
unknown fields writes a hundred thousand errors, of which one is told. Larger bodies are read by a thread, so that the
loop goes on answering.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar

import orjson

from zhiyin.service.errors import RefusedError

# A larger body is parsed by a thread, not by the event loop.
MAX_BYTES_ON_LOOP = 16 << 10
# Lists and objects, and colons, of one body. They are counted before anything is built: a thread that builds objects
# stops all others meanwhile.
MAX_CONTAINERS, MAX_COLONS = 50_000, 100_000
# Names of one object; values of a body; how deep they are nested.
MAX_NAMES_PER_OBJECT, MAX_VALUES, MAX_DEPTH = 256, 262_144, 16
T = TypeVar("T")


async def read_off_loop(read: Callable[..., T], body: bytes, *args: Any) -> T:
    """`read` of a body, in a thread where the body is not small."""
    if len(body) <= MAX_BYTES_ON_LOOP:
        return read(body, *args)
    return await asyncio.to_thread(read, body, *args)


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises RefusedError 422 for what is none, and for more than any request may hold."""
    try:
        value = loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(422, "the body is no JSON", 'such as {"user": "u1"}') from None
    if not isinstance(value, dict):
        raise RefusedError(422, "the body is no JSON object", 'such as {"user": "u1"}')
    _check(value)
    return value


def loads(body: bytes) -> Any:
    """JSON, whatever it is; NaN and halves of characters are for those who look at values, and can name the place.

    Raises ValueError or RecursionError for what is none, RefusedError 422 where it is of too many parts to be built.
    """
    if len(body) > MAX_BYTES_ON_LOOP and body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise RefusedError(
            422, "this is more than any request may hold", f"at most {MAX_CONTAINERS:,} lists and objects"
        )
    if len(body) > MAX_BYTES_ON_LOOP and body.count(b":") > MAX_COLONS:
        raise RefusedError(422, "this is more than any request may hold", f"at most {MAX_COLONS:,} names and colons")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def _check(value: Any) -> None:
    """Raises RefusedError 422 at the first list or object that is beyond the limits."""
    remaining, n_values = [(value, 1)], 0
    while remaining:
        part, depth = remaining.pop()
        if type(part) is dict:
            if len(part) > MAX_NAMES_PER_OBJECT:
                raise RefusedError(422, f"an object has {len(part):,} names", f"at most {MAX_NAMES_PER_OBJECT}")
            inner: Any = part.values()
        else:
            inner = part
        n_values += len(part)
        if n_values > MAX_VALUES or depth > MAX_DEPTH:
            raise RefusedError(422, "this is more than any request may hold",
                               f"at most {MAX_VALUES:,} values, {MAX_DEPTH} deep")  # fmt: skip
        remaining += [(one, depth + 1) for one in inner if type(one) is dict or type(one) is list]
