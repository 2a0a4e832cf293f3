"""Handler of what-if: what another configuration would have earned on logged lists."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zhiyin.api import endpoints
from zhiyin.api.requests import WhatIfRequest
from zhiyin.pipeline.rules import Rules
from zhiyin.pipeline.whatif import WhatIfResult
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles
from zhiyin.service.errors import RefusedError
from zhiyin.service.whatif import LogPart, replayed
from zhiyin.service.whatif_replay import NEWEST, OtherConfiguration

# Seconds after which reading stops; what was read counts.
MAX_SECONDS = 15.0
# One at a time, beside the threads that make lists: it must not slow down what people wait for.
_BUSY = threading.Lock()
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="zhiyin-whatif")


@handles(endpoints.WHATIF)
async def whatif(access: Access, body: WhatIfRequest) -> Any:
    other = _other(access, body)
    part = LogPart(body.placement, body.since, body.until, body.limit, MAX_SECONDS)

    def work() -> WhatIfResult:
        return replayed(access.live, access.placements, other, part, confidence=body.confidence, interval=body.interval)

    with _alone():
        result = await asyncio.get_running_loop().run_in_executor(_THREAD, work)
    return result.to_dict()


def _other(access: Access, body: WhatIfRequest) -> OtherConfiguration:
    """The configuration of a request. Raises ConfigError for rules that cannot be."""
    name = body.as_placement or body.placement
    words = [] if body.settings is None else [f"other settings of {name}"]
    options = None
    if body.rules is not None:
        words.append("other rules")
        options = {**access.live.options, "rules": Rules.from_dict(body.rules), "unreadable": {}}
    return OtherConfiguration(
        " and ".join(words) or "the present configuration",
        options,
        {} if body.settings is None else {name: body.settings},
        body.version,
        body.as_placement,
        body.mode,
        NEWEST if body.snapshot is None else body.snapshot,
    )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Raises RefusedError 429 where another one runs."""
    if not _BUSY.acquire(blocking=False):
        raise RefusedError(429, "another what-if is being answered", "come again when it is done", retry=MAX_SECONDS)
    try:
        yield
    finally:
        _BUSY.release()
