"""Which sources `--budget` tries on which data, and what it says of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.core.errors import DataError
from zhiyin.data.dataset import Dataset
from zhiyin.data.pictures import Pictures, find_pictures
from zhiyin.models.registry import parse
from zhiyin.pipeline import suitable_sources as module
from zhiyin.pipeline.suitable_sources import suitable_sources
from zhiyin.testing.recommender import DAY


def log(n_items: int = 150, **given: Any) -> Dataset:
    rng = np.random.default_rng(0)
    n = 4_000
    frame = pl.DataFrame({"user": rng.integers(0, 200, n), "item": rng.integers(0, n_items, n),
                          "time": np.sort(rng.integers(0, 30 * DAY, n)) + 18_000 * DAY})  # fmt: skip
    return Dataset.build(frame, **given)


def found(data: Dataset, budget: float = 600.0) -> dict[str, str]:
    """By source, why it is not tried."""
    return {one.specification: one.why_not for one in suitable_sources(data, budget)}


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: object())


def test_every_source_can_be_made_and_popularity_comes_first(all_installed: None) -> None:
    sources = suitable_sources(log(), 600.0)
    assert sources[0].specification == "popular"
    assert all(parse(one.specification) for one in sources if not one.why_not)
    assert len({one.specification for one in sources}) == len(sources)
    assert all(one.reason for one in sources if not one.why_not)


@pytest.mark.usefixtures("all_installed")
def test_what_is_missing_is_said() -> None:
    why = found(log())
    assert why["itemknn"] == why["als"] == why["ease"] == why["transitions"] == ""
    assert "no text, category or tags" in why["content"]
    assert "no text, category or tags" in why["hybrid"]
    assert "3 words" in why["hybrid:map=text_cnn"]
    assert "images =" in why["hybrid:map=image_cnn"]
    assert why["twotower:factors=64,epochs=10"] == "users have no columns"
    assert "links =" in why["friends"]
    assert "fewer than 50,000" in why["sasrec:max_len=50,epochs=20"]


@pytest.mark.usefixtures("all_installed")
def test_texts_must_be_long_enough_for_a_network() -> None:
    words = np.array(["red", "blue", "green", "black", "white", "grey", "pink", "brown", "plum", "lime"])
    rng = np.random.default_rng(0)
    short = pl.DataFrame({"id": np.arange(150), "title": [f"{rng.choice(words)} {n}x{n}" for n in range(150)]})
    long = short.with_columns(title=pl.Series([" ".join(rng.choice(words, 5)) + f" n{n}" for n in range(150)]))
    assert "3 words" in found(log(items=short))["hybrid:map=text_cnn"]
    why = found(log(items=long))
    assert why["hybrid:map=text_cnn"] == why["hybrid"] == why["content"] == ""
    assert "takes a budget of 60 s" in found(log(items=long), 30.0)["hybrid:map=text_cnn"]
    few = found(log(n_items=50, items=long))
    assert "50 items with events are fewer than 100" in few["hybrid:map=text_cnn"]
    assert few["hybrid"] == ""


def test_without_torch_networks_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "torch" else object())
    users = pl.DataFrame({"id": np.arange(200), "city": ["Rome", "Oslo", "Lima", "Bonn"] * 50})
    assert found(log(users=users))["twotower:factors=64,epochs=10"] == (
        'torch is not installed: pip install "zhiyin[deep]"'
    )


@pytest.mark.usefixtures("all_installed")
def test_users_with_columns_are_tried_by_two_towers() -> None:
    cities = ["Rome", "Oslo", "Lima", "Bonn"]
    assert (
        found(log(users=pl.DataFrame({"id": np.arange(200), "city": cities * 50})))["twotower:factors=64,epochs=10"]
        == ""
    )
    few = pl.DataFrame({"id": np.arange(200), "city": [*(cities * 10), *([None] * 160)]})
    assert "fewer than 100" in found(log(users=few))["twotower:factors=64,epochs=10"]


@pytest.mark.usefixtures("all_installed")
def test_links_are_tried_where_they_join_users_with_events() -> None:
    assert found(log(links=pl.DataFrame({"user": np.arange(100), "other": np.arange(1, 101)})))["friends"] == ""
    strangers = pl.DataFrame({"user": np.arange(500, 600), "other": np.arange(501, 601)})
    assert "fewer than 20" in found(log(links=strangers))["friends"]


@pytest.mark.usefixtures("all_installed")
def test_vectors_of_items_are_used_where_they_are_brought() -> None:
    vectors = pl.DataFrame({"id": np.arange(150), "look": [[float(n), 1.0] for n in range(150)],
                            "shelf": ["a", "b", "c"] * 50})  # fmt: skip
    data = log(items=vectors)
    sources = found(data)
    assert sources["hybrid:columns=[shelf,look]"] == ""
    model = parse("hybrid:columns=[shelf,look]").fit(data)
    assert {column.name for column in model._features().columns} == {"shelf", "look"}


@pytest.mark.usefixtures("all_installed")
def test_pictures_are_found_by_id_and_by_a_column_of_paths(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for n in range(150):
        pillow.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / f"{n}.png")
    frame = pl.DataFrame({"user": [1, 1], "item": [0, 1]})
    by_id = zy.read(frame, images=tmp_path)
    assert by_id.images == Pictures(str(tmp_path.resolve()))
    named = pl.DataFrame({"id": np.arange(150), "photo": [f"{n}.png" for n in range(150)]})
    by_path = zy.read(frame, items=named, images=str(tmp_path))
    assert by_path.images == Pictures(str(tmp_path.resolve()), "photo")
    assert zy.read(frame, items=named, columns={"image": "photo"}, images=tmp_path).images == by_path.images
    data = log(items=named)
    data.images = by_path.images
    text = f"hybrid:map=image_cnn,images=[{tmp_path.resolve()}],image=[photo]"
    assert found(data)[text] == ""
    assert found(data.subset(np.ones(data.n_events, bool)))[text] == ""
    assert parse(text).image == "photo"  # type: ignore[attr-defined]
    for path in tmp_path.glob("[1-9]*.png"):
        path.write_bytes(b"no picture")
    assert "cannot be read" in found(data)[text]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    items = pl.DataFrame({"id": [1], "photo": ["a.png"]})
    with pytest.raises(DataError, match="no such folder"):
        find_pictures(tmp_path / "nothing", None, items)
    with pytest.raises(DataError, match="no item column 'foto'"):
        find_pictures(tmp_path, "foto", items)
    with pytest.raises(DataError, match="below a folder"):
        find_pictures(None, "photo", items)
    assert find_pictures(None, None, items) is None
