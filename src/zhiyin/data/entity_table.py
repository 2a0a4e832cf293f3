"""The items (or users) table of a data set: found by what its key column holds, joined by ids that mean the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl

from zhiyin.core.errors import DataError, nearest
from zhiyin.data.dialect import Dialect, Findings
from zhiyin.data.ids import match_spelling
from zhiyin.data.role_inference import guess_key
from zhiyin.data.table_opening import open_table
from zhiyin.data.table_source import Table, Use, merge

# The key columns of what a log says of its items and users; no column of a source is called so.
KEYS = {"user": "\x00user", "item": "\x00item"}


@dataclasses.dataclass(frozen=True)
class Description:
    """What describes the items (or users) of a log.

    Parameters
    ----------
    role: "item" or "user".
    source: the table, or None where only the log says something.
    key: the column of its ids, where it is named.
    columns: of the log that describe them.
    optional: whether a table that holds none of the ids is left out: nobody named it.
    """

    role: str
    source: Any
    key: str | None
    columns: tuple[str, ...]
    optional: bool = False

    def read(
        self, ids: pl.Series, details: list[pl.DataFrame | None], dialect: Dialect, findings: Findings
    ) -> pl.DataFrame | None:
        """The frame, its key as `id`; `details`: KEYS and the describing columns of each part of the log."""
        known = ids.unique()
        if self.source is None:
            return self._of_log(details)
        table = open_table(self.source, dialect.beside())
        if self.key is not None and self.key not in table.columns:
            raise DataError(
                f"there is no column {self.key!r}", file=table.name, remedy=nearest(self.key, table.columns)
            )
        uses: dict[str, Use] = dict.fromkeys(table.columns, "any")
        frame = table.load(uses).frame
        key = self.key or self._key(table, frame, known, findings)
        if key is None:
            return self._of_log(details)
        rejected = table.set_aside()
        if rejected:
            line, reason, _ = rejected[0]
            findings.note(f"{_name(table)}: {len(rejected):,} rows set aside, the first is line {line}: {reason}")
        table.findings.assumed.pop("header", None)  # is not said of the log
        merge(findings, table.findings)
        own = match_spelling(table.load({key: "id"}).frame[key], known)
        frame = frame.rename({"id": "id_"}) if "id" in frame.columns and key != "id" else frame
        frame = frame.rename({key: "id"}) if key != "id" else frame
        frame = frame.with_columns(own.alias("id"))
        missing = frame["id"].null_count()
        if missing:
            findings.note(f"{_name(table)}: {missing:,} rows without {key} left out")
        frame = frame.drop_nulls("id")
        repeated = len(frame) - frame["id"].n_unique()
        if repeated:
            findings.note(f"{_name(table)}: {repeated:,} rows repeat a {key}; the first of each counts")
        return frame

    def _of_log(self, details: list[pl.DataFrame | None]) -> pl.DataFrame | None:
        """What the log says of them: the last word."""
        parts = [part for part in details if part is not None]
        if not parts or not self.columns:
            return None
        frame = pl.concat(parts, how="vertical_relaxed")
        rows = frame.select(pl.col(KEYS[self.role]).alias("id"), *self.columns).drop_nulls("id")
        return rows.group_by("id", maintain_order=True).agg(pl.all().drop_nulls().last())

    def _key(self, table: Table, frame: pl.DataFrame, known: pl.Series, findings: Findings) -> str | None:
        """The column that holds the ids of the log; None where there is none and the table is optional."""
        best, share, others = guess_key(frame, self.role, known)
        if not best or share == 0:
            if self.optional:
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


def _name(table: Table) -> str:
    return Path(table.name).name
