"""The first lines of a delimited text: its separator, the lines above the header, the names of its columns."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

from zhiyin.data.column_names import name_score
from zhiyin.data.column_roles import ROLES
from zhiyin.data.read_assumptions import Findings

_SEPARATORS = ("::", "\t", ",", ";", "|", "\x01", "~", "^", "，", " ")
_RARE = ("\x01", "~", "^", "，", " ")  # only where the others do not cut the lines
_PREAMBLE = 20  # lines above a header, at most
_SEP_LINE = re.compile(r'^\ufeff?"?sep=(.|\\t)"?\s*$', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Header:
    """The columns of a delimited text.

    Parameters
    ----------
    above: number of rows above the header, which are no events.
    present: whether the row after them is a header.
    names: of the columns, each once.
    """

    above: int
    present: bool
    names: list[str]


def declared_separator(line: str) -> str | None:
    """The separator that a line such as "sep=;" states, as Excel writes it; None for any other line."""
    match = _SEP_LINE.match(line)
    return None if match is None else match[1].replace("\\t", "\t")


def guess_separator(lines: list[str]) -> str:
    """The separator that cuts the lines most evenly, longer rows preferred; one column when none does."""
    best, best_score = ",", (0.0, 0)
    for separator in _SEPARATORS:
        counts = Counter(_outside_quotes(line).count(separator) for line in lines[:200])
        count, lines_with = counts.most_common(1)[0]
        if separator in _RARE and best_score[0] > 0.5:
            continue
        score = (lines_with / min(len(lines), 200), count)
        if count and score > best_score:
            best, best_score = separator, score
            if separator == "::":
                break
    return best


def is_padded(lines: list[str]) -> bool:
    """Whether columns are padded with blanks: several of them taken as one cut the lines more evenly."""

    def evenness(rows: list[str]) -> float:
        counts = Counter(row.count(" ") for row in rows)
        return counts.most_common(1)[0][1] / len(rows)

    single = [re.sub(" +", " ", line.strip()) for line in lines[:200]]
    return single != lines[:200] and evenness(single) > max(0.8, evenness(lines[:200]))


def _outside_quotes(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def find_header(rows: list[list[str]], width: int, findings: Findings, header_row: int | None = None) -> Header:
    """The header among the first rows that are not blank.

    Parameters
    ----------
    width: the most common number of cells in a row.
    header_row: the header, from 0; -1: there is none; None: it is detected.
    """
    above = _rows_above(rows, width) if header_row is None else max(header_row, 0)
    present = header_row >= 0 if header_row is not None else is_header(rows[above], rows[above + 1 : above + 50])
    if header_row is None and not present and above == 0 and _is_numbered(rows[0]):
        present = _numbers_name_columns(rows, findings)
        if present:
            findings.note("the header numbers the columns; they are called column_1, column_2, ...")
            return Header(0, True, clean([""] * max(width, len(rows[0]))))
    if above:
        preamble = ", ".join(repr("".join(row)[:60]) for row in rows[:above] if any(row))
        findings.note(f"{above} line{'s' * (above > 1)} above the header left out: {preamble}")
    if not present:
        return Header(above, False, clean([""] * width))
    return Header(above, True, _names(rows[above], rows[above + 1 :], width, findings))


def _rows_above(rows: list[list[str]], width: int) -> int:
    """Number of rows above the header: a title, comments, blank cells."""
    if width < 2:
        return 0
    above = 0
    while above < min(_PREAMBLE, len(rows) - 1) and _is_preamble(rows[above], width):
        above += 1
    if above and is_header(rows[above], rows[above + 1 : above + 50]):
        return above
    if not _names_keys(rows[0]):  # a report that has a line of several cells above its header
        for at in range(1, min(_PREAMBLE, len(rows) - 1)):
            if len(rows[at]) == width and _names_keys(rows[at]) and not any(map(_is_number, rows[at])):
                return at
    return 0


def _is_preamble(row: list[str], width: int) -> bool:
    filled = [cell for cell in row if cell.strip()]
    comment = bool(filled) and filled[0].lstrip().startswith(("#", "%")) and not _names_roles(row)
    return len(filled) <= 1 or comment or (len(row) < width - 1 and not _names_roles(row))


def _names_keys(row: list[str]) -> bool:
    return all(any(name_score(role, cell) >= 1 for cell in row) for role in ("user", "item"))


def _names_roles(row: list[str]) -> bool:
    named = {role for role in ROLES for cell in row if name_score(role, cell) >= 1}
    return len(named) >= 2


def _names(header: list[str], rows: list[list[str]], width: int, findings: Findings) -> list[str]:
    """Names of the columns, where the header has a cell more or less than the rows."""
    if header and header[0].lstrip().startswith("#"):
        header = [header[0].lstrip()[1:].lstrip(), *header[1:]]
    if len(header) > width and not any(cell.strip() for cell in header[width:]):
        header = header[:width]
    whole = [row for row in rows if len(row) == width]
    if len(header) == width - 1 and whole:
        if all(not row[-1].strip() for row in whole):
            findings.note("rows end in a separator, the header does not: the empty last column is left out")
            return [*clean(header), "column_empty"]
        if len({row[0] for row in whole}) == len(whole):
            findings.note("the header has a name less than rows have cells: the first column is taken as row names")
            return ["row_name", *clean(header)]
    return clean(header)


def _is_numbered(row: list[str]) -> bool:
    """Whether a row is 0, 1, 2, ... or 1, 2, 3, ..."""
    cells = [cell.strip().strip('"') for cell in row]
    return len(cells) > 1 and any(cells == [str(at + first) for at in range(len(cells))] for first in (0, 1))


def _numbers_name_columns(rows: list[list[str]], findings: Findings) -> bool:
    """Whether a first row of 0, 1, 2 is a header: where the cells below it are of another kind."""
    first, below = rows[0], [row for row in rows[1:50] if len(row) == len(rows[0])]
    if not below:
        return False
    for at in range(len(first)):
        cells = [row[at].strip() for row in below]
        if not any(map(_is_number, cells)) or all(_is_number(cell) and abs(float(cell)) > 1e8 for cell in cells):
            return True
    if len(first) > 2:
        first_line = ",".join(first)
        findings.assume(
            "header", 0, f"the first line {first_line!r} may be a header of numbers or an event, read as an event"
        )
    return False


def is_header(first: list[str], rows: list[list[str]]) -> bool:
    """Whether a first line is a header: no number in it, and known names, numbers below, or names."""
    if any(_is_number(cell) for cell in first):
        return False
    if any(name_score(role, cell) >= 1 for role in ROLES for cell in first):
        return True
    if any(cell and cell in (row[at] for row in rows if at < len(row)) for at, cell in enumerate(first)):
        return False  # "alice,film" above "alice,book" is an event
    numbers_below = any(_is_number(cell) for row in rows for cell in row)
    names = all(re.fullmatch(r"[A-Za-z_\u4e00-\u9fff][\w .:/\-\u4e00-\u9fff]*|", cell.strip('"')) for cell in first)
    return numbers_below or names


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().strip('"'))
    except ValueError:
        return False
    return cell.strip().lower() not in ("nan", "inf", "infinity")


def clean(names: list[str]) -> list[str]:
    """Names of columns without quotes or endings such as ":token", each used once; numbers where none is."""
    cleaned: list[str] = []
    for at, written in enumerate(names, 1):
        name = re.sub(r":(token|token_seq|float|float_seq)$", "", written.strip().strip('"')) or f"column_{at}"
        cleaned.append(f"{name}_{at}" if name in cleaned else name)
    return cleaned
