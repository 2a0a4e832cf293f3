"""What a newcomer types first, on real data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.cli.conftest import Command


def fewer_books(source: Path, target: Path) -> Path:
    """The 2,000 most popular books as every fourth of their readers rated them: seconds in place of a minute."""
    target.mkdir()
    ratings = pl.scan_csv(source / "ratings.csv").filter(pl.col("book_id") <= 2000, pl.col("user_id") % 4 == 0)
    ratings.collect().write_csv(target / "ratings.csv")
    pl.scan_csv(source / "books.csv").filter(pl.col("book_id") <= 2000).collect().write_csv(target / "books.csv")
    return target


@pytest.mark.slow
@pytest.mark.parametrize("name", ["movielens-100k", "goodbooks"])
def test_init_train_evaluate(zhiyin: Command, real_data: Callable[[str], Path], name: str) -> None:
    folder = real_data(name)
    zhiyin("init", str(fewer_books(folder, Path("goodbooks")) if name == "goodbooks" else folder))
    trained = zhiyin("train").stderr
    judged = zhiyin("evaluate").stderr
    models = {model["name"]: model for model in json.loads(Path("evaluation.json").read_text())["models"]}
    bar = models["Popular"]["intervals"]["ndcg@10"][1]
    assert models["EASE"]["intervals"]["ndcg@10"][0] > bar
    assert models["ALS"]["intervals"]["ndcg@10"][0] > bar
    assert Path("models/ease/model.json").exists()
    if name == "goodbooks":
        assert "the log has no times" in trained
        assert "split: ratio, because the log has no times" in judged
        assert "leaking-columns" in judged
        assert "average_rating" in judged
