"""What a check of the data reports."""

from __future__ import annotations

import dataclasses

SEVERITIES = ("error", "warning", "info")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing found.

    Parameters
    ----------
    name: stable, such as "duplicate-events"; what a program matches on.
    severity: "error" (learning from this is no use), "warning" (figures will mislead), "info" (good to know).
    message: what was found, with its extent.
    remedy: what to do about it.
    count: how many rows, users, items or columns it concerns, where that is a number.
    """

    name: str
    severity: str
    message: str
    remedy: str
    count: int | None = None

    def __str__(self) -> str:
        return f"{self.severity}: {self.name}: {self.message}\n  What to do: {self.remedy}"
