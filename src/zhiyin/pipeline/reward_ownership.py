"""Whose events are rewards of a list."""

from __future__ import annotations

import polars as pl


def is_own_event(list_user: str, event_user: str) -> pl.Expr:
    """Whether an event that names a list is a reward of it.

    A list that was made for a user or a session has the events of that id. A list that names nobody has those of all.

    Parameters
    ----------
    list_user: column with the user or session that the list was made for; null: it names nobody.
    event_user: column with the user of the event.
    """
    return pl.col(list_user).is_null() | (pl.col(list_user) == pl.col(event_user))
