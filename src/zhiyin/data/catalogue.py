"""The catalogue that is saved with trained models, for filters, rules and titles; the log is not read again."""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.dataset import Dataset
from zhiyin.data.ids import Ids
from zhiyin.data.learned_links import LearnedLinks

FOLDER = "catalogue"
# Names of category columns, the likeliest first.
_CATEGORIES = (
    "genres", "genre", "categories", "category", "tags", "topics", "topic", "class", "department", "brand", "authors",
    "seller",
)  # fmt: skip
_NAMES = (r"title", r".*_title", r"name", r".*_name", r".*title.*", r"product", r"description")


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Items and users with their columns, `id` first; kinds: names of event kinds by code.

    schema: types of the columns, as they were learned; left out, learned from the frames.
    links: as `Dataset.links`, in codes of `users`; None: there are none.
    reviews: how texts of reviews become values, JSON values and arrays; None: nothing was learned of it.
    """

    items: pl.DataFrame
    users: pl.DataFrame
    kinds: tuple[str, ...] = ()
    schema: CatalogueSchema | None = None
    links: pl.DataFrame | LearnedLinks | None = None
    reviews: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, data: Dataset) -> Catalogue:
        learned = CatalogueSchema.of(data.items, data.users)
        types = learned.with_types(data.types)
        return cls(data.items, data.users, tuple(data.kinds), types, data.links, data.reviews)

    @property
    def types(self) -> CatalogueSchema:
        """Types of the columns."""
        return CatalogueSchema.of(self.items, self.users) if self.schema is None else self.schema

    @property
    def learned_links(self) -> LearnedLinks | None:
        """The links by user; None where there are none."""
        if isinstance(self.links, pl.DataFrame):
            return LearnedLinks.of(self.links, Ids(self.users["id"]))
        return self.links

    def save(self, folder: Path) -> None:
        """Write it into a folder of models, atomically; an older one is replaced."""
        with whole_folder(folder / FOLDER) as draft:
            for name, frame in (("items", self.items), ("users", self.users)):
                frame.write_ipc(draft / f"{name}.arrow")
            if self.links is not None:
                LearnedLinks.save(self.links if isinstance(self.links, pl.DataFrame) else self.links.frame(), draft)
            (draft / "kinds.json").write_text(json.dumps(list(self.kinds)) + "\n")
            if self.reviews is not None:
                arrays = {name: value for name, value in self.reviews.items() if isinstance(value, np.ndarray)}
                values = {name: value for name, value in self.reviews.items() if name not in arrays}
                (draft / "reviews.json").write_text(json.dumps(values, ensure_ascii=False) + "\n", "utf-8")
                np.savez(draft / "reviews.npz", **arrays)  # type: ignore[arg-type]
            (draft / "schema.json").write_text(json.dumps(self.types.state(), ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Catalogue | None:
        """The catalogue that `save` wrote into a folder, None without one. Raises DataError for a damaged one."""
        path = folder / FOLDER
        if not path.is_dir():
            return None
        try:
            items, users = (pl.read_ipc(path / f"{name}.arrow") for name in ("items", "users"))
            kinds, types = tuple(json.loads((path / "kinds.json").read_text())), path / "schema.json"
            schema = CatalogueSchema.from_state(json.loads(types.read_text("utf-8"))) if types.is_file() else None
            links = LearnedLinks.load(path, Ids(users["id"])) if "id" in users.columns else None
            return cls(items, users, kinds, schema, links, _load_reviews(path))
        except (ConfigError, OSError, ValueError, TypeError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
            raise DataError(f"the catalogue is damaged ({error})", file=path, remedy="zhiyin train") from None

    @property
    def titles(self) -> pl.DataFrame | None:
        """Frame `id` (text), `title`; None where the items have no titles."""
        column = title_column(self.items)
        if column is None:
            return None
        return self.items.select(pl.col("id").cast(pl.String), pl.col(column).alias("title"))


def _load_reviews(path: Path) -> dict[str, Any] | None:
    if not (path / "reviews.json").is_file():
        return None
    with np.load(path / "reviews.npz", allow_pickle=False) as arrays:
        return json.loads((path / "reviews.json").read_text("utf-8")) | dict(arrays)


def title_column(items: pl.DataFrame) -> str | None:
    """The column that names an item for people."""
    texts = [name for name, dtype in items.schema.items() if dtype == pl.String and name != "id"]
    for pattern in _NAMES:
        for name in texts:
            if re.fullmatch(pattern, name, re.IGNORECASE):
                return name
    return None


def category_columns(names: Iterable[str]) -> list[str]:
    """Columns that are named as categories of items are, the likeliest first."""
    by_lower = {name.lower(): name for name in names}
    return [by_lower[name] for name in _CATEGORIES if name in by_lower]


def with_titles(frame: pl.DataFrame, column: str, titles: pl.DataFrame | None) -> pl.DataFrame:
    """The frame with a column `title` after the ids in `column`; unchanged without titles."""
    if titles is None:
        return frame
    keyed = frame.select(pl.col(column).cast(pl.String).alias("id")).join(
        titles, on="id", how="left", maintain_order="left"
    )
    return frame.insert_column(frame.get_column_index(column) + 1, keyed["title"])
