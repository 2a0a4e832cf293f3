"""One table, whatever holds it: its format, a sample of its rows, and the way to load columns.

Columns are loaded in two steps. `Table.plan` decides from the sample in which type each wanted column is read first;
`Table.execute` reads the columns by that plan, each for its use: as ids, numbers, times, text, or in the type of its
cells. Cells that cannot be read are never dropped: `execute` names their rows, and `locate` finds these in the source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import polars as pl

from zhiyin.data.read_assumptions import Findings
from zhiyin.data.type_inference import infer_column

SAMPLE_ROWS = 10_000
Use = Literal["id", "number", "time", "text", "any"]


@dataclasses.dataclass(frozen=True)
class TableFormat:
    """How a table is stored.

    Parameters
    ----------
    name: "delimited text", "JSON", "Parquet", "Arrow", "query" or "frame".
    compression: of the file, such as "gzip"; None for a plain file and for what is no file.
    encoding: that a text was decoded from; None for UTF-8 and for what is no text.
    separator: between fields of delimited text, as the file has it.
    quoted: whether quotes enclose fields of delimited text.
    header_line: line of the header of delimited text, from 1; 0 without a header, None for other formats.
    """

    name: str
    compression: str | None = None
    encoding: str | None = None
    separator: str | None = None
    quoted: bool | None = None
    header_line: int | None = None

    def __str__(self) -> str:
        parts = [self.name, *filter(None, (self.compression, self.encoding))]
        if self.separator is not None:
            parts += [f"separator {self.separator!r}", "quotes" if self.quoted else "no quotes"]
        if self.header_line is not None:
            parts.append(f"header in line {self.header_line}" if self.header_line else "no header")
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class ColumnPlan:
    """How one column is loaded.

    Parameters
    ----------
    name: of the column.
    use: what it is loaded as.
    dtype: the type that its cells are read in first: the narrowest that the sample fits, of delimited text. A column
        with a cell that does not fit is read again as text and typed by all of its cells. None: the source has types.
    """

    name: str
    use: Use
    dtype: Any = None


@dataclasses.dataclass
class Loaded:
    """Columns of a table, and the rows (positions) whose cell could not be read, by reason."""

    frame: pl.DataFrame
    bad: dict[int, str]


class Table:
    """Any source of rows. Subclasses fill `name`, `sample` and `execute`; `findings` grows while it is read."""

    name: str
    sample: pl.DataFrame
    findings: Findings
    format: TableFormat = TableFormat("frame")

    @property
    def columns(self) -> list[str]:
        return self.sample.columns

    def plan(self, uses: Mapping[str, Use]) -> tuple[ColumnPlan, ...]:
        """How columns are loaded for their uses, decided from the sample."""
        return tuple(ColumnPlan(name, use, self._first_type(name, use)) for name, use in uses.items())

    def execute(self, columns: Sequence[ColumnPlan]) -> Loaded:
        """Load columns by their plan: ids as Int64 or text, numbers as floats, times and text as they are written, any
        as booleans, numbers or text. A number that cannot be read makes its row bad."""
        raise NotImplementedError

    def load(self, columns: Mapping[str, Use]) -> Loaded:
        """Plan and execute at once."""
        return self.execute(self.plan(columns))

    def close(self) -> None:
        """Release the content. A closed table is not read again."""

    def _first_type(self, name: str, use: Use) -> Any:
        """The type that cells of a column are read in first; None where the source has types."""
        return None

    def _by_use(self, frame: pl.DataFrame, columns: Sequence[ColumnPlan]) -> Loaded:
        """Columns of a frame, each by its use."""
        bad: dict[int, str] = {}
        loaded = []
        for plan in columns:
            column = frame[plan.name]
            if plan.use == "id":
                column = self._ids(column)
            elif plan.use == "number":
                column = self._numbers(column, bad)
            elif plan.use == "any":
                column = self._described(column)
            elif plan.use == "time":
                column = self._moments(column)
            loaded.append(column.alias(plan.name))
        return Loaded(pl.DataFrame(loaded), bad)

    def _ids(self, column: pl.Series) -> pl.Series:
        raise NotImplementedError

    def _numbers(self, column: pl.Series, bad: dict[int, str]) -> pl.Series:
        raise NotImplementedError

    def _described(self, column: pl.Series) -> pl.Series:
        raise NotImplementedError

    def _moments(self, column: pl.Series) -> pl.Series:
        return column

    def locate(self, rows: list[int]) -> list[tuple[int, str]]:
        """(line from 1, raw text) of rows."""
        return [(row + 1, "") for row in rows]

    def set_aside(self) -> list[tuple[int, str, str]]:
        """(line, reason, raw text) of records that do not have the fields of the table."""
        return []


def typed_sample(sample: pl.DataFrame) -> pl.DataFrame:
    """A sample whose text has the types that its cells have, mostly."""
    return sample.with_columns(
        infer_column(column, sample=True)[0].alias(column.name)
        for column in sample.get_columns()
        if column.dtype == pl.String
    )


def merge(findings: Findings, more: Findings) -> None:
    """Add what another stage decided."""
    for sentence in more.notes:
        findings.note(sentence)
    for key, value in more.assumed.items():
        findings.record(key, value)
    for key in more.disputed:
        findings.dispute(key)


def reject_bad(text: pl.Series, wrong: pl.Series, bad: dict[int, str]) -> None:
    """Note rows whose text is no number."""
    rows = wrong.arg_true()
    for row, cell in zip(rows.to_list(), text.gather(rows).to_list()):
        bad.setdefault(row, f"{text.name} = {cell!r} is not a number")


def reject_infinite(number: pl.Series, written: pl.Series, bad: dict[int, str]) -> None:
    """Note rows whose number is infinite."""
    rows = number.is_infinite().fill_null(False).arg_true()
    for row, cell in zip(rows.to_list(), written.gather(rows).to_list()):
        bad.setdefault(row, f"{written.name} = {cell!r} is not a number")
