"""Links between users, as they come while the service runs: who follows or befriends whom, and how much.

A pair of users has one row. A change replaces it by a row with a new sequence number; a link that was removed stays as
a row without a weight, since the files that a version was trained on may have it. Rows go when one of the two is
forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.core.limits import MAX_ID_CHARS, MAX_LINK_WEIGHT
from zhiyin.core.text_validation import text
from zhiyin.store.database import Database
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.tables import LINKS, ROWS_PER_STATEMENT

# Links of one user to others.
MAX_LINKS_PER_USER = 10_000
LINK_FRAME = {"user": pl.String, "other": pl.String, "weight": pl.Float64}
# Fixed statements; see `Database.fetch`.
_LAST_CHANGE = sa.select(sa.func.coalesce(sa.func.max(LINKS.c.seq), 0))
_COLUMNS = (LINKS.c.user, LINKS.c.other, LINKS.c.weight)
_OF_USER = sa.select(*_COLUMNS).where(LINKS.c.user == sa.bindparam("user")).order_by(LINKS.c.seq.desc())
_TO_USER = sa.select(*_COLUMNS).where(LINKS.c.other == sa.bindparam("user")).order_by(LINKS.c.seq.desc())

Pair = tuple[str, str]


class LinkTable(Database):
    """Links by pair (user, other)."""

    def put_links(self, links: Mapping[Pair, float | None]) -> int:
        """Write the weights of links, None to remove one. Returns how many were changed.

        Raises DataError for ids and weights that are not valid, a link of a user to themselves, and a user with more
        than MAX_LINKS_PER_USER links: then nothing is written.
        """
        checked = {_valid_pair(pair): _valid_weight(pair, weight) for pair, weight in links.items()}
        pairs, now, n_changed = list(checked), self.clock(), 0
        with self.writing() as connection:
            for start in range(0, len(pairs), ROWS_PER_STATEMENT // 2):
                part = pairs[start : start + ROWS_PER_STATEMENT // 2]
                stored = _stored(connection, part)
                changed = [pair for pair in part if pair not in stored or stored[pair][1] != checked[pair]]
                replaced = [stored[pair][0] for pair in changed if pair in stored]
                if replaced:
                    connection.execute(sa.delete(LINKS).where(LINKS.c.seq.in_(replaced)))
                rows = [{"user": user, "other": other, "weight": checked[user, other], "received": now}
                        for user, other in changed]  # fmt: skip
                if rows:
                    connection.execute(sa.insert(LINKS), rows)
                n_changed += len(rows)
            _check_counts(connection, {user for (user, _), weight in checked.items() if weight is not None})
        return n_changed

    def last_link_change(self) -> int:
        """The sequence number of the last change of a link; 0 where there never was one."""
        return int(self.fetch(_LAST_CHANGE)[0][0])

    def links_from(self, user: str) -> list[tuple[str, float | None]]:
        """Other users and weights (None: removed) of the links of a user, the last changed first."""
        return [(other, weight) for _, other, weight in self.fetch(_OF_USER, user=user)]

    def links_to(self, user: str) -> list[tuple[str, float | None]]:
        """Users and weights (None: removed) of the links to a user, the last changed first."""
        return [(one, weight) for one, _, weight in self.fetch(_TO_USER, user=user)]

    def links_of(self, users: Sequence[str], limit: int) -> pl.DataFrame:
        """Frame user, other, weight (null: removed) of the links of several users, at most `limit` rows of all."""
        rows: list[Any] = []
        for start in range(0, len(users), ROWS_PER_STATEMENT):
            query = sa.select(*_COLUMNS).where(LINKS.c.user.in_(users[start : start + ROWS_PER_STATEMENT]))
            with self.reading() as connection:
                rows += connection.execute(query.limit(limit - len(rows))).all()
            if len(rows) >= limit:
                break
        return pl.DataFrame([tuple(row) for row in rows], schema=LINK_FRAME, orient="row")

    def all_links(self) -> pl.DataFrame:
        """Frame user, other, weight (null: removed) of all links, by the time of their last change."""
        with self.reading() as connection:
            rows = connection.execute(sa.select(*_COLUMNS).order_by(LINKS.c.seq)).all()
        return pl.DataFrame([tuple(row) for row in rows], schema=LINK_FRAME, orient="row")


def _stored(connection: Any, pairs: Sequence[Pair]) -> dict[Pair, tuple[int, float | None]]:
    """Sequence number and weight of the rows of pairs."""
    users = sorted({user for user, _ in pairs})
    others = sorted({other for _, other in pairs})
    query = sa.select(LINKS.c.seq, *_COLUMNS).where(LINKS.c.user.in_(users), LINKS.c.other.in_(others))
    return {(user, other): (int(seq), weight) for seq, user, other, weight in connection.execute(query)}


def _check_counts(connection: Any, users: set[str]) -> None:
    """Raises DataError for a user with too many links."""
    names = sorted(users)
    for start in range(0, len(names), ROWS_PER_STATEMENT):
        part = names[start : start + ROWS_PER_STATEMENT]
        query = sa.select(LINKS.c.user, sa.func.count()).where(LINKS.c.user.in_(part), LINKS.c.weight.is_not(None))
        for user, count in connection.execute(query.group_by(LINKS.c.user)):
            if count > MAX_LINKS_PER_USER:
                raise DataError(
                    f"user {user!r} would have {count:,} links", remedy=f"at most {MAX_LINKS_PER_USER:,}; remove others"
                )


def _valid_pair(pair: Pair) -> Pair:
    user, other = text(pair[0], "user", MAX_ID_CHARS), text(pair[1], "other", MAX_ID_CHARS)
    if user == other:
        raise DataError(f"user {user!r} is linked to themselves", remedy="name another user")
    return user, other


def _valid_weight(pair: Pair, weight: Any) -> float | None:
    if weight is None:
        return None
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not math.isfinite(weight) or not 0 < weight <= MAX_LINK_WEIGHT:
        raise DataError(
            f"the weight of the link {pair[0]!r} to {pair[1]!r} is {weight!r}",
            remedy=f"a number above 0, at most {MAX_LINK_WEIGHT:,.0f}",
        )
    return float(weight)
