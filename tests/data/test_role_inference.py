"""Roles guessed from names, types and contents."""

from __future__ import annotations

import polars as pl
import pytest

from zhiyin.core.errors import DataError
from zhiyin.data.column_names import LEAKING, words
from zhiyin.data.key_inference import guess_key
from zhiyin.data.role_inference import guess_roles
from zhiyin.data.source_opening import open_table

T = 1_400_000_000


def roles(**columns: list) -> tuple:
    found = guess_roles(pl.DataFrame(columns))
    return found.user, found.item, found.time, found.rating, found.kind


def test_words() -> None:
    assert words("CustomerID") == ["customer", "id"]
    assert words("user_id") == ["user", "id"]
    assert words("userid") == ["user", "id"]
    assert words("InvoiceNo") == ["invoice", "no"]


def test_names_people_use() -> None:
    assert roles(userId=[1], movieId=[2], rating=[3.0], timestamp=[T]) == (
        "userId",
        "movieId",
        "timestamp",
        "rating",
        None,
    )
    assert roles(visitorid=[1], itemid=[2], event=["view"], timestamp=[T]) == (
        "visitorid", "itemid", "timestamp", None, "event",
    )  # fmt: skip
    assert roles(reviewerID=["a"], asin=["b"], overall=[5], unixReviewTime=[T])[:3] == (
        "reviewerID",
        "asin",
        "unixReviewTime",
    )
    assert roles(book_id=[1], user_id=[2], rating=[3]) == ("user_id", "book_id", None, "rating", None)


def test_columns_without_names() -> None:
    assert roles(column_1=[1, 2], column_2=[3, 3], column_3=[4, 5], column_4=[T, T]) == (
        "column_1", "column_2", "column_4", "column_3", None,
    ) or roles(column_1=[1, 2], column_2=[3, 4], column_3=[4, 5], column_4=[T, T])[:3] == (
        "column_1", "column_2", "column_4",
    )  # fmt: skip


def test_a_column_named_time_that_holds_none_is_not_the_time() -> None:
    assert roles(user=[1, 2], item=[1, 2], time=[1, 2])[2] is None
    assert roles(user=[1, 2], item=[1, 2], time=pl.Series([None, None], dtype=pl.Int64))[2] is None


def test_what_is_given_is_taken() -> None:
    frame = pl.DataFrame({"user_id": [1], "friend": [2], "film": [3], "stars": [4.0]})
    found = guess_roles(frame, {"user": "friend"})
    assert (found.user, found.item, found.rating) == ("friend", "film", "stars")
    with pytest.raises(DataError, match="did you mean 'film'"):
        guess_roles(frame, {"item": "fim"})


def test_two_columns_that_could_be_the_user_give_the_first() -> None:
    assert roles(user_id=[1], customer_id=[2], product_id=[3])[:2] == ("user_id", "product_id")


def test_what_cannot_be_guessed_is_asked_for() -> None:
    with pytest.raises(DataError, match=r"looks like the user or the item(.|\n)*name it"):
        guess_roles(pl.DataFrame({"a": ["x"], "b": ["y"]}))


def test_details_of_items_and_users() -> None:
    frame = pl.DataFrame(
        {
            "user": [u for u in range(30) for _ in range(4)],
            "item": [*range(40)] * 3,
            "price": [1.0] * 120,
            "gender": ["f"] * 120,
            "shelf": [f"s{i % 7}" for i in range(40)] * 3,
        }
    )
    found = guess_roles(frame)
    assert found.item_columns == ("price", "shelf")
    assert found.user_columns == ("gender",)


def test_the_key_of_a_catalogue() -> None:
    books = pl.DataFrame({"id": [1, 2, 3], "book_id": [3, 50, 60], "title": list("abc")})
    assert guess_key(books, "item", pl.Series([1, 2, 3])) == ("id", 1.0, ["book_id"])


def test_columns_that_leak() -> None:
    for name in (
        "average_rating",
        "ratings_count",
        "work_ratings_count",
        "ratings_5",
        "popularity",
        "n_views",
        "avg_score",
    ):
        assert LEAKING.search(name), name
    for name in ("title", "year", "rating", "country", "account"):
        assert not LEAKING.search(name), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("movielens-100k/u.data", ("column_1", "column_2", "column_4", "column_3")),
        ("movielens-small/ratings.csv", ("userId", "movieId", "timestamp", "rating")),
        ("goodbooks/ratings.csv", ("user_id", "book_id", None, "rating")),
        ("online-retail/online_retail.csv.gz", ("CustomerID", "StockCode", "InvoiceDate", "Quantity")),
        ("retailrocket/train_mat_view.tsv", ("column_1", "column_2", "column_3", None)),
        ("lastfm/user_artists.dat", ("userID", "artistID", None, "weight")),
        ("movielens-1m/sequences.txt", ("column_1", "column_2", None, None)),
    ],
)
def test_real_logs(real_data, name: str, expected: tuple) -> None:
    found = guess_roles(open_table(real_data(name)).sample)
    assert (found.user, found.item, found.time, found.rating) == expected
