"""Links: who knows whom, read, coded, kept and set aside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.core.errors import DataError
from zhiyin.data.dataset import Dataset
from zhiyin.data.link_roles import guess_links
from zhiyin.data.project_config import load_config, read_data
from zhiyin.data.splits import split

LOG = pl.DataFrame({"user": ["ann", "ann", "bob", "cid"] * 3, "item": list(range(12))})


def links_of(data: Dataset) -> list[tuple]:
    assert data.links is not None
    ids = [data.user_ids.decode(data.links[name].to_numpy()).to_list() for name in ("user", "other")]
    return list(zip(*ids, data.links["weight"].to_list()))


def test_no_links_is_none_and_an_empty_frame_is_nobody() -> None:
    assert Dataset.build(LOG).links is None
    none = pl.DataFrame(schema={"user": pl.String, "other": pl.String})
    links = Dataset.build(LOG, links=none).links
    assert links is not None
    assert links.schema == {"user": pl.Int32, "other": pl.Int32, "weight": pl.Float32}
    assert links.is_empty()


def test_coded_sorted_each_pair_once_and_nobody_to_themselves() -> None:
    links = pl.DataFrame({"user": ["cid", "ann", "ann", "bob", "ann"], "other": ["ann", "eve", "bob", "bob", "eve"]})
    data = Dataset.build(LOG, links=links)
    assert data.user_ids.values.to_list() == ["ann", "bob", "cid", "eve"]
    assert links_of(data) == [("ann", "bob", 1.0), ("ann", "eve", 1.0), ("cid", "ann", 1.0)]
    assert data.histories.lengths.tolist() == [6, 3, 3, 0]  # eve is a user without events
    weighted = Dataset.build(LOG, links=links.with_columns(weight=pl.Series([1, 2, 3, 4, 5])))
    assert links_of(weighted) == [("ann", "bob", 3.0), ("ann", "eve", 7.0), ("cid", "ann", 1.0)]


def test_subset_splits_and_fingerprint_keep_them() -> None:
    links = pl.DataFrame({"user": ["ann"], "other": ["bob"]})
    data = Dataset.build(LOG, links=links)
    for by in ("ratio", "last", "cold-users", "cold-items"):
        for part in split(data, by):
            assert links_of(part) == [("ann", "bob", 1.0)], by
    prints = [
        Dataset.build(LOG, links=frame).fingerprint
        for frame in (
            None,
            links.clear(),
            links,
            links.reverse(),
            links.with_columns(weight=2.0),
            links.rename({"user": "other", "other": "user"}),
        )
    ]
    assert prints[2] == prints[3] == data.fingerprint
    assert len(set(prints)) == 5


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["userID", "friendID"], ["userID", "friendID", None]),
        (["friend_id", "user_id"], ["user_id", "friend_id", None]),
        (["follower", "followee", "weight"], ["follower", "followee", "weight"]),
        (["followee_id", "follower_id"], ["follower_id", "followee_id", None]),
        (["source", "target", "strength"], ["source", "target", "strength"]),
        (["strength", "src", "dst"], ["src", "dst", "strength"]),
        (["from", "to"], ["from", "to", None]),
        (["id", "user1", "user2"], ["user1", "user2", None]),
        (["truster", "trustee", "trust"], ["truster", "trustee", "trust"]),
        (["user", "follows"], ["user", "follows", None]),
        (["a", "b"], ["a", "b", None]),
        (["column_1", "column_2", "column_3"], ["column_1", "column_2", "column_3"]),
    ],
)
def test_columns_are_guessed(columns: list[str], expected: list[str | None]) -> None:
    frame = pl.DataFrame({name: [5 + at, 9 - at, 3] for at, name in enumerate(columns)})
    found = guess_links(frame, {})
    assert [found.get(role) for role in ("user", "other", "weight")] == expected


def test_a_time_is_no_weight_and_one_column_is_no_link() -> None:
    times = pl.DataFrame({"column_1": [1, 2], "column_2": [2, 3], "column_3": [1_400_000_000, 1_400_000_100]})
    assert "weight" not in guess_links(times, {})
    with pytest.raises(DataError, match="two columns"):
        guess_links(pl.DataFrame({"user": [1]}), {})
    with pytest.raises(DataError, match="'nope'"):
        guess_links(times, {"user": "nope"})


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl", "frame", "pandas"])
def test_read_from_anything(kind: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["ann", "cid"], "friend": ["bob", "zoe"], "weight": [2.0, 0.5]})
    path = tmp_path / f"friends.{kind}"
    if kind in ("csv", "tsv"):
        frame.write_csv(path, separator="," if kind == "csv" else "\t")
    elif kind == "parquet":
        frame.write_parquet(path)
    elif kind == "jsonl":
        frame.write_ndjson(path)
    source = frame if kind == "frame" else frame.to_pandas() if kind == "pandas" else path
    data = zy.read(LOG, links=source)
    assert links_of(data) == [("ann", "bob", 2.0), ("cid", "zoe", 0.5)]
    assert "zoe" in data.user_ids.values
    assert any(note == "links: user = user, other = friend, weight = weight" for note in data.notes)


def test_numbers_and_texts_meet() -> None:
    log = pl.DataFrame({"user": [1, 2], "item": ["a", "b"]})
    data = zy.read(log, links=pl.DataFrame({"user": ["1", "2"], "friend": ["2", "9"]}))
    assert links_of(data) == [("1", "2", 1.0), ("2", "9", 1.0)]


def test_bad_rows_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "follows.csv"
    path.write_text(
        "user,other,weight\nann,bob,1\nann,,1\nbob,bob,1\ncid,ann,-1\ncid,bob,many\nbob,cid,\neve\nbob,ann,2\n"
    )
    data = zy.read(LOG, links=path)
    assert links_of(data) == [("ann", "bob", 1.0), ("bob", "ann", 2.0)]
    assert data.quarantine.select("line", "reason").rows() == [
        (3, "other is missing"),
        (4, "links a user to themselves"),
        (5, "weight is no number above 0"),
        (6, "weight = 'many' is not a number"),
        (7, "weight is no number above 0"),
        (8, "1 fields, but 3 columns"),
    ]
    assert set(data.quarantine["file"]) == {str(path)}
    assert any("6 rows set aside" in note for note in data.notes)
    with pytest.raises(DataError, match=r"follows\.csv, line 3") as raised:
        zy.read(LOG, links=path, strict=True)
    assert "other is missing" in str(raised.value)


def test_named_columns_and_the_config(tmp_path: Path) -> None:
    LOG.write_csv(tmp_path / "log.csv")
    (tmp_path / "friends.csv").write_text("b,a,times\nbob,ann,3\n")
    (tmp_path / "zhiyin.toml").write_text(
        '[data]\nsource = "log.csv"\nlinks = "friends.csv"\n'
        '[columns]\nlink_user = "a"\nlink_other = "b"\nlink_weight = "times"\n'
    )
    assert links_of(read_data(load_config(tmp_path / "zhiyin.toml"), tmp_path)) == [("ann", "bob", 3.0)]
    with pytest.raises(DataError, match="'nope'"):
        zy.read(LOG, links=tmp_path / "friends.csv", columns={"link_user": "nope"})
    with pytest.raises(DataError, match="no such file"):
        zy.read(LOG, links=tmp_path / "missing.csv")


def test_lastfm(real_data) -> None:
    folder = real_data("lastfm")
    data = zy.read(folder / "user_artists.dat", links=folder / "user_friends.dat")
    assert (data.n_users, data.n_events, len(data.links)) == (1892, 92834, 25434)
    back = data.links.select(user="other", other="user").sort("user", "other")
    assert back.equals(data.links.select("user", "other"))  # a friendship is two links
    assert np.isin(data.links["user"].to_numpy(), np.arange(data.n_users)).all()
