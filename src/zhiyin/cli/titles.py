"""Titles of items, kept beside the models so that a list can be read without opening the data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from zhiyin.data.dataset import Dataset

FILE = "titles.arrow"
_NAMES = (r"title", r".*_title", r"name", r".*_name", r".*title.*", r"product", r"description")


def title_column(items: pl.DataFrame) -> str | None:
    """The column that names an item for people."""
    import polars as pl

    texts = [name for name, dtype in items.schema.items() if dtype == pl.String and name != "id"]
    for pattern in _NAMES:
        for name in texts:
            if re.fullmatch(pattern, name, re.IGNORECASE):
                return name
    return None


def titles_of(data: Dataset) -> pl.DataFrame | None:
    """Frame `id` (text), `title`; None where the catalogue has no titles."""
    import polars as pl

    column = title_column(data.items)
    if column is None:
        return None
    return data.items.select(pl.col("id").cast(pl.String), pl.col(column).alias("title"))


def save_titles(data: Dataset, folder: Path) -> None:
    """Keep the titles in a folder of models; an old list there goes."""
    titles = titles_of(data)
    if titles is None:
        (folder / FILE).unlink(missing_ok=True)
        return
    draft = folder / f".{FILE}.draft"
    titles.write_ipc(draft)
    draft.replace(folder / FILE)


def with_titles(frame: pl.DataFrame, column: str, titles: pl.DataFrame | None) -> pl.DataFrame:
    """The frame with a column `title` after the ids in `column`; unchanged without titles."""
    import polars as pl

    if titles is None:
        return frame
    found = frame.select(pl.col(column).cast(pl.String).alias("id")).join(
        titles, on="id", how="left", maintain_order="left"
    )
    return frame.insert_column(frame.get_column_index(column) + 1, found["title"])


def load_titles(folder: Path) -> pl.DataFrame | None:
    """The titles kept in a folder of models."""
    import polars as pl

    return pl.read_ipc(folder / FILE) if (folder / FILE).is_file() else None
