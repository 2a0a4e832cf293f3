"""Health issues: rows, versions, rules, placements and settings that a service cannot use and runs without."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from zhiyin.core.errors import ZhiyinError

# Issues that /ready lists.
MAX_LISTED_ISSUES = 20


@dataclasses.dataclass(frozen=True)
class HealthIssue:
    """One thing that cannot be used.

    Parameters
    ----------
    what: its name or its sequence number in the store, never an id of a user or an item.
    reason: why it cannot be used.
    remedy: the command or request that repairs it.
    """

    what: str
    reason: str
    remedy: str

    def as_json(self) -> dict[str, str]:
        """The issue as HTTP responses and `zhiyin doctor --json` write it."""
        return {"what": self.what, "reason": self.reason, "mend": self.remedy}


def issues_json(issues: Iterable[HealthIssue]) -> dict[str, Any]:
    """The field of /ready that lists issues; an empty object where there is none."""
    entries = list(issues)
    return {"set_aside": [entry.as_json() for entry in entries[:MAX_LISTED_ISSUES]]} if entries else {}


def one_line_reason(error: BaseException) -> str:
    """An error in one line, without the values it quotes: errors of other libraries may hold values of rows."""
    if isinstance(error, ZhiyinError):
        return error.message.splitlines()[0][:200]
    return f"it cannot be loaded ({type(error).__name__})"
