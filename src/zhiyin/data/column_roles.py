"""Roles of columns. What their values mean as events: `event_schema`."""

from __future__ import annotations

import dataclasses

ROLES = ("user", "item", "time", "rating", "kind")


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which column of the log plays which role.

    Parameters
    ----------
    user, item, time, rating, kind: a column each; None where the log has none.
    item_columns, user_columns: columns that describe items and users.
    clock: the time of day where `time` holds days only.
    text: reviews in words, of which values are made.
    """

    user: str
    item: str
    time: str | None = None
    rating: str | None = None
    kind: str | None = None
    item_columns: tuple[str, ...] = ()
    user_columns: tuple[str, ...] = ()
    clock: str | None = None
    text: str | None = None

    def sentence(self) -> str:
        """The roles in one line, to be shown."""
        parts = [f"{role} = {getattr(self, role)}" for role in ROLES if getattr(self, role)]
        if self.clock:
            parts[parts.index(f"time = {self.time}")] = f"time = {self.time} and {self.clock}, joined"
        parts += [f"text = {self.text}"] if self.text else []
        lists = [role for role in ("item_columns", "user_columns") if getattr(self, role)]
        parts += [f"{role} = {', '.join(getattr(self, role))}" for role in lists]
        return "; ".join(parts)
