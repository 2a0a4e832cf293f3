"""Which file of a folder is what."""

from __future__ import annotations

from pathlib import Path

import pytest

from zhiyin.core.errors import DataError
from zhiyin.data.sources import data_files, find_sources


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
