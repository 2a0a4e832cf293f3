"""Roles of the columns of a table of links."""

from __future__ import annotations

import re

import polars as pl

from zhiyin.core.errors import DataError, suggest
from zhiyin.data.column_names import words
from zhiyin.data.time_numbers import numeric_unit

_FROM_WORDS = {"user", "follower", "source", "src", "from", "who", "truster", "user1", "id1", "person", "member", "uid"}
_TO_WORDS = {
    "friend", "other", "followee", "following", "followed", "target", "dst", "destination", "to", "whom", "trustee",
    "user2", "id2", "contact", "peer", "neighbor", "neighbour", "leader",
}  # fmt: skip
_WEIGHT_WORDS = {"weight", "strength", "tie", "trust", "closeness", "count", "messages", "value"}


def guess_links(sample: pl.DataFrame, named_columns: dict[str, str | None], source: str = "") -> dict[str, str]:
    """Who (`user`), whom (`other`) and, where there is one, how much (`weight`): the columns of a table of links.

    Names decide; without a known name the first two columns are who and whom. `named_columns`: by role,
    of the caller.
    Raises DataError when there are not two columns.
    """
    roles = {role: column for role, column in named_columns.items() if column}
    for column in roles.values():
        if column not in sample.columns:
            raise DataError(f"there is no column {column!r}", file=source, remedy=suggest(column, sample.columns))
    free = [name for name in sample.columns if name not in roles.values()]
    ids = [name for name in free if not sample[name].dtype.is_nested() and not sample[name].dtype.is_temporal()]

    def take(role: str, role_words: set[str]) -> None:
        named = next((name for name in ids if role_words & {word.rstrip("s") for word in words(name)}), None)
        if role not in roles and named is not None:
            roles[role] = named
            ids.remove(named)

    take("other", _TO_WORDS)
    take("user", _FROM_WORDS)
    for role in ("user", "other"):
        rest = [name for name in ids if not _WEIGHT_WORDS & set(words(name))] or ids
        if role not in roles and rest:
            roles[role] = rest[0]
            ids.remove(rest[0])
    if "user" not in roles or "other" not in roles:
        raise DataError(
            "a table of links needs two columns of users: who and whom",
            file=source,
            remedy='name them: columns={"link_user": "...", "link_other": "..."}',
        )
    numbers = [name for name in ids if sample[name].dtype.is_numeric()]
    named = [name for name in numbers if _WEIGHT_WORDS & set(words(name))]
    unnamed = [n for n in numbers if re.fullmatch(r"column_\d+", n) and numeric_unit(sample[n].drop_nulls()) is None]
    if "weight" not in roles and (named or unnamed):
        roles["weight"] = (named or unnamed)[0]
    return roles
