"""The items (or users) table of a data set: found by what its key column holds, joined by ids that mean the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl

from zhiyin.core.errors import DataError, suggest
from zhiyin.data.ids import match_spelling
from zhiyin.data.key_inference import guess_key
from zhiyin.data.read_assumptions import Dialect, Findings
from zhiyin.data.source_opening import open_table
from zhiyin.data.table import ColumnPlan, Table, Use, merge

# Key columns of the details that a log holds on its items and users; no column of a source has such a name.
KEYS = {"user": "\x00user", "item": "\x00item"}


@dataclasses.dataclass(frozen=True)
class EntitySource:
    """How the items (or users) of a log are read.

    Parameters
    ----------
    role: "item" or "user".
    table: what describes them, or None where only the log does.
    key: the column of its ids; None: the one that holds most ids of the log.
    log_columns: columns of the log that describe them.
    is_optional: whether a table that holds none of the ids is left out, because nobody named it.
    dialect: that the table was opened with.
    columns: how those of the table are loaded.
    """

    role: str
    table: Table | None
    key: str | None
    log_columns: tuple[str, ...]
    is_optional: bool
    dialect: Dialect
    columns: tuple[ColumnPlan, ...] = ()

    def read(self, ids: pl.Series, details: list[pl.DataFrame | None], findings: Findings) -> pl.DataFrame | None:
        """The frame, its key as `id`; None where nothing describes them.

        Parameters
        ----------
        ids: of the log.
        details: KEYS and the describing columns of each part of the log.
        """
        log_ids = ids.unique()
        table = self.table
        if table is None:
            return self._from_log(details)
        frame = table.execute(self.columns).frame
        key = self.key or self._find_key(table, frame, log_ids, findings)
        if key is None:
            return self._from_log(details)
        rejected = table.set_aside()
        if rejected:
            line, reason, _ = rejected[0]
            findings.note(f"{_name(table)}: {len(rejected):,} rows set aside, the first is line {line}: {reason}")
        table.findings.assumed.pop("header", None)  # the header of the log is another one
        merge(findings, table.findings)
        own_ids = match_spelling(table.load({key: "id"}).frame[key], log_ids)
        frame = frame.rename({"id": "id_"}) if "id" in frame.columns and key != "id" else frame
        frame = frame.rename({key: "id"}) if key != "id" else frame
        frame = frame.with_columns(own_ids.alias("id"))
        n_missing = frame["id"].null_count()
        if n_missing:
            findings.note(f"{_name(table)}: {n_missing:,} rows without {key} left out")
        frame = frame.drop_nulls("id")
        n_repeated = len(frame) - frame["id"].n_unique()
        if n_repeated:
            findings.note(f"{_name(table)}: {n_repeated:,} rows repeat a {key}; the first of each counts")
        return frame

    def _from_log(self, details: list[pl.DataFrame | None]) -> pl.DataFrame | None:
        """The details in the log: the last value of each column that is not null."""
        parts = [part for part in details if part is not None]
        if not parts or not self.log_columns:
            return None
        frame = pl.concat(parts, how="vertical_relaxed")
        rows = frame.select(pl.col(KEYS[self.role]).alias("id"), *self.log_columns).drop_nulls("id")
        return rows.group_by("id", maintain_order=True).agg(pl.all().drop_nulls().last())

    def _find_key(self, table: Table, frame: pl.DataFrame, log_ids: pl.Series, findings: Findings) -> str | None:
        """The column that holds the ids of the log; None where there is none and the table is optional."""
        best, share, others = guess_key(frame, self.role, log_ids)
        if not best or share == 0:
            if self.is_optional:
                findings.note(f"{_name(table)}: left out, no column of it holds the {self.role}s of the log")
                return None
            raise DataError(
                f"no column holds the {self.role}s of the log",
                file=table.name,
                remedy=f'name the key column with {self.role}_id = "..." under [columns], or leave this file out',
            )
        named = [n for n in others if n.lower().replace("_", "") in (f"{self.role}id", "bookid", "movieid")]
        other = f" (not {', '.join(named)}, which holds fewer)" if named else ""
        findings.note(f"{_name(table)}: {self.role}s by {best}, {share:.1%} of the log's are in it{other}")
        return best


def plan_entity(
    role: str, source: Any, key: str | None, log_columns: tuple[str, ...], is_optional: bool, dialect: Dialect
) -> EntitySource:
    """Plan the reading of items or users. source: their table, or None. The others are those of `EntitySource`.

    Raises DataError for a key that is no column of the table.
    """
    dialect = dialect.without_header()
    if source is None:
        return EntitySource(role, None, key, log_columns, is_optional, dialect)
    table = open_table(source, dialect)
    if key is not None and key not in table.columns:
        raise DataError(f"there is no column {key!r}", file=table.name, remedy=suggest(key, table.columns))
    uses: dict[str, Use] = dict.fromkeys(table.columns, "any")
    return EntitySource(role, table, key, log_columns, is_optional, dialect, table.plan(uses))


def _name(table: Table) -> str:
    return Path(table.name).name
