"""What a service found that it cannot use and went on without: rows, versions, rules, placements, types."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from zhiyin.core.errors import ZhiyinError

# Entries that /ready tells.
MOST = 20


@dataclasses.dataclass(frozen=True)
class SetAside:
    """One thing that is not used. what: which, by its name or its sequence number in the store, never by an id of a
    user or an item. mend: the command or request that mends it."""

    what: str
    reason: str
    mend: str

    def as_json(self) -> dict[str, str]:
        return dataclasses.asdict(self)


def told(found: Iterable[SetAside]) -> dict[str, Any]:
    """What /ready says of it: nothing where there is nothing."""
    entries = list(found)
    return {"set_aside": [entry.as_json() for entry in entries[:MOST]]} if entries else {}


def reason_of(error: BaseException) -> str:
    """An error in one line, without what it quotes: other libraries' errors may hold values of rows."""
    if isinstance(error, ZhiyinError):
        return error.message.splitlines()[0][:200]
    return f"it cannot be loaded ({type(error).__name__})"
