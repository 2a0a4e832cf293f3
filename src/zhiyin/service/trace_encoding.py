"""What a trace holds of a request: enough to make its list again, in a bounded number of bytes.

Ids of long lists are stored as codes of the known items, which is all that a list depends on; of unknown ids only their
number and a digest are stored. A request whose texts are too long is stored as a digest alone. A request whose key has
used up its quota is stored without what the list was made of. Neither can be replayed, and the trace says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from zhiyin.api.requests import RecommendRequest
from zhiyin.pipeline.decision_record import HEAD, without_large_arrays
from zhiyin.service.request_limits import Rate
from zhiyin.service.version_view import View

# Ids of one list that are stored as they are; bytes of the rest of a request.
MAX_PLAIN_IDS, MAX_REQUEST_BYTES = 64, 16 << 10
# Bytes of traces a second, of one key and of all, in each process.
BYTES_PER_SECOND_OF_KEY, BYTES_PER_SECOND = 1 << 20, 4 << 20
_ID_LISTS = ("exclude", "include", "history")
_NOT_STORED = {"user", "session", "user_columns", "page", "language", "fields", *_ID_LISTS}
TOO_LONG = "the request was too long to be kept"
TOO_MANY = "more lists were asked for than traces are kept of in full"


def encode_request(
    ask: RecommendRequest, listed: Sequence[str], view: View
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The fields and the arrays of a trace that hold a request.

    Parameters
    ----------
    listed: items that were not to be listed, since pages before hold them.
    """
    request = ask.model_dump(exclude_defaults=True, exclude=_NOT_STORED)
    head: dict[str, Any] = {"request": request}
    arrays: dict[str, np.ndarray] = {}
    for name in (*_ID_LISTS, "out"):
        ids = list(listed) if name == "out" else getattr(ask, name)
        if not ids and (ids is None or name in ("out", "exclude")):  # the default; an empty `include` is not
            continue
        if len(ids) <= MAX_PLAIN_IDS:
            (head if name == "out" else request)[name] = ids
            continue
        codes = view.encode(ids)
        arrays[f"asked_{name}"] = codes[codes >= 0].astype(np.int32)
        head.setdefault("asked", {})[name] = {"count": len(ids), "sha256": _digest("\n".join(ids).encode())}
    if ask.context or ask.boosts or ask.pins or len(ask.filter) > MAX_REQUEST_BYTES // 8:
        text = _json(request)
        if len(text) > MAX_REQUEST_BYTES:
            head |= {"request": {"bytes": len(text), "sha256": _digest(text)}, "not_kept": TOO_LONG}
    return head, arrays


def decode_request(
    head: Mapping[str, Any], arrays: Mapping[str, np.ndarray], view: View
) -> tuple[RecommendRequest, list[str]]:
    """The request of a trace, and the items that were not to be listed."""
    fields, listed = dict(head["request"]), list(head.get("out", ()))
    for name in head.get("asked", ()):
        ids = [str(item) for item in view.ids.raw(arrays[f"asked_{name}"])]
        if name == "out":
            listed = ids
        else:
            fields[name] = ids
    return RecommendRequest.model_validate(fields), listed


def trace_size(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> int:
    """Estimated bytes of a trace, before it is packed."""
    texts = sum(map(len, head["items"])) + 8 * len(head["items"]) + 300 * len(head.get("user_columns", ()))
    return 1_024 + texts + sum(part.nbytes for part in arrays.values())


class TraceQuota:
    """Limits the bytes a second of traces that are stored in full. Any number of threads may use it."""

    def __init__(self, of_key: float = BYTES_PER_SECOND_OF_KEY, of_all: float = BYTES_PER_SECOND) -> None:
        self._of_key, self._of_all = Rate(of_key), Rate(of_all)

    def allow(self, key: str, size: int) -> bool:
        """Whether a trace of so many bytes is stored in full; it then counts."""
        return self._of_key.spend(key, size) == 0 and self._of_all.spend("", size) == 0


def strip_trace(
    head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is stored of a trace beyond the quota: what was shown, to whom, and what a policy learns from."""
    names = ("origin", "place_version", "seq", "house", "now", "items", "method", "sources", "anonymous")
    optional = ("experiments", "assignments", "teams", HEAD, "decision_event")
    head = {name: head[name] for name in (*names, *(name for name in optional if name in head))}
    head |= {"request": {}, "not_kept": TOO_MANY}
    kept = {name: arrays[name] for name in ("scores", "propensities") if name in arrays}
    return head, kept | {"ranks": np.zeros((0, 0), np.int16), **without_large_arrays(arrays)}


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # a number beyond 64 bits
        return json.dumps(value, default=str).encode()


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:32]
