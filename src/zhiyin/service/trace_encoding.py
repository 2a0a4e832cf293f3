"""What a trace keeps of a request: enough to make its list again, and never more than a bounded number of bytes.

Ids of long lists are kept as codes of the items that are known, which is all that a list hangs on; of ids that nobody
knows only their number and a digest remain. A request whose texts are too long is kept as a digest alone, and one that
comes while its key has had more than its share kept is kept without what it was made of: neither can be made again, and
says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from zhiyin.api.requests import Ask
from zhiyin.service.request_limits import Rate
from zhiyin.service.version_view import View

# Ids that are kept as they are; bytes of the rest of a request.
LONG, TEXTS = 64, 16 << 10
# Bytes a second of traces, of one key and of all, in each process.
OF_KEY, OF_ALL = 1 << 20, 4 << 20
_LISTS = ("exclude", "include", "history")
_NOT_KEPT = {"user", "session", "page", "language", "fields", *_LISTS}
TOO_LONG = "the request was too long to be kept"
TOO_MANY = "more lists were asked for than traces are kept of in full"


def encode_request(ask: Ask, out: Sequence[str], view: View) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the head and the arrays of a trace say of a request; `out`: items shown before it."""
    said = ask.model_dump(exclude_defaults=True, exclude=_NOT_KEPT)
    head: dict[str, Any] = {"request": said}
    arrays: dict[str, np.ndarray] = {}
    for name in (*_LISTS, "out"):
        ids = list(out) if name == "out" else getattr(ask, name)
        if not ids and (ids is None or name in ("out", "exclude")):  # as where nothing is said; include = [] is not
            continue
        if len(ids) <= LONG:
            (head if name == "out" else said)[name] = ids
            continue
        codes = view.encode(ids)
        arrays[f"asked_{name}"] = codes[codes >= 0].astype(np.int32)
        head.setdefault("asked", {})[name] = {"count": len(ids), "sha256": _digest("\n".join(ids).encode())}
    if ask.context or ask.boosts or ask.pins or len(ask.filter) > TEXTS // 8:
        text = _json(said)
        if len(text) > TEXTS:
            head |= {"request": {"bytes": len(text), "sha256": _digest(text)}, "not_kept": TOO_LONG}
    return head, arrays


def request_of(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray], view: View) -> tuple[Ask, list[str]]:
    """The request of a trace, and the items shown before it."""
    given, out = dict(head["request"]), list(head.get("out", ()))
    for name in head.get("asked", ()):
        ids = [str(item) for item in view.ids.raw(arrays[f"asked_{name}"])]
        if name == "out":
            out = ids
        else:
            given[name] = ids
    return Ask.model_validate(given), out


def trace_size(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes that a trace takes, as well as can be said before it is packed."""
    texts = sum(map(len, head["items"])) + 8 * len(head["items"]) + 300 * len(head.get("user_columns", ()))
    return 1_024 + texts + sum(part.nbytes for part in arrays.values())


class TraceQuota:
    """How many bytes of traces a key may have kept in full. Any number of threads may ask."""

    def __init__(self, of_key: float = OF_KEY, of_all: float = OF_ALL) -> None:
        self._of_key, self._of_all = Rate(of_key), Rate(of_all)

    def allow(self, key: str, size: int) -> bool:
        return self._of_key.spend(key, size) == 0 and self._of_all.spend("", size) == 0


def strip_trace(
    head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is kept of a trace beyond its share: what was shown, and to whom."""
    names = ("origin", "place_version", "seq", "house", "now", "items", "method", "sources", "anonymous")
    head = {name: head[name] for name in names} | {"request": {}, "not_kept": TOO_MANY}
    return head, {"scores": arrays["scores"], "ranks": np.zeros((0, 0), np.int16)}


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # a number beyond 64 bits
        return json.dumps(value, default=str).encode()


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:32]
