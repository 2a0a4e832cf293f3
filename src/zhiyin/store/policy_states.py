"""What policies have learned: numbered states, each with the decision up to which it has learned.

The state and its mark are one row, so whatever ends a learner, no decision is learned twice and none is left out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from zhiyin.core.errors import DataError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.text_validation import text
from zhiyin.store.forgetting import stored_forget_count
from zhiyin.store.sqlalchemy_import import sa
from zhiyin.store.tables import POLICIES, POLICY_STATES, VERSIONED_TABLES
from zhiyin.store.versioned_tables import VersionedTables

# States of a policy that stay: the newest, and of those before the last of each hour and of each day, newest first.
MAX_STATES, N_NEWEST, N_HOURLY = 20, 8, 6
HOUR, DAY = 3_600_000_000, 86_400_000_000
_NEWEST = sa.select(POLICY_STATES.c.name, sa.func.max(POLICY_STATES.c.number)).group_by(POLICY_STATES.c.name)
_NEWEST_HEAD = (
    sa.select(POLICY_STATES.c.number, POLICY_STATES.c.mark, POLICY_STATES.c.outdated)
    .where(POLICY_STATES.c.name == sa.bindparam("name"))
    .order_by(POLICY_STATES.c.number.desc())
    .limit(1)
)


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyState:
    """What a policy has learned.

    Parameters
    ----------
    number: higher, newer; of all policies of the store each has its own.
    mark: sequence number of the decision up to which it has learned.
    arrays: by name, of any shape. info: JSON, for people and monitors.
    created: microseconds UTC.
    outdated: whether a user whose decisions it has learned was forgotten since.
    """

    number: int
    name: str
    mark: int
    arrays: dict[str, np.ndarray]
    info: dict[str, Any]
    created: int
    outdated: bool


class PolicyStates(VersionedTables):
    """States of policies in a database."""

    def put_policy_state(
        self,
        name: str,
        mark: int,
        arrays: Mapping[str, np.ndarray],
        info: Mapping[str, Any],
        *,
        base: int | None = None,
        forget_count: int | None = None,
    ) -> int:
        """Store a state of a policy and delete those that are too many, or outdated. Returns its number.

        Returns 0, and stores nothing, where another state was written or a user was forgotten meanwhile.

        Parameters
        ----------
        base: number of the newest state when learning began, 0 for none; None: is not checked.
        forget_count: `Store.forget_count` then; None: is not checked.
        """
        text(name, "name", MAX_ID_CHARS)
        state = save({key: np.asarray(value, order="C") for key, value in arrays.items()})
        row = {
            "name": name, "mark": int(mark), "state": state, "info": json.dumps(info, allow_nan=False),
            "created": self.clock(), "outdated": 0,
        }  # fmt: skip
        columns = POLICY_STATES.c
        with self.writing() as connection:
            newest = connection.execute(sa.select(sa.func.max(columns.number)).where(columns.name == name)).scalar()
            if base is not None and int(newest or 0) != base:
                return 0
            if forget_count is not None and stored_forget_count(connection) != forget_count:
                return 0
            insert = sa.insert(POLICY_STATES).values(row).returning(columns.number)
            number = int(connection.execute(insert).scalar_one())
            self._prune(connection, name)
        return number

    def _prune(self, connection: Any, name: str) -> None:
        """Delete outdated states, and those beyond MAX_STATES but for the one that people have chosen."""
        columns, controls = POLICY_STATES.c, VERSIONED_TABLES[POLICIES].c
        connection.execute(sa.delete(POLICY_STATES).where(columns.name == name, columns.outdated == 1))
        query = sa.select(columns.number, columns.created).where(columns.name == name).order_by(columns.number.desc())
        rows = [(int(number), int(created)) for number, created in connection.execute(query)]
        if len(rows) <= N_NEWEST:
            return
        chosen = sa.select(controls.columns).where(controls.id == name).order_by(controls.version.desc()).limit(1)
        kept = kept_states(rows) | {_snapshot_of(connection.execute(chosen).scalar())}
        surplus = [number for number, _ in rows if number not in kept]
        if surplus:
            connection.execute(sa.delete(POLICY_STATES).where(columns.number.in_(surplus)))

    def policy_state(self, name: str, number: int | None = None) -> PolicyState | None:
        """A state of a policy, the newest by default; None where it is not stored. Raises DataError if damaged."""
        query = sa.select(POLICY_STATES).where(POLICY_STATES.c.name == name)
        if number is not None:
            query = query.where(POLICY_STATES.c.number == number)
        with self.reading() as connection:
            row = connection.execute(query.order_by(POLICY_STATES.c.number.desc()).limit(1)).first()
        if row is None:
            return None
        try:
            return PolicyState(
                int(row.number), row.name, int(row.mark), load(row.state), json.loads(row.info), int(row.created),
                bool(row.outdated),
            )  # fmt: skip
        except (SafetensorError, ValueError) as error:
            raise DataError(f"state {row.number} of policy {name} is damaged: {error}", remedy="roll back") from None

    def newest_policy_states(self) -> dict[str, int]:
        """The number of the newest state of each policy that has one."""
        return {name: int(number) for name, number in self.fetch(_NEWEST)}

    def newest_policy_state_head(self, name: str) -> tuple[int, int, bool]:
        """Number and mark of the newest state of a policy, and whether it is outdated; (0, 0, False) for none."""
        rows = self.fetch(_NEWEST_HEAD, name=name)
        return (int(rows[0][0]), int(rows[0][1]), bool(rows[0][2])) if rows else (0, 0, False)

    def policy_state_numbers(self, name: str) -> list[tuple[int, int]]:
        """Number and time, microseconds UTC, of each stored state of a policy, newest first."""
        columns = POLICY_STATES.c
        query = sa.select(columns.number, columns.created).where(columns.name == name).order_by(columns.number.desc())
        with self.reading() as connection:
            return [(int(number), int(created)) for number, created in connection.execute(query)]


def kept_states(rows: Iterable[tuple[int, int]]) -> set[int]:
    """Numbers of the states that stay, of (number, created) newest first: the newest, then hourly, then daily ones.

    >>> sorted(kept_states([(number, number * HOUR // 4) for number in range(4_000, 0, -1)]))[:9]
    [3455, 3551, 3647, 3743, 3839, 3935, 3975, 3979, 3983]
    """
    rows = list(rows)
    kept = [number for number, _ in rows[:N_NEWEST]]
    periods: set[tuple[int, int]] = set()
    for length, until in ((HOUR, N_NEWEST + N_HOURLY), (DAY, MAX_STATES)):
        for number, created in rows[N_NEWEST:]:
            period = (length, created // length)
            if len(kept) >= until:
                break
            if period not in periods:
                periods.add(period)
                if number not in kept:
                    kept.append(number)
    return set(kept)


def _snapshot_of(columns: str | None) -> int | None:
    """The number of the state that the controls of a policy choose; None where they choose none."""
    try:
        snapshot = json.loads(columns or "{}").get("snapshot")
    except (ValueError, AttributeError):
        return None
    return snapshot if isinstance(snapshot, int) else None
