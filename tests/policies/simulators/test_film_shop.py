"""The film shop: seeded, shaped like a shop's log, true to its own probabilities, and worth learning from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import zhiyin as zy
from zhiyin.core.errors import ConfigError
from zhiyin.data.dataset import Dataset
from zhiyin.policies.simulators.film_shop import DAY, START, FilmShop
from zhiyin.policies.simulators.film_texts import GENRES

SMALL = FilmShop(n_users=150, n_items=120, days=40, seed=5)


@pytest.fixture(scope="module")
def shop() -> FilmShop:
    return FilmShop()


@pytest.fixture(scope="module")
def log(shop: FilmShop) -> Dataset:
    return shop.log()


def test_the_same_seed_gives_the_same_log_on_any_number_of_threads() -> None:
    first = SMALL.log(zy.Run(threads=1))
    again = FilmShop(n_users=150, n_items=120, days=40, seed=5).log(zy.Run(threads=2))
    for part in ("events", "items", "users"):
        assert_frame_equal(getattr(first, part), getattr(again, part), check_exact=True)
    assert first.fingerprint == again.fingerprint


def test_threads_share_chunks_without_changing_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhiyin.policies.simulators.film_shop._CELLS", 3000)  # several chunks
    assert SMALL.log(zy.Run(threads=1)).fingerprint == SMALL.log(zy.Run(threads=2)).fingerprint


def test_another_seed_gives_another_shop() -> None:
    other = FilmShop(n_users=150, n_items=120, days=40, seed=6)
    assert other.log().fingerprint != SMALL.log().fingerprint
    assert other.items["description"].to_list() != SMALL.items["description"].to_list()
    assert not np.array_equal(other.people.before, SMALL.people.before)


def test_codes_are_places_in_the_frames(shop: FilmShop, log: Dataset) -> None:
    assert log.items["id"].to_list() == shop.items["id"].to_list()
    assert log.users["id"].to_list() == shop.users["id"].to_list()
    assert set(log.events["kind"].unique()) == {"view", "cart", "purchase", "dislike"}
    ratings = log.events.filter(pl.col("value").is_not_null())
    assert set(ratings["kind"]) == {"purchase"}
    assert set(ratings["value"]) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert log.events["user"].n_unique() == shop.n_users  # everybody came at least once


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"n_users": 2500, "n_items": 3000}, {"seed": 2}])
def test_the_head_takes_most_events_and_the_tail_is_long(fields: dict[str, int]) -> None:
    made = FilmShop(**fields)
    counts = np.sort(np.bincount(made.log().events["item"].to_numpy(), minlength=made.n_items))[::-1]
    assert 0.68 <= counts[: made.n_items // 5].sum() / counts.sum() <= 0.86
    assert counts[0] / counts.sum() < 0.06  # no single film is the shop


def test_no_film_is_seen_before_its_release(shop: FilmShop, log: Dataset) -> None:
    day = (log.events["time"].to_numpy() - START) / DAY
    released = shop.films.released[log.events["item"].to_numpy()]
    assert (day >= released).all()
    assert ((day >= 0) & (day < shop.days)).all()
    new = shop.films.released >= 0
    assert new.mean() == pytest.approx(shop.arrivals, abs=0.01)
    assert new[log.events["item"].to_numpy()].mean() > 0.05  # and once there they are found


def test_nobody_comes_before_joining(shop: FilmShop, log: Dataset) -> None:
    day = (log.events["time"].to_numpy() - START) // DAY
    assert (day >= shop.people.joined[log.events["user"].to_numpy()]).all()


def test_a_purchase_follows_a_cart_that_follows_a_view_in_the_session(log: Dataset) -> None:
    events = log.events.with_columns(day=pl.col("time") // DAY)  # one session a day at most
    kinds = ("view", "cart", "purchase")
    earliest = {kind: pl.col("time").filter(pl.col("kind") == kind).min() for kind in kinds}
    first = events.group_by("user", "day", "item").agg(**earliest)
    bought = first.filter(pl.col("purchase").is_not_null())
    assert len(bought) > 1000
    assert (bought["view"] < bought["cart"]).all()
    assert (bought["cart"] < bought["purchase"]).all()
    span = events.group_by("user", "day").agg((pl.col("time").max() - pl.col("time").min()).alias("span"))
    assert span["span"].max() < zy.microseconds("1h")


def test_views_repeat(log: Dataset) -> None:
    views = log.events.filter(pl.col("kind") == "view")
    assert 0.05 < 1 - views.select("user", "item").n_unique() / len(views) < 0.5


def test_tastes_turn_by_as_much_as_they_are_told() -> None:
    users = np.arange(1500)
    angles = {}
    for drift in (0.0, 0.4, 0.8):
        made = FilmShop(n_users=1500, drift=drift)
        first, last = made.tastes(users, 0), made.tastes(users, made.days)
        cosine = (first * last).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(last, axis=1)
        angles[drift] = np.arccos(np.clip(cosine, -1, 1)).mean()
        strength = np.linalg.norm(last) / np.linalg.norm(first)
        assert strength == pytest.approx(1, abs=0.05)
    assert angles[0.0] < 1e-3 < angles[0.4] < angles[0.8]
    # Where the two tastes are not at right angles the turn differs a little from the angle told.
    assert angles[0.8] == pytest.approx(0.8, abs=0.15)


def test_drift_shows_in_the_log(log: Dataset) -> None:
    """Users' baskets of the last month resemble those of the month before more than the first month's."""
    events = log.events.with_columns(month=(pl.col("time") - START) // (30 * DAY))
    cosines = []
    for month in (0, 2):
        early, late = (_shares(log, events.filter(pl.col("month") == m)) for m in (month, 3))
        norm = np.linalg.norm(early, axis=1) * np.linalg.norm(late, axis=1)
        cosines.append(((early * late).sum(axis=1)[norm > 0] / norm[norm > 0]).mean())
    assert cosines[0] < cosines[1] - 0.01


def test_clicks_come_as_often_as_their_probability_says(shop: FilmShop) -> None:
    rng, n, k = np.random.default_rng(0), 4000, 8
    users, slates = rng.integers(0, shop.n_users, n), rng.integers(0, shop.n_items, (n, k))
    chance = shop.probability(users, slates, 100) * shop.examination(k)
    rounds = 25
    clicks = sum(shop.respond(users, slates, 100, rng).astype(int) for _ in range(rounds))
    error = np.sqrt((chance * (1 - chance)).sum(axis=0) * rounds)
    assert (np.abs(clicks.sum(axis=0) - rounds * chance.sum(axis=0)) < 4 * error).all()  # place by place
    edges = np.quantile(chance[chance > 0], [0.5, 0.9, 0.99])
    band = np.digitize(chance, edges)
    for b in range(4):  # and from the unlikely to the likely
        inside = band == b
        spread = np.sqrt((chance * (1 - chance))[inside].sum() * rounds)
        assert abs(clicks[inside].sum() - rounds * chance[inside].sum()) < 4 * spread


def test_the_probability_knows_users_days_and_releases(shop: FilmShop) -> None:
    users, films = np.arange(300), np.tile(np.arange(shop.n_items), (300, 1))
    chance = shop.probability(users, films, 60)
    assert chance.shape == (300, shop.n_items)
    assert chance.dtype == np.float32
    assert (chance[:, shop.films.released > 60] == 0).all()
    assert 0.01 < chance.mean() < 0.1
    own = np.sort(chance, axis=1)[:, -10:].mean()
    same_for_all = np.sort(chance.mean(axis=0))[-10:].mean()
    assert own > 3 * same_for_all  # there is something to personalise
    alone = shop.probability(np.array([7]), films[:1], np.array([60.0]))
    np.testing.assert_allclose(chance[7], alone[0], rtol=1e-5)


def test_a_personal_model_beats_popularity_and_the_recent_beats_the_old(log: Dataset) -> None:
    train, test = zy.split(log, by="time", test="14d")
    seen = train.matrix().toarray() > 0
    wanted = (test.matrix().toarray() > 0) & ~seen
    kept = wanted.any(axis=1) & seen.any(axis=1)

    def recall(scores: np.ndarray) -> float:
        top = np.argsort(-np.where(seen, -np.inf, scores)[kept], axis=1, kind="stable")[:, :10]
        return float((np.take_along_axis(wanted[kept], top, axis=1).sum(axis=1) / wanted[kept].sum(axis=1)).mean())

    item, age = train.events["item"].to_numpy(), train.window[1] - train.events["time"].to_numpy()
    everyone = np.ones((log.n_users, 1))
    popular = recall(everyone * np.bincount(item, minlength=log.n_items))
    recent = recall(everyone * np.bincount(item, 0.5 ** (age / zy.microseconds("7d")), minlength=log.n_items))
    norms = np.sqrt(seen.sum(axis=0)) + 1e-9
    cosine = (seen.T.astype(np.float32) @ seen) / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0)
    personal = recall(seen @ cosine)
    assert personal > 1.4 * popular
    assert personal > recent + 0.03
    assert recent > popular


def test_text_tells_the_genre(shop: FilmShop) -> None:
    for genre in ("western", "science fiction", "war"):
        first = [genre == row[0] for row in shop.items["genres"].to_list()]
        named = [f"{genre} " in text for text in shop.items["description"].to_list()]
        assert all(said for said, is_so in zip(named, first) if is_so)
    assert shop.items["title"].n_unique() == shop.n_items


def test_written_files_read_back_as_the_same_log(tmp_path: Path) -> None:
    folder = SMALL.write(tmp_path / "shop")
    again, made = zy.read(folder), SMALL.log()
    assert again.n_events == made.n_events
    assert not len(again.quarantine)
    columns = ["user", "item", "time", "kind", "value", "weight"]
    # Codes agree because the catalogue names every film and user.
    assert_frame_equal(
        again.events.select(columns).with_columns(pl.col("kind").cast(pl.String)),
        made.events.select(columns).with_columns(pl.col("kind").cast(pl.String)),
    )
    assert set(again.items.columns) == set(made.items.columns)
    assert again.users["age_group"].to_list() == made.users["age_group"].to_list()


def test_a_tiny_shop_works() -> None:
    tiny = FilmShop(n_users=2, n_items=3, days=2)
    assert tiny.log().n_users == 2
    assert FilmShop(n_users=1, n_items=1, days=1).items.height == 1


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(ConfigError, match=r"FilmShop: n_users = 0 is out of range"):
        FilmShop(n_users=0).log()


def _shares(log: Dataset, events: pl.DataFrame) -> np.ndarray:
    """float64[n_users, genres]: how many events of each genre every user has."""
    listed = log.items["genres"].to_list()
    genres = np.array([[name in row for name in GENRES] for row in listed], dtype=float)
    counts = np.zeros((log.n_users, len(GENRES)))
    np.add.at(counts, events["user"].to_numpy(), genres[events["item"].to_numpy()])
    return counts
