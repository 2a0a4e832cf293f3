"""Which file of a folder is what."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from zhiyin.core.errors import DataError
from zhiyin.data.reading import read
from zhiyin.data.source_discovery import data_files, find_sources


def test_files_sorted_by_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\n1,1,5\n2,2,4\n")
    (tmp_path / "items.csv").write_text("item_id,title\n1,a\n2,b\n")
    (tmp_path / "users.csv").write_text("user_id,age\n1,30\n2,40\n")
    (tmp_path / "README.txt").write_text("nothing to read\n")
    (tmp_path / ".hidden.csv").write_text("user,item\n1,1\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.csv").write_text("")
    found = find_sources(tmp_path)
    assert [path.name for path in found.events] == ["ratings.csv"]
    assert found.items == tmp_path / "items.csv"
    assert found.users == tmp_path / "users.csv"
    assert [path.name for path in data_files(tmp_path)] == [
        "empty.csv",
        "items.csv",
        "ratings.csv",
        "users.csv",
    ]


def test_who_knows_whom_is_found(tmp_path: Path) -> None:
    (tmp_path / "plays.csv").write_text("user_id,artist_id,plays\n1,7,5\n2,8,4\n")
    (tmp_path / "friends.csv").write_text("user_id,friend_id\n1,2\n2,1\n")
    (tmp_path / "links.csv").write_text("movieId,imdbId,tmdbId\n1,100,3\n2,101,4\n")
    found = find_sources(tmp_path)
    assert [path.name for path in found.events] == ["plays.csv"]
    assert found.links == tmp_path / "friends.csv"


def test_a_folder_of_follows_alone_is_a_log(tmp_path: Path) -> None:
    (tmp_path / "follows.csv").write_text("user_id,item_id\n1,2\n2,1\n")
    assert find_sources(tmp_path).events == [tmp_path / "follows.csv"]


def test_parts_of_one_log(tmp_path: Path) -> None:
    for month in (1, 2, 3):
        (tmp_path / f"2024-0{month}.csv").write_text(f"user,item,time\n1,{month},2024-0{month}-01\n")
    assert len(find_sources(tmp_path).events) == 3


def test_a_folder_without_events(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\nfoo,bar\n")
    with pytest.raises(DataError, match=r"no file has both(.|\n)*name the event file"):
        find_sources(tmp_path)


@pytest.mark.parametrize(
    ("name", "events", "items", "users"),
    [
        ("movielens-100k", "u.data", "items.tsv", "users.tsv"),
        ("movielens-small", "ratings.csv", "movies.csv", None),
        ("goodbooks", "ratings.csv", "books.csv", None),
        ("lastfm", "user_artists.dat", "artists.dat", ...),
    ],
)
def test_real_folders(real_data, name: str, events: str, items: str, users) -> None:
    found = find_sources(real_data(name))
    assert [path.name for path in found.events] == [events]
    assert found.items.name == items
    if users is not ...:
        assert (found.users.name if found.users else None) == users


def test_partitions_are_read_with_what_their_folders_say(tmp_path: Path) -> None:
    for day in (15, 16):
        folder = tmp_path / f"day=2023-11-{day}" / "shop=7"
        folder.mkdir(parents=True)
        pl.DataFrame({"user": [1, 2], "item": [day, 3]}).write_parquet(folder / "part-0.parquet")
        (folder / "_SUCCESS").touch()
        (folder / ".part-0.parquet.crc").write_bytes(b"x")
    data = read(tmp_path)
    assert (data.n_events, data.has_times) == (4, True)
    for path in tmp_path.rglob("*.parquet"):
        pl.read_parquet(path, hive_partitioning=False).write_csv(path.with_suffix(".csv"))
        path.unlink()
    data = read(tmp_path)
    assert data.n_events == 4
    assert any("not used: day, shop, which only the names of folders say" in note for note in data.notes)


def test_files_of_a_folder_that_are_not_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "2024-01.csv").write_text("user,item,time\n1,2,2024-01-01\n" + "2,3,2024-01-02\n" * 9)
    (tmp_path / "2024-02.csv").write_text("user,item,time,extra\n1,2,2024-02-01,x\n")
    (tmp_path / "notes.txt").write_text("user\n7\n8\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1\x00\x01")
    notes = find_sources(tmp_path).notes
    data = read(tmp_path)
    for name in ("2024-02.csv", "notes.txt", "broken.parquet"):
        assert any(note.startswith(f"{name}: not read, ") for note in notes), notes
        assert any(note.startswith(f"{name}: not read, ") for note in data.notes)


def test_a_folder_without_tables_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file of this folder is a table"):
        read(tmp_path)
    (tmp_path / "log.csv").write_bytes(b"<html><body>Not found</body></html>")
    with pytest.raises(DataError, match=r"log\.csv: this is a web page"):
        read(tmp_path)
