"""The table of links: who follows or befriends whom."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl

from zhiyin.data.link_roles import guess_links
from zhiyin.data.quarantine import reject, rejected_rows
from zhiyin.data.read_assumptions import Dialect, Findings
from zhiyin.data.source_opening import open_table
from zhiyin.data.table import ColumnPlan, Table, Use, merge


@dataclasses.dataclass(frozen=True)
class LinkSource:
    """How the table of links is read.

    Parameters
    ----------
    table: where they are.
    roles: the columns of `user` (who), `other` (whom) and, where there is one, `weight`.
    columns: how these are loaded.
    """

    table: Table
    roles: dict[str, str]
    columns: tuple[ColumnPlan, ...]


def plan_links(source: Any, named_columns: dict[str, str | None], dialect: Dialect) -> LinkSource:
    """Plan the reading of links. given: columns that the caller names, by role."""
    table = open_table(source, dialect.without_header())
    roles = guess_links(table.sample, named_columns, table.name)
    uses: dict[str, Use] = {column: "number" if role == "weight" else "id" for role, column in roles.items()}
    return LinkSource(table, roles, table.plan(uses))


def read_links(source: LinkSource, strict: bool, findings: Findings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The clean links (`user`, `other`, perhaps `weight`) and the rows set aside."""
    table, roles = source.table, source.roles
    findings.note(
        "links: " + ", ".join(f"{role} = {roles[role]}" for role in ("user", "other", "weight") if role in roles)
    )
    loaded = table.execute(source.columns)
    reasons = loaded.bad
    clean = {role: loaded.frame[roles[role]] for role in ("user", "other")}
    for role in ("user", "other"):
        reject(reasons, clean[role].is_null(), f"{roles[role]} is missing")
    reject(reasons, _same_ids(clean["user"], clean["other"]), "links a user to themselves")
    if "weight" in roles:
        weight = loaded.frame[roles["weight"]].cast(pl.Float32, strict=False).fill_nan(None)
        is_wrong = ~((weight > 0) & weight.is_finite()).fill_null(False)
        reject(reasons, is_wrong, f"{roles['weight']} is no number above 0")
        clean["weight"] = weight
    frame = pl.DataFrame({role: column.alias(role) for role, column in clean.items()})
    if reasons:
        is_good = np.ones(len(frame), dtype=bool)
        is_good[list(reasons)] = False
        frame = frame.filter(is_good)
    merge(findings, table.findings)
    return frame, rejected_rows(table, reasons, strict)


def _same_ids(first: pl.Series, second: pl.Series) -> pl.Series:
    """bool[n]: whether two columns hold the same id in a row, whatever their types."""
    if first.dtype != second.dtype:
        first, second = first.cast(pl.String), second.cast(pl.String)
    return (first == second).fill_null(False)
