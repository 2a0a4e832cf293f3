"""Friends: the formula written naively, planted graphs whose answer is known, and users alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from tests.models.planted import checkerboard
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.run import Run
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.learned_links import link_columns
from zhiyin.models.als import ALS
from zhiyin.models.loading import load
from zhiyin.models.neighbors import ItemKNN
from zhiyin.models.popularity import Popular
from zhiyin.models.recommender import Recommender
from zhiyin.models.registry import parse
from zhiyin.models.social import Friends, _overlap, _reach, _ties
from zhiyin.testing.recommender import RecommenderConformance, shop

ONE = Run(threads=1)


def ring(users: list[Any]) -> pl.DataFrame:
    """Each user follows the next."""
    return pl.DataFrame({"user": users, "other": [*users[1:], users[0]]})


class TestFriends(RecommenderConformance):
    """Every log of the suite gets links: a ring over its users."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _linked(cls) -> Iterator[None]:
        build = Dataset.build

        def linked(events: pl.DataFrame, **more: Any) -> Dataset:
            return build(events, **{"links": ring(events["user"].unique().sort().to_list())} | more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Dataset, "build", linked)
            yield

    def make(self) -> Recommender:
        return Friends(base="als:factors=8,reg=2", walk=2, k_neighbors=20)


class TestFriendsOverItemKNN(TestFriends):
    def make(self) -> Recommender:
        return Friends(base="itemknn:k_neighbors=10", walk=1, followers=0.0)


def linked_shop(seed: int = 0, users: int = 60, chance: float = 0.08, **more: Any) -> Dataset:
    rng = np.random.default_rng(seed)
    who, whom = np.nonzero(rng.random((users, users)) < chance)
    weight = rng.uniform(0.5, 3.0, len(who)).astype(np.float32)
    links = pl.DataFrame({"user": [f"u{u}" for u in who], "other": [f"u{u}" for u in whom], "weight": weight})
    return shop(seed, users, links=links, **more)


def naive(model: Friends, data: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(reach, friends, scores) of every user, float64, from the formulas."""
    n = data.n_users
    assert data.links is not None
    w = np.zeros((n, n))
    w[data.links["user"].to_numpy(), data.links["other"].to_numpy()] = data.links["weight"].to_numpy()
    x = data.matrix("binary").toarray().astype(np.float64)
    a = w + model.followers * w.T
    near = (a > 0).astype(np.float64)

    def cosine(rows: np.ndarray) -> np.ndarray:
        length = np.sqrt(rows.sum(axis=1))
        return rows @ rows.T / np.maximum(np.outer(length, length), 1e-12)

    tie = a * (1 + model.shared * cosine(x) + model.common * cosine(near))
    t = tie / np.maximum(tie.sum(axis=1, keepdims=True), 1e-12)
    p = np.eye(n)
    for _ in range(model.walk):
        p = model.restart * np.eye(n) + (1 - model.restart) * p @ t
    np.fill_diagonal(p, 0)
    reach = p / np.maximum(p.sum(axis=1, keepdims=True), 1e-12)
    friends = reach @ (x / np.maximum(x.sum(axis=0), 1) ** model.popularity)
    own = parse(model.base).fit(data).score(data.histories).astype(np.float64)
    own[x.sum(axis=1) == 0] = 0
    scores = np.zeros_like(own)
    for u in range(n):
        had = np.zeros(data.n_items, dtype=bool)
        had[data.histories.rows(u, u + 1).items] = True
        tops = [part[u][~had].max() if part[u][~had].max() > 0 else part[u].max() for part in (own, friends)]
        if max(tops) <= 0:
            scores[u] = np.bincount(data.events["item"].filter(data.events["weight"] > 0), minlength=data.n_items)
            continue
        share = 0.0 if tops[0] <= 0 else 1.0 if tops[1] <= 0 else model.alpha
        parts = [np.zeros(data.n_items) if top <= 0 else part[u] / top for part, top in zip((own, friends), tops)]
        scores[u] = share * parts[0] + (1 - share) * parts[1]
    return reach, friends, scores


@pytest.mark.parametrize("walk", [1, 2, 3])
@pytest.mark.parametrize(("followers", "base"), [(0.0, "itemknn"), (0.4, "als:factors=6,reg=1")])
def test_equals_its_definition(walk: int, followers: float, base: str) -> None:
    data = linked_shop(3)
    model = Friends(base=base, walk=walk, followers=followers, restart=0.3, k_neighbors=1000, popularity=0.4, alpha=0.6)
    model.fit(data, Run(threads=2))
    reach, _, scores = naive(model, data)
    np.testing.assert_allclose(model.reach_.toarray(), reach, atol=2e-6)
    np.testing.assert_allclose(model.score(data.histories), scores, rtol=1e-4, atol=1e-5)


def with_links_of_now(histories: Histories, columns: list[dict[str, list[Any]] | None]) -> Histories:
    names = sorted({name for one in columns if one for name in one})
    features = pl.DataFrame({name: [None if one is None else one.get(name) for one in columns] for name in names})
    return dataclasses.replace(histories, features=features)


def columns_of_links(data: Dataset) -> list[dict[str, list[Any]] | None]:
    """What the service says of the users of a data set whose links did not change."""
    learned = Catalogue.of(data).learned_links
    assert learned is not None
    return [link_columns(learned.friends(code), learned.followers(code)) for code in range(data.n_users)]


@pytest.mark.parametrize("walk", [1, 3])
@pytest.mark.parametrize("followers", [0.0, 0.4])
def test_links_that_did_not_change_give_the_same_scores_as_those_of_training(walk: int, followers: float) -> None:
    data = linked_shop(3)
    model = Friends(base="itemknn", walk=walk, followers=followers, k_neighbors=7).fit(data, ONE)
    live = with_links_of_now(data.histories, columns_of_links(data))
    np.testing.assert_allclose(model.score(live, ONE), model.score(data.histories, ONE), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("walk", [1, 3])
def test_links_that_changed_give_the_scores_of_a_model_that_has_learned_them(walk: int) -> None:
    """Of the user whose links changed, as far as the ties of others do not depend on that user's."""
    data = linked_shop(3)
    assert data.links is not None
    raw = data.links.with_columns(
        pl.Series(name, data.user_ids.raw(data.links[name].to_numpy())) for name in ("user", "other")
    )
    user = "u5"
    changed = pl.concat([raw.filter(pl.col("user") != user), pl.DataFrame(
        {"user": [user] * 3, "other": ["u1", "u2", "u30"], "weight": [2.0, 1.0, 0.5]}, schema=raw.schema)])  # fmt: skip
    settings: dict[str, Any] = {"base": "itemknn", "walk": walk, "followers": 0.0, "common": 0.0}
    old = Friends(**settings).fit(data, ONE)
    new = Friends(**settings).fit(shop(3, 60, links=changed), ONE)
    code = int(data.user_ids.encode([user])[0])
    history = data.histories.rows(code, code + 1)
    columns = link_columns({"u1": 2.0, "u2": 1.0, "u30": 0.5, "somebody unknown": 3.0}, {})
    before = old.score(history, ONE)
    now = old.score(with_links_of_now(history, [columns]), ONE)
    np.testing.assert_allclose(now, new.score(history, ONE), rtol=1e-5, atol=1e-6)
    assert not np.allclose(now, before)


def test_a_user_unknown_to_training_is_answered_from_their_links_of_now() -> None:
    data = planted()
    model = Friends(base="itemknn").fit(data)
    stranger = Histories.of(np.array([0, 0]), np.zeros(0, np.int32))
    rows = with_links_of_now(
        Histories.of(np.zeros(3, np.int64), np.zeros(0, np.int32)), [None, link_columns({"bob": 1.0}, {})]
    )
    nothing, friends = model.score(rows)
    np.testing.assert_array_equal(nothing, model.score(stranger)[0])
    had = data.matrix("binary")[data.user_ids.encode(["bob"])].toarray()[0] > 0
    assert (friends[had] > 0).all()
    assert (friends[~had] == 0).all()


def test_friends_alone_and_own_taste_alone() -> None:
    data = linked_shop(4)
    alone = Friends(alpha=0.0, k_neighbors=1000).fit(data)
    _, friends, _ = naive(alone, data)
    has = friends.max(axis=1) > 0
    got = alone.score(data.histories)[has]
    top = got.max(axis=1, keepdims=True) / friends[has].max(axis=1, keepdims=True)
    np.testing.assert_allclose(got, friends[has] * top, rtol=1e-4)
    some = ["u1", "u2", "u3"]
    for base in ("itemknn", "als:factors=8"):
        taste = Friends(base=base, alpha=1.0).fit(data).recommend(some, k=5)["item"]
        assert taste.equals(parse(base).fit(data).recommend(some, k=5)["item"])


def test_only_the_likeliest_people_are_kept() -> None:
    data = linked_shop(5, chance=0.3)
    every = Friends(walk=1, k_neighbors=1000).fit(data).reach_.toarray()
    few = Friends(walk=1, k_neighbors=3).fit(data).reach_
    assert np.diff(few.indptr).max() == 3
    for u, row in enumerate(few.toarray()):
        kept = np.sort(every[u])[::-1][: int((row > 0).sum())]
        np.testing.assert_allclose(np.sort(row)[::-1][: len(kept)], kept / max(kept.sum(), 1e-12), rtol=1e-4)
        assert row[u] == 0


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_overlap_of_sorted_rows(one: set[int], other: set[int]) -> None:
    rows = (np.array(sorted(ids), dtype=np.int32) for ids in (one, other))
    assert _overlap(*rows) == len(one & other)


@given(st.integers(2, 12), st.integers(0, 2**20), st.integers(1, 4), st.sampled_from([0.0, 0.5, 0.9]))
def test_reach_is_a_share_of_people_other_than_oneself(n: int, seed: int, steps: int, restart: float) -> None:
    rng = np.random.default_rng(seed)
    links = sparse.csr_matrix((rng.random((n, n)) < 0.3) * (1 - np.eye(n)), dtype=np.float32)
    ties = _ties(links, sparse.csr_matrix((n, 3), dtype=np.float32), 0.0, 0.0, 1.0, ONE)
    for k in (2, n):
        reach = _reach(ties, steps, restart, k, ONE).toarray()
        assert (reach.diagonal() == 0).all()
        assert ((reach > 0).sum(axis=1) <= k).all()
        sums = reach.sum(axis=1)
        np.testing.assert_allclose(sums[sums > 0], 1, rtol=1e-5)
        if restart > 0:  # whoever has a friend reaches one
            assert ((sums > 0) == (np.diff(links.indptr) > 0)).all()


# -- planted ----------------------------------------------------------------------------------------------------------


def planted() -> Dataset:
    """ann is new and follows bob; bob follows cid. Each has an item of their own, everybody else has the hit."""
    events = [("bob", "blues"), ("cid", "choir"), *((f"x{n}", "hit") for n in range(9))]
    links = pl.DataFrame([("ann", "bob"), ("bob", "cid")], schema=["user", "other"], orient="row")
    return Dataset.build(pl.DataFrame(events, schema=["user", "item"], orient="row"), links=links)


def test_a_new_user_is_answered_from_their_friends() -> None:
    data = planted()
    near = Friends(followers=0.0, walk=1).fit(data)
    assert near.recommend("ann", k=3)["item"][0] == "blues"
    assert near.score(data.history_of(["ann"]))[0].tolist() == [1.0, 0.0, 0.0]
    far = Friends(followers=0.0, walk=2).fit(data)
    assert far.recommend("ann", k=2)["item"].to_list() == ["blues", "choir"]
    # cid follows nobody: with links that go one way there is nobody to ask, else bob is.
    assert near.recommend("cid", k=1)["item"].to_list() == ["hit"]
    assert Friends(followers=0.5).fit(data).recommend("cid", k=1)["item"].to_list() == ["blues"]


def test_strangers_and_codes_beyond_the_data_get_the_popular_items() -> None:
    data = planted()
    model = Friends().fit(data)
    popular = Popular().fit(data).recommend("nobody", k=3)["item"].to_list()
    assert model.recommend("nobody", k=3)["item"].to_list() == popular
    beyond = data.history_of(["ann"])
    beyond.users[:] = 999
    np.testing.assert_array_equal(model.score(beyond)[0], model.context_.popularity)


def test_a_stronger_tie_counts_more() -> None:
    events = pl.DataFrame({"user": ["ann", "bob", "bob", "cid"], "item": ["a", "a", "b", "c"]})

    def first(weights: list[float], **settings: Any) -> str:
        links = pl.DataFrame({"user": ["ann", "ann"], "other": ["bob", "cid"], "weight": weights})
        data = Dataset.build(events, links=links)
        model = Friends(alpha=0.0, common=0.0, followers=0.0, popularity=0.0, **settings).fit(data)
        return model.recommend("ann", k=1)["item"][0]

    assert first([1.0, 2.0], shared=0.0) == "c"
    assert first([2.0, 1.0], shared=0.0) == "b"
    assert first([1.0, 2.0], shared=10.0) == "b"  # bob shares an item with ann


def test_without_links_it_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="links") as raised:
        Friends().fit(checkerboard())
    assert "friends.csv" in str(raised.value)


def test_links_survive_saving(tmp_path: Any) -> None:
    data = linked_shop(6)
    model = Friends(walk=2).fit(data)
    model.save(tmp_path / "m")
    assert load(tmp_path / "m").recommend(["never", "u1"], k=5).equals(model.recommend(["never", "u1"], k=5))


# -- people as items --------------------------------------------------------------------------------------------------


def follows(seed: int = 0, people: int = 40, chance: float = 0.12) -> tuple[np.ndarray, pl.DataFrame]:
    """A graph in which everybody follows somebody, as a matrix and as a log."""
    rng = np.random.default_rng(seed)
    graph = rng.random((people, people)) < chance
    graph[np.arange(people), (np.arange(people) + 1) % people] = True
    np.fill_diagonal(graph, False)
    who, whom = np.nonzero(graph)
    return graph, pl.DataFrame({"user": [f"p{u:02}" for u in who], "item": [f"p{u:02}" for u in whom]})


def test_friends_of_friends_exactly() -> None:
    graph, log = follows()
    data = Dataset.build(log)
    model = Friends(people=True, alpha=0.0, shared=0.0, common=0.0, followers=0.0, popularity=0.0, walk=1).fit(data)
    frame = model.recommend(k=len(graph)).filter(pl.col("score") > 0)
    count = graph.astype(np.int64) @ graph
    count[graph | np.eye(len(graph), dtype=bool)] = 0
    got = np.zeros_like(count, dtype=np.float64)
    rows = [frame[name].str.slice(1).cast(pl.Int64).to_numpy() for name in ("user", "item")]
    got[rows[0], rows[1]] = frame["score"].to_numpy()
    best = count.max(axis=1, keepdims=True)
    np.testing.assert_allclose(got * best, count, rtol=1e-4, atol=1e-5)


def test_nobody_is_recommended_to_themselves() -> None:
    _, log = follows(1)
    for data in (Dataset.build(log), Dataset.build(log, links=log.rename({"item": "other"}))):
        for walk in (1, 2):
            frame = Friends(people=True, walk=walk).fit(data).recommend(k=data.n_items)
            assert (frame["user"] != frame["item"]).all()
            assert len(frame) == data.n_users * (data.n_items - 1) - data.n_events


@pytest.mark.parametrize(
    "model", [ItemKNN(shrinkage=0.0), ALS(factors=8), Friends(people=True)], ids=lambda m: type(m).__name__
)
def test_people_you_may_know_stay_in_their_circle(model: Recommender) -> None:
    """Two circles of ten, everybody follows all of theirs but two: any model finds the missing within the circle."""
    pairs = [
        (f"{circle}{u}", f"{circle}{v}")
        for circle in "ab"
        for u in range(10)
        for v in range(10)
        if v not in (u, (u + 1) % 10, (u + 2) % 10)
    ]
    log = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
    # Following oneself, worth nothing, counts as seen: so any model leaves oneself out.
    oneself = pl.DataFrame({"user": sorted({u for u, _ in pairs}), "item": sorted({u for u, _ in pairs})})
    log = pl.concat([log.with_columns(weight=1.0), oneself.with_columns(weight=0.0)])
    frame = model.fit(Dataset.build(log), Run(threads=1)).recommend(k=2)
    for user, item in frame.select("user", "item").iter_rows():
        assert item[0] == user[0]
        assert (int(item[1]) - int(user[1])) % 10 in (1, 2)


# -- users alike ------------------------------------------------------------------------------------------------------


def test_similar_users_by_history_equal_the_cosine() -> None:
    data = shop(7)
    rows = data.matrix("weight").toarray().astype(np.float64)
    length = np.linalg.norm(rows, axis=1)
    wanted = rows @ rows.T / np.maximum(np.outer(length, length), 1e-12)
    np.fill_diagonal(wanted, 0)
    frame = ItemKNN().fit(data).similar_users(k=data.n_users)
    assert frame.columns == ["user", "similar", "score", "rank"]
    got = np.zeros_like(wanted)
    got[data.user_ids.encode(frame["user"]), data.user_ids.encode(frame["similar"])] = frame["score"].to_numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    for _, part in frame.group_by("user"):
        assert part["score"].is_sorted(descending=True)
        assert part["rank"].to_list() == list(range(1, len(part) + 1))


def test_similar_users_by_vectors_equal_the_cosine() -> None:
    data = shop(8)
    model = ALS(factors=6).fit(data, ONE)
    vectors = model.encode(data.histories).astype(np.float64)
    length = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    wanted = vectors @ vectors.T / np.outer(length, length)
    frame = model.similar_users(["u1", "u2"], k=4)
    signal = data.matrix("binary").getnnz(axis=1) > 0
    for user, part in frame.group_by("user"):
        row = wanted[data.user_ids.encode([user[0]])[0]].copy()
        row[data.user_ids.encode([user[0]])[0]] = -np.inf
        row[~signal] = -np.inf
        np.testing.assert_allclose(part["score"].to_numpy(), np.sort(row)[::-1][:4], rtol=1e-4)


def test_similar_users_of_both_parities() -> None:
    """On the checkerboard users alike have the same parity, for either kind of model."""
    for model in (ItemKNN(), ALS(factors=4)):
        frame = model.fit(checkerboard(), ONE).similar_users(["u3", "u8"], k=19)
        parity = [int(name[1:]) % 2 for name in frame["similar"]]
        assert parity == [1] * 19 + [0] * 19
        assert (frame["user"] != frame["similar"]).all()


def test_similar_users_edges() -> None:
    data = shop(9)
    model = ItemKNN().fit(data)
    with pytest.raises(DataError, match="nobody"):
        model.similar_users(["u1", "nobody"])
    with pytest.raises(ConfigError, match="k = 0"):
        model.similar_users("u1", k=0)
    for other in (model, ALS(factors=4).fit(data, ONE)):
        assert other.similar_users("never").is_empty()
        assert "never" not in other.similar_users(k=100)["similar"]
        assert other.similar_users([]).is_empty()
    visitor = model.similar_users(histories={"visitor": [101, 104]}, k=3)
    assert visitor["user"].to_list() == ["visitor"] * 3
    model.fit(shop(10))  # a new fit forgets the users of the old one
    assert model.similar_users("u1", k=5).equals(ItemKNN().fit(shop(10)).similar_users("u1", k=5))
