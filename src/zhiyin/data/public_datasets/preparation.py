"""Conversion of published files that `read` cannot read as they are."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

CHECKINS_FILE = "loc-gowalla_totalCheckins.txt.gz"


def _table(path: Path, separator: str, names: list[str]) -> pl.DataFrame:
    """A file without a header in Latin-1, all as text."""
    text = path.read_bytes().decode("latin-1").replace(separator, "\x1f")
    frame = pl.read_csv(
        io.BytesIO(text.encode()),
        separator="\x1f",
        quote_char=None,
        has_header=False,
        infer_schema=False,
        truncate_ragged_lines=True,
    )
    return frame.rename(dict(zip(frame.columns, names))).select(names)


_TITLE = pl.col("title").str.extract(r"^(.*?)\s*\(\d{4}\)\s*$", 1).fill_null(pl.col("title"))
_YEAR = pl.col("title").str.extract(r"\((\d{4})\)\s*$", 1).cast(pl.Int64, strict=False)
_GENRES_100K = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip


def prepare_movielens_100k(home: Path) -> None:
    names = ["item", "title", "released", "video", "imdb", *_GENRES_100K]
    films = _table(home / "u.item", "|", names)
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES_100K]
    genres = pl.concat_str(flags, separator="|", ignore_nulls=True)
    films.select("item", title=_TITLE, year=_YEAR, genres=genres).write_csv(home / "items.tsv", separator="\t")
    people = _table(home / "u.user", "|", ["user", "age", "gender", "occupation", "zip"])
    people.write_csv(home / "users.tsv", separator="\t")
    _table(home / "u.data", "\t", ["user", "item", "rating", "time"]).write_csv(home / "ratings.tsv", separator="\t")


def prepare_movielens_1m(home: Path) -> None:
    films = _table(home / "movies.dat", "::", ["item", "title", "genres"])
    films.select("item", title=_TITLE, year=_YEAR, genres="genres").write_csv(home / "items.tsv", separator="\t")
    people = _table(home / "users.dat", "::", ["user", "gender", "age", "occupation", "zip"])
    people.write_csv(home / "users.tsv", separator="\t")
    ratings = _table(home / "ratings.dat", "::", ["user", "item", "rating", "time"])
    ratings.write_csv(home / "ratings.tsv", separator="\t")


def prepare_adjacency(home: Path) -> None:
    """Lines "user item item ..." into one pair a line."""
    for name in ("train", "test"):
        lines = pl.read_csv(
            home / f"{name}.txt", separator="\x1f", quote_char=None, has_header=False, infer_schema=False
        ).to_series()
        cells = lines.str.strip_chars().str.split(" ")
        frame = pl.DataFrame({"user": cells.list.first(), "item": cells.list.slice(1)})
        pairs = frame.explode("item").drop_nulls().filter(pl.col("item") != "")
        pairs.write_csv(home / f"{name}.tsv", separator="\t")


def prepare_checkins(home: Path) -> None:
    names = ["user", "time", "latitude", "longitude", "place"]
    lines = pl.scan_csv(
        home / CHECKINS_FILE, separator="\t", has_header=False, new_columns=names, infer_schema_length=1000
    )
    lines.collect().write_parquet(home / "checkins.parquet")
