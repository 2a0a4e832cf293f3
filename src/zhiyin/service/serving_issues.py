"""Health issues of a serving state: versions, rules, columns and rows of the store that cannot be used."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from zhiyin.data.catalogue_types import describe
from zhiyin.data.type_names import TABLES
from zhiyin.service.health_issues import HealthIssue
from zhiyin.service.version_loader import RULES_REMEDY

if TYPE_CHECKING:
    from zhiyin.service.serving_state import ServingState


def serving_issues(live: ServingState) -> list[HealthIssue]:
    """All that the state of a shop cannot use."""
    view = live.serving
    issues = live.versions.rejected
    if view is None:
        has_other = live.bundles.versions() and not issues
        remedy = "zhiyin promote VERSION" if has_other else "zhiyin train --budget 10m"
        issues.append(HealthIssue("all lists", "no version can answer", remedy))
    else:
        effect = "nothing is shown until then" if view.shows_nothing else "lists are made without it"
        issues += [
            HealthIssue(name if name.startswith("[") else f"[rules] {name}", f"{reason}: {effect}", RULES_REMEDY)
            for name, reason in view.unusable_rules.items()
            if name not in view.loaded.unreadable
        ]
        issues += [invalid_column(live, "items", column, ids) for column, ids in sorted(view.invalid_values.items())]
    issues += [
        HealthIssue(
            f"change {seq} of {table}",
            "it is no JSON object",
            f"write it again: PUT /v1/{table}/ID; ids: zhiyin doctor",
        )
        for table in TABLES
        for seq in unreadable_changes(live, table)
    ]
    issues += [
        HealthIssue(
            f"type of {table}.{column}",
            "there is no such type",
            f'PUT /v1/schema {{"{table}": {{"{column}": null}}}}',
        )
        for table, column in live.schemas.stored.unusable
    ]
    return issues


def invalid_column(live: ServingState, table: str, column: str, ids: Collection[str]) -> HealthIssue:
    """The issue of a column whose value does not fit its type for some items or users.

    Parameters
    ----------
    ids: ids of those items or users; not named in the issue.
    """
    type = live.types().type_of(table, column) or "text"
    seq = live.store.last_change_of(table, min(ids))
    reason = f"of {len(ids):,} {table} the value is not {describe(type)}, first in change {seq}: it is null"
    remedy = f'send it again, or PUT /v1/schema {{"{table}": {{"{column}": "..."}}}}; ids: zhiyin doctor'
    return HealthIssue(f"{table}.{column}", reason, remedy)


def invalid_users(live: ServingState) -> dict[str, list[str]]:
    """By column the users whose value in the store does not fit its type. Reads all users: it takes long."""
    rows, _ = live.store.changes_since("users", unreadable=live.unreadable["users"])
    users: dict[str, list[str]] = {}
    types = live.types()
    for key, row in rows.items():
        for column in types.fitting("users", row or {})[1]:
            users.setdefault(column, []).append(key)
    return users


def unreadable_changes(live: ServingState, table: str) -> list[int]:
    """Numbers of the newest changes of items or users that are no columns and were not written again since."""
    store = live.store
    return [seq for seq in live.unreadable[table] if store.last_change_of(table, store.id_of_change(table, seq)) == seq]
