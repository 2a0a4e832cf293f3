"""Where the pictures of items are: a folder, and the column of paths where they are not named by item id."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from zhiyin.core.errors import DataError, suggest

_PICTURE = r"(?i)\.(?:jpe?g|png|webp|gif|bmp)$"
_ADDRESS = r"^\w+://"


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of items.

    Parameters
    ----------
    folder: where they are, an absolute path; none outside it is read.
    column: item column of their paths below the folder; None: each is named by the id of its item, such as 42.jpg.
    """

    folder: str
    column: str | None = None


def split_image_column(columns: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, str | None]:
    """The roles of columns without "image", and what it names."""
    if columns is None or "image" not in columns:
        return None if columns is None else dict(columns), None
    rest = dict(columns)
    return rest, rest.pop("image") or None


def find_pictures(images: Any, column: str | None, items: pl.DataFrame) -> Pictures | None:
    """The pictures that `read(images=...)` names; None where it names none.

    column: item column of paths; None: the one whose values mostly end as files of pictures do, if there is one.

    Raises DataError where there is no such folder or column, and for a column without a folder.
    """
    if images is None:
        if column is not None and isinstance(items.schema.get(column), pl.String):
            raise DataError(
                "paths of pictures are below a folder", column=column, remedy='images = "folder" under [data]'
            )
        return None
    folder = Path(str(images)).expanduser()
    if not folder.is_dir():
        raise DataError("there is no such folder of pictures", file=folder, remedy="name a folder, or leave it out")
    if column is not None and column not in items.columns:
        raise DataError(f"there is no item column {column!r}", remedy=suggest(column, items.columns))
    return Pictures(str(folder.resolve()), column or _column_of_paths(items))


def _column_of_paths(items: pl.DataFrame) -> str | None:
    for name, dtype in items.drop("id").schema.items():
        values = items[name].drop_nulls() if dtype == pl.String else pl.Series([], dtype=pl.String)
        paths = values.str.contains(_PICTURE) & ~values.str.contains(_ADDRESS)
        if len(values) and 2 * int(paths.sum()) > len(values):
            return name
    return None
