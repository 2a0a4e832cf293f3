"""Issues of tables of the settings file that are taken up by name: placements and experiments."""

from __future__ import annotations

import re
from pathlib import Path

from zhiyin.core.errors import ZhiyinError
from zhiyin.data.project_config import row_of
from zhiyin.service.health_issues import HealthIssue


def rejected_table(file: Path, text: str, table: str, name: str, error: ZhiyinError) -> dict[str, HealthIssue]:
    """The issue of a table `[table.name]` that cannot be taken up, by what it is called.

    Parameters
    ----------
    text: of the file.
    error: why; its `column` is the key within the table, such as "policy.mode", where one key is wrong.
    """
    what = f"[{table}.{name[:64]}]"
    row = line_of_key(text, [table, name, *(error.column or "").split(".")])
    place = f"{file.name}, line {row}" if row else file.name
    return {what: HealthIssue(what, error.message.splitlines()[0], f"{place}: {error.remedy or 'mend it there'}")}


def line_of_key(text: str, path: list[str]) -> int | None:
    """The line of a key of a TOML text, or of the innermost table or key around it that the text shows."""
    for length in range(len(path), 1, -1):
        row = row_of(text, path[:length])
        if row is None:
            row = _first_table_within(text, path[:length])
        if row is not None:
            return row
    return None


def _first_table_within(text: str, path: list[str]) -> int | None:
    """The line of the first `[header]` of a table within the one of the path, which has no header of its own."""
    begin = ".".join(path) + "."
    for row, line in enumerate(text.splitlines(), 1):
        head = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
        if head and head[1].replace('"', "").startswith(begin):
            return row
    return None
