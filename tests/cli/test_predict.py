"""`zhiyin predict`, and ratings as the goal of evaluate, compare, tune and train."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.cli.conftest import Command
from zhiyin.models.loading import load


@pytest.fixture
def stars(tmp_path: Path) -> Path:
    """50 users with ratings of 1 to 5 by biases and a taste."""
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((50, 30)) < 0.5)
    value = 3 + 0.5 * rng.standard_normal(50)[user] + np.where((user + item) % 2, 1, -1)
    frame = pl.DataFrame({
        "user_id": [f"u{u}" for u in user], "item_id": [f"i{i}" for i in item],
        "rating": np.clip(np.round(value), 1, 5).astype(int),
        "timestamp": 1_600_000_000 + rng.permutation(len(user)) * 3_600,
    })  # fmt: skip
    frame.write_csv(tmp_path / "ratings.csv")
    return tmp_path / "ratings.csv"


def test_predictions_of_pairs(zhiyin: Command, stars: Path) -> None:
    zhiyin("init")
    zhiyin("train", "biasedmf:factors=4")
    rows = json.loads(zhiyin("predict", "u1", "i2", "i3", "--model", "models/biasedmf", "--json").stdout)
    model = load("models/biasedmf")
    assert [row["rating"] for row in rows] == pytest.approx(model.predict(["u1", "u1"], ["i2", "i3"]).tolist())
    assert rows[0]["rating"] > rows[1]["rating"] + 0.5
    assert all(row["known_user"] and row["known_item"] for row in rows)
    Path("pairs.csv").write_text("item,user,note\ni2,u1,a\nnew,u1,b\ni2,who,c\n")
    said = zhiyin("predict", "--pairs", "pairs.csv", "-o", "out.csv", "--model", "models/biasedmf")
    out = pl.read_csv("out.csv")
    assert out["user"].to_list() == ["u1", "u1", "who"]
    assert out["item"].to_list() == ["i2", "new", "i2"]
    assert out["rating"][0] == pytest.approx(rows[0]["rating"], abs=1e-4)
    assert out["known_item"].to_list() == [True, False, True]
    assert out["known_user"].to_list() == [True, True, False]
    assert "1 users are not known" in said.stderr
    assert "wrote 3 ratings" in said.stderr


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "no such file"),
        ("user\nu1\n", "one column"),
        ("user,item\nu1,i1\nu1,\n", "line 3"),
        ("", "cannot be read"),
    ],
)
def test_a_file_that_is_no_pairs_is_named(zhiyin: Command, stars: Path, content: str | None, error: str) -> None:
    zhiyin("init")
    zhiyin("train", "useritembias")
    if content is not None:
        Path("pairs.csv").write_text(content)
    result = zhiyin("predict", "--pairs", "pairs.csv", "-o", "out.csv", "--model", "models/useritembias", code=1)
    assert error in result.output
    assert "pairs.csv" in result.output
    assert not Path("out.csv").exists()


def test_mistakes(zhiyin: Command, stars: Path) -> None:
    zhiyin("init")
    zhiyin("train", "popular")
    assert "--goal rating" in zhiyin("predict", "u1", "i1", "--model", "models/popular", code=1).output
    assert "name a user with items" in zhiyin("predict", "u1", code=1).output
    assert "ends in .csv or .parquet" in zhiyin("predict", "u1", "i1", "-o", "out.txt", code=1).output
    assert "cannot be judged" in zhiyin("evaluate", "--goal", "fame", code=1).output


def test_evaluations_with_ratings_as_the_goal(zhiyin: Command, stars: Path) -> None:
    zhiyin("init")
    found = json.loads(zhiyin("evaluate", "biasedmf:factors=4", "popular", "--goal", "rating", "--json").stdout)
    assert found["main"] == "rmse"
    assert found["best"].startswith("BiasedMF")
    by_name = {model["name"]: model for model in found["models"]}
    assert {"Global mean", "User + item bias"} <= set(by_name)
    assert by_name[found["best"]]["calibration"]
    assert by_name[found["best"]]["metrics"]["rmse"] < by_name["User + item bias"]["metrics"]["rmse"]
    assert json.loads(zhiyin("evaluate", "biasedmf:factors=4", "--json").stdout)["main"] == "rmse"
    assert json.loads(zhiyin("evaluate", "ease", "--json").stdout)["main"] == "ndcg@10"
    assert json.loads(zhiyin("evaluate", "biasedmf", "--goal", "ranking", "--json").stdout)["main"] == "ndcg@10"
    table = zhiyin("evaluate", "biasedmf:factors=4").stdout
    assert "RMSE" in table
    assert "MAE" in table


def test_tuning_a_rating_model_is_by_rmse(zhiyin: Command, stars: Path) -> None:
    zhiyin("init")
    found = json.loads(zhiyin("tune", "useritembias", "--trials", "3", "--write", "--json").stdout)
    assert found["metric"] == "rmse"
    assert found["value"] <= found["default_value"]
    assert "UserItemBias" in tomllib.loads(Path("zhiyin.toml").read_text())["models"]
    ranked = json.loads(zhiyin("tune", "useritembias", "--trials", "2", "--goal", "ranking", "--json").stdout)
    assert ranked["metric"] == "ndcg@10"


@pytest.mark.slow
def test_from_a_file_to_a_prediction(zhiyin: Command, stars: Path) -> None:
    zhiyin("init")
    made = json.loads(zhiyin("train", "--goal", "rating", "--budget", "10s", "--json").stdout)
    assert made["promoted"]
    assert made["report"]["pipeline"]["goal"] == "rating"
    rows = json.loads(zhiyin("predict", "u1", "i2", "i3", "--json").stdout)
    assert rows[0]["rating"] > rows[1]["rating"] + 0.5
    assert rows[0]["low"] <= rows[0]["rating"] <= rows[0]["high"]
    assert "rmse" in zhiyin("versions").output
    assert json.loads(zhiyin("recommend", "u1", "--json").stdout)
