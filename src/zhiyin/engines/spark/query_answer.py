"""The answer to a query in Arrow files of the shared folder: as a table, and some of its rows for a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from zhiyin.data.frame_conversion import note_objects
from zhiyin.data.frame_table import ParquetTable, sample_of_scan
from zhiyin.data.read_assumptions import Dialect, Findings
from zhiyin.data.table import TableFormat, typed_sample


class AnswerTable(ParquetTable):
    """An answer of which only the columns that are wanted are read.

    Parameters
    ----------
    files: with its rows in order.
    name: address of the database, as it is shown.
    objects: columns whose values the driver of this process would make objects, such as UUIDs; they are texts here.
    """

    format = TableFormat("query")

    def __init__(self, files: Sequence[Path], name: str, dialect: Dialect | None, objects: Sequence[str] = ()) -> None:
        self.files, self.name, self.dialect, self.findings = tuple(files), name, dialect or Dialect(), Findings()
        note_objects(list(objects), self.findings)
        scan = self._scan()
        self.schema = scan.collect_schema()
        self.n_rows = int(scan.select(pl.len()).collect().item())
        self.sample = typed_sample(sample_of_scan(scan, self.schema, self.n_rows))

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_ipc(list(self.files))

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        return _located(self._scan(), rows, 0)


class AnswerRows(AnswerTable):
    """Some rows of an answer, to be read by a plan that was made for the whole of it.

    Parameters
    ----------
    start, n_rows: position of the first row, and number of rows.
    """

    def __init__(self, files: Sequence[Path], name: str, dialect: Dialect, start: int, n_rows: int) -> None:
        self.files, self.name, self.dialect, self.findings = tuple(files), name, dialect, Findings()
        self.start, self.n_rows = start, n_rows

    def _scan(self) -> pl.LazyFrame:
        return super()._scan().slice(self.start, self.n_rows)

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        return _located(self._scan(), rows, self.start)


def _located(scan: pl.LazyFrame, rows: list[int], start: int) -> list[tuple[int, str]]:
    """As `FrameTable.locate`, of rows that are not in memory."""
    numbered = scan.with_row_index("\0row").filter(pl.col("\0row").is_in(rows)).collect()
    texts = {
        row: json.dumps(cells, default=str)[:500]
        for row, cells in zip(numbered["\0row"].to_list(), numbered.drop("\0row").iter_rows(named=True))
    }
    return [(start + row + 1, texts[row]) for row in rows]
