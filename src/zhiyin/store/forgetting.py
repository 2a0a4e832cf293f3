"""Users who were forgotten: all of theirs is deleted, and the hash of the id with the time is what remains.

A version that has learned of a user must not use it afterwards, so the time is stored. Closed decisions of lists that
name nobody go as well where events of the user are in their rewards. The states of policies that have learned of any of
these decisions become outdated: the learner learns them anew, without the user.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from zhiyin.core.run import log
from zhiyin.store.event_log import EventLog
from zhiyin.store.records import hash_of
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.tables import (
    DECISION_USERS,
    DECISIONS,
    EVENTS,
    FORGOTTEN,
    LINKS,
    LISTS,
    MARKS,
    POLICY_STATES,
    ROWS_PER_STATEMENT,
    TABLES_OF_LISTS,
    VERSIONED_TABLES,
)

# How often `forget` deletes what its own search still finds.
MAX_FORGET_ROUNDS = 3
# Key of `meta`: how often a user was forgotten.
FORGET_COUNT = "forgettings"
# What `forget` reports on, and the keys of its report.
PLACES = ("events", "versions", "links", "lists", *(table.name for table in TABLES_OF_LISTS))
PROOF = tuple(f"{place} {outcome}" for outcome in ("removed", "found") for place in PLACES)
# Fixed statements; see `Database.fetch`.
_FORGOTTEN_AT = sa.select(FORGOTTEN.c.received).where(FORGOTTEN.c.hash == sa.bindparam("user_hash"))
_FORGET_COUNT = sa.select(MARKS.c.value).where(MARKS.c.key == sa.literal(FORGET_COUNT))


class ForgottenUsers(EventLog):
    """Deletes users, and knows when each was deleted."""

    def forget(self, user: str, at_least: int = 0) -> dict[str, int]:
        """Delete all of a user. Returns the proof: rows that were deleted, and rows that a search still finds (0 each).

        Parameters
        ----------
        at_least: microseconds UTC; when the version in use was made. Of who was forgotten then or later that version
            may use nothing, even where the clock of this machine is behind.
        """
        proof, list_ids, rewarded = dict.fromkeys(PROOF, 0), set[str](), set[str]()
        remaining: list[str] = []
        for round in range(MAX_FORGET_ROUNDS):
            with self.writing() as connection:
                _delete_decisions_rewarded_by(connection, user, rewarded, proof)
                self._delete_user(connection, user, remaining, list_ids, proof)
                self._record(connection, user, at_least, first=round == 0)
            with self.reading() as connection:
                remaining = self._search(connection, user, list_ids, rewarded, proof)
            if not remaining:
                break
        if self.path is not None:  # what was overwritten must not live on in the write-ahead log
            is_busy, _, _ = self._wal_checkpoint("TRUNCATE")
            if is_busy:
                log.warning("store: readers hold the journal; what was forgotten leaves it with the next checkpoint")
        return proof

    def _record(self, connection: Any, user: str, at_least: int, first: bool) -> None:
        """Store when a user was forgotten: later each time, also where the clock stands still or was set back."""
        entry = FORGOTTEN.c.hash == hash_of(user)
        before = connection.execute(sa.select(FORGOTTEN.c.received).where(entry)).scalar() or 0
        connection.execute(sa.delete(FORGOTTEN).where(entry))
        if first:
            increment_forget_count(connection)
        received = max(self.clock(), at_least, before + 1)
        connection.execute(sa.insert(FORGOTTEN).values(hash=hash_of(user), received=received))

    def _delete_user(
        self, connection: Any, user: str, other_lists: Sequence[str], list_ids: set[str], proof: dict[str, int]
    ) -> None:
        """Delete the rows of a user and these other lists. Adds to the proof, and ids of lists to `list_ids`."""
        versions = VERSIONED_TABLES["users"]
        own = sa.select(LISTS.c.list_id).where((LISTS.c.user == user) | LISTS.c.list_id.in_(other_lists))
        # Of lists that were not stored, impressions are a user's where the user's events name the list.
        rows = self.select_events(connection, ("seq", "list_id"), "user", [user])
        named = sorted({list_id for _, list_id in rows if list_id is not None})
        ids = [*connection.execute(own).scalars(), *_without_stored_lists(connection, named)]
        list_ids.update(ids)
        for start in range(0, len(ids), ROWS_PER_STATEMENT):
            part = ids[start : start + ROWS_PER_STATEMENT]
            _mark_states_outdated(connection, part)
            for table in (*TABLES_OF_LISTS, LISTS):
                deletion = sa.delete(table).where(table.c.list_id.in_(part))
                proof[f"{table.name} removed"] += connection.execute(deletion).rowcount
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            seqs = [seq for seq, _ in rows[start : start + ROWS_PER_STATEMENT]]
            proof["events removed"] += connection.execute(sa.delete(EVENTS).where(EVENTS.c.seq.in_(seqs))).rowcount
        proof["versions removed"] += connection.execute(sa.delete(versions).where(versions.c.id == user)).rowcount
        proof["links removed"] += connection.execute(sa.delete(LINKS).where(_is_linked(user))).rowcount

    def _search(
        self, connection: Any, user: str, list_ids: set[str], rewarded: set[str], proof: dict[str, int]
    ) -> list[str]:
        """Write into the proof what is still found of a user. Returns ids of lists that are.

        list_ids: of the user's lists. rewarded: of lists that name nobody, with rewards of the user.
        """
        proof["events found"] = len(self.event_seqs(connection, "user", [user]))
        proof["versions found"] = count_rows(connection, VERSIONED_TABLES["users"].c.id == user)
        proof["links found"] = count_rows(connection, _is_linked(user))
        for table in TABLES_OF_LISTS:
            ids = list(list_ids | rewarded if table is DECISIONS else list_ids)
            proof[f"{table.name} found"] = sum(
                count_rows(connection, table.c.list_id.in_(ids[start : start + ROWS_PER_STATEMENT]))
                for start in range(0, len(ids), ROWS_PER_STATEMENT)
            )
        proof["decision_users found"] += count_rows(connection, DECISION_USERS.c.user == user)
        # A list is a user's by its column, or because its head names them.
        position = sa.func.strpos if self.dialect == "postgresql" else sa.func.instr
        in_head = position(LISTS.c.head, f'"user":{json.dumps(user, ensure_ascii=False)}') > 0
        query = sa.select(LISTS.c.list_id).where((LISTS.c.user == user) | in_head).limit(ROWS_PER_STATEMENT)
        remaining = list(connection.execute(query).scalars())
        proof["lists found"] = len(remaining)
        return remaining

    def forgotten_at(self, user: str) -> int:
        """When a user was forgotten last, microseconds UTC; 0: never."""
        rows = self.fetch(_FORGOTTEN_AT, user_hash=hash_of(user))
        return int(rows[0][0] or 0) if rows else 0

    def forgotten_at_each(self, users: Sequence[str]) -> list[int]:
        """As `forgotten_at`, of several users."""
        hashes = [hash_of(user) for user in users]
        times: dict[str, int] = {}
        for start in range(0, len(hashes), ROWS_PER_STATEMENT):
            query = sa.select(FORGOTTEN).where(FORGOTTEN.c.hash.in_(hashes[start : start + ROWS_PER_STATEMENT]))
            with self.reading() as connection:
                times |= {row.hash: int(row.received) for row in connection.execute(query)}
        return [times.get(user_hash, 0) for user_hash in hashes]

    def forgotten_by_hash(self) -> dict[str, int]:
        """When each user who was forgotten was so last, microseconds UTC, by `hash_of` the id."""
        with self.reading() as connection:
            return {row.hash: int(row.received) for row in connection.execute(sa.select(FORGOTTEN))}

    def forget_count(self) -> int:
        """How often a user was forgotten: grows with each time, whatever the clocks say."""
        rows = self.fetch(_FORGET_COUNT)
        return int(rows[0][0] or 0) if rows else 0


def stored_forget_count(connection: Any) -> int:
    """As `ForgottenUsers.forget_count`, within a transaction."""
    return int(connection.execute(_FORGET_COUNT).scalar() or 0)


def increment_forget_count(connection: Any) -> None:
    """Within the transaction that forgets."""
    before = connection.execute(_FORGET_COUNT).scalar()
    if before is None:
        connection.execute(sa.insert(MARKS).values(key=FORGET_COUNT, value="1"))
    else:
        connection.execute(sa.update(MARKS).where(MARKS.c.key == FORGET_COUNT).values(value=str(int(before) + 1)))


def _is_linked(user: str) -> Any:
    """The condition of links of a user and to them."""
    return (LINKS.c.user == user) | (LINKS.c.other == user)


def count_rows(connection: Any, condition: Any) -> int:
    """The number of rows of a condition's table that it holds for."""
    return int(connection.execute(sa.select(sa.func.count()).where(condition)).scalar_one())


def _delete_decisions_rewarded_by(connection: Any, user: str, rewarded: set[str], proof: dict[str, int]) -> None:
    """Delete the closed decisions of lists that name nobody which have rewards of a user.

    Adds to the proof, and the ids of their lists to `rewarded`.
    """
    query = sa.select(DECISION_USERS.c.list_id).where(DECISION_USERS.c.user == user)
    ids = list(connection.execute(query).scalars())
    rewarded.update(ids)
    for start in range(0, len(ids), ROWS_PER_STATEMENT):
        part = ids[start : start + ROWS_PER_STATEMENT]
        _mark_states_outdated(connection, part)
        for table in (DECISION_USERS, DECISIONS):
            deletion = sa.delete(table).where(table.c.list_id.in_(part))
            proof[f"{table.name} removed"] += connection.execute(deletion).rowcount


def _mark_states_outdated(connection: Any, list_ids: Sequence[str]) -> None:
    """Of the policies that have closed decisions among these lists."""
    names = sa.select(DECISIONS.c.placement).where(DECISIONS.c.list_id.in_(list_ids)).distinct()
    learned = list(connection.execute(names).scalars())
    connection.execute(sa.update(POLICY_STATES).where(POLICY_STATES.c.name.in_(learned)).values(outdated=1))


def _without_stored_lists(connection: Any, list_ids: Sequence[str]) -> list[str]:
    """Those of these ids that no stored list has."""
    stored: set[str] = set()
    for start in range(0, len(list_ids), ROWS_PER_STATEMENT):
        part = list_ids[start : start + ROWS_PER_STATEMENT]
        stored.update(connection.execute(sa.select(LISTS.c.list_id).where(LISTS.c.list_id.in_(part))).scalars())
    return [list_id for list_id in list_ids if list_id not in stored]
