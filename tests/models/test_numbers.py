"""Numbers that callers bring: `k`, ids and hyperparameters, of Python and of NumPy, in range and out of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.core.errors import ConfigError
from zhiyin.core.params import Param
from zhiyin.core.ranking_metrics import RANKING
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.project_config import load_config
from zhiyin.models.registry import hyperparameters, make, model_class, parse
from zhiyin.pipeline import diversity_rerankers
from zhiyin.pipeline.slate import Slates
from zhiyin.ranking.retrieval import retrieve
from zhiyin.testing.recommender import shop

RUN = Run(threads=1, progress=False)
DATA: Dataset = shop()
POPULAR, KNN = zy.Popular().fit(DATA, RUN), zy.ItemKNN().fit(DATA, RUN)
MEAN = zy.BiasedMF(factors=2, epochs=1).fit(DATA, RUN)
PIPELINE = zy.Pipeline.wrapping(KNN)
ANSWERS = zy.Answers(KNN, DATA.items)
SLATES = Slates(np.array([0, 4]), np.arange(4, dtype=np.int32), np.arange(4, 0, -1).astype(np.float32))
HITS, RELEVANT = np.ones((2, 5), dtype=bool), np.array([1, 3])
ASKED = DATA.histories.rows(0, 2)
FEATURES = np.eye(DATA.n_items, dtype=np.float32)

# Every public function that takes a number of items, users, folds or trials.
TAKE_K: dict[str, Callable[[Any], Any]] = {
    "recommend": lambda k: POPULAR.recommend("u1", k=k),
    "recommend, histories": lambda k: KNN.recommend(histories=[[101, 102]], k=k),
    "recommend, pipeline": lambda k: PIPELINE.recommend("u1", k=k),
    "rank": lambda k: KNN.rank(ASKED, k, run=RUN)[0],
    "rank, one": lambda k: KNN.rank(ASKED.rows(0, 1), k, run=RUN)[0],
    "rank, pipeline": lambda k: PIPELINE.rank(ASKED, k, run=RUN)[0],
    "retrieve": lambda k: retrieve({"knn": KNN}, ASKED, k, run=RUN).items,
    "retrieve, by name": lambda k: retrieve({"knn": KNN}, ASKED, {"knn": k}, run=RUN).items,
    "similar": lambda k: KNN.similar(101, k=k),
    "similar_users": lambda k: KNN.similar_users("u1", k=k),
    "ask": lambda k: ANSWERS.ask(zy.Request(user="u1", k=k)).items,
    "ask_many": lambda k: ANSWERS.ask_many(["u1"], k),
    "evaluate": lambda k: (
        zy.evaluate(zy.Popular(), split=zy.split(DATA), k=k, main="ndcg@2", baselines=False, run=RUN).k
    ),
    "evaluate, several": lambda k: (
        zy.evaluate(zy.Popular(), split=zy.split(DATA), k=[k], main="ndcg@2", baselines=False, run=RUN).k
    ),
    "folds": lambda k: [part.test.n_events for part in zy.folds(DATA, k, "7d")],
    "mmr": lambda k: diversity_rerankers.mmr(SLATES, FEATURES, k).items,
    "dpp": lambda k: diversity_rerankers.dpp(SLATES, FEATURES, k).items,
    "examination": zy.FilmShop.examination,
} | {name: lambda k, metric=metric: metric(HITS, RELEVANT, k) for name, metric in RANKING.items()}


def plain(value: Any) -> Any:
    return value.rows() if isinstance(value, pl.DataFrame) else np.asarray(value).tolist()


@pytest.mark.parametrize("name", TAKE_K)
def test_k_is_a_whole_number_of_any_type(name: str) -> None:
    expected = plain(TAKE_K[name](2))
    assert len(expected) > 0
    for k in (np.int64(2), np.uint8(2), np.array(2), 2.0, np.float64(2)):
        assert plain(TAKE_K[name](k)) == expected, repr(k)


@pytest.mark.parametrize("name", TAKE_K)
@pytest.mark.parametrize("k", [True, np.bool_(True), 0, -1, np.int64(-1), 1.5, float("nan"), float("inf"), "2", None])
def test_what_is_no_k_is_refused(name: str, k: object) -> None:
    with pytest.raises(ConfigError, match="a whole number"):
        TAKE_K[name](k)


def test_a_k_of_any_size_gives_all_there_is() -> None:
    everything = KNN.recommend("u1", k=10**30)
    assert everything.rows() == KNN.recommend("u1", k=DATA.n_items).rows()
    assert KNN.similar(101, k=10**30).rows() == KNN.similar(101, k=DATA.n_items).rows()
    assert len(KNN.similar_users("u1", k=10**30)) < DATA.n_users


TAKE_USERS: dict[str, Callable[[Any], pl.DataFrame]] = {
    "recommend": lambda users: KNN.recommend(users, k=2),
    "recommend, pipeline": lambda users: PIPELINE.recommend(users, k=2),
    "similar_users": lambda users: KNN.similar_users(users, k=2),
    "ask_many": lambda users: ANSWERS.ask_many(users, 2),
}


@pytest.mark.parametrize("name", TAKE_USERS)
def test_users_in_whatever_holds_them(name: str) -> None:
    expected = TAKE_USERS[name](["u1"]).rows()
    assert expected
    for users in (
        "u1",
        ("u1",),
        np.array("u1"),
        np.array(["u1"]),
        np.str_("u1"),
        pl.Series(["u1"]),
        (u for u in ["u1"]),
    ):
        assert TAKE_USERS[name](users).rows() == expected, repr(users)


@pytest.mark.parametrize(
    "items",
    [101, np.int64(101), np.array(101), np.array([101]), (101,), pl.Series([101]), 101.0, "101", [np.int32(101)]],
)
def test_items_in_whatever_holds_them(items: Any) -> None:
    expected = KNN.similar([101], k=3).rows()
    assert KNN.similar(items, k=3).rows() == expected
    only = KNN.recommend("u1", k=3, allow=items, exclude_seen=False)["item"].to_list()
    assert only == [101]
    assert 101 not in KNN.recommend("u1", k=40, deny=items, exclude_seen=False)["item"].to_list()
    history = KNN.recommend(histories={"visitor": items}, k=3)
    assert history.rows() == KNN.recommend(histories={"visitor": [101]}, k=3).rows()
    np.testing.assert_array_equal(MEAN.predict("u1", items), MEAN.predict(["u1"], [101]))


def test_a_frames_ids_one_after_the_other() -> None:
    """As `for user in frame["user"].unique()` gives them: NumPy's numbers."""
    data = zy.read(pl.DataFrame({"user": [1, 1, 2, 2, 3], "item": [1, 2, 1, 3, 2]}))
    model = zy.ItemKNN().fit(data, RUN)
    for user in np.array([1, 2, 3]):
        assert model.recommend(user).rows() == model.recommend(int(user)).rows()
        assert model.recommend(float(user))["item"].to_list() == model.recommend(int(user))["item"].to_list()


def test_mixed_users_keep_their_names() -> None:
    for users in (["u1", 5], [5, "u1"]):
        assert sorted(set(KNN.recommend(users, k=1)["user"].to_list())) == ["5", "u1"]


@pytest.mark.parametrize("test", [1, 0, True, 1.0, float("nan"), -0.2, "many", np.float64(2), []])
@pytest.mark.parametrize("by", ["auto", "time", "ratio"])
def test_what_is_no_share_of_a_log_is_refused(by: str, test: Any) -> None:
    with pytest.raises(ConfigError):
        zy.split(DATA, by, test=test)


def test_a_share_is_a_number_of_any_type() -> None:
    for share in (np.float32(0.25), np.float64(0.25)):
        for by in ("auto", "time", "ratio"):
            assert zy.split(DATA, by, test=share).test.n_events == zy.split(DATA, by, test=0.25).test.n_events


NUMBERS = [
    (model, param)
    for model, known in hyperparameters().items()
    for param in known.values()
    if param.kind in ("int", "float")
]
WRONG = (float("inf"), -float("inf"), float("nan"), 10**400, -(10**400), True, "Infinity", "1e400", "NaN", [1], {})


@pytest.mark.parametrize(("model", "param"), NUMBERS, ids=lambda value: getattr(value, "name", value))
def test_a_number_that_is_none_is_refused_in_every_way_it_comes_in(model: str, param: Param) -> None:
    for value in WRONG + ((1.5,) if param.kind == "int" else ()):
        with pytest.raises(ConfigError, match=rf"{param.name} = (?s:.*)default"):
            make(model, {param.name: value})
        built = model_class(model)(**{param.name: value})
        with pytest.raises(ConfigError, match=rf"{param.name} = (?s:.*)default"):
            built.fit(DATA, RUN)
    for text in ("Infinity", "-Infinity", "NaN", "1e400", "9" * 5000, "true", "null", "many"):
        with pytest.raises(ConfigError, match=rf"{param.name} = (?s:.*)default"):
            parse(f"{model}:{param.name}={text}")


@pytest.mark.parametrize("model", ["ItemKNN", "ALS", "BPR", "Transitions", "Popular", "PureSVD", "EASE", "BiasedMF"])
def test_a_model_with_a_number_at_its_least(model: str) -> None:
    for name, param in hyperparameters()[model].items():
        if param.kind in ("int", "float") and param.at_least is not None:
            built = make(model, {name: (param.kind == "int" and int(param.at_least)) or param.at_least})
            lists = built.fit(DATA, RUN).recommend("u1", k=3)
            assert len(lists) == 3, name
            assert np.isfinite(lists["score"].to_numpy()).all(), name


def test_the_settings_file_and_the_tuner_refuse_them_too(tmp_path: Any) -> None:
    file = tmp_path / "zhiyin.toml"
    for value in ("inf", "nan", "1.5", "true", "-1", "1e400"):
        file.write_text(f'[data]\nsource = "x.csv"\n[models.als]\nfactors = {value}\n')
        settings = load_config(file)
        with pytest.raises(ConfigError, match="factors = "):
            parse("als", settings.models["als"])
    for trials in (0, True, 1.5, float("nan"), "3"):
        with pytest.raises(ConfigError, match="trials = "):
            zy.tune("als", DATA, trials=trials)  # type: ignore[arg-type]


def test_similarity_does_not_depend_on_how_a_sparse_table_is_written() -> None:
    """Entries of one cell that stand twice count as their sum."""
    from scipy import sparse

    from zhiyin.evaluation.beyond_accuracy import calibration, intra_list_diversity

    rng = np.random.default_rng(4)
    rows, columns = rng.integers(0, 6, 40), rng.integers(0, 4, 40)
    order = np.argsort(rows, kind="stable")
    indptr = np.searchsorted(rows[order], np.arange(7))
    twice = sparse.csr_matrix((np.ones(40, np.float32), columns[order], indptr), shape=(6, 4))
    summed = sparse.csr_matrix(twice.toarray())
    lists = np.array(list(itertools.permutations(range(6), 3)), dtype=np.int32)
    np.testing.assert_allclose(intra_list_diversity(lists, twice, RUN), intra_list_diversity(lists, summed, RUN))
    offsets, items = np.arange(len(lists) + 1) * 2, np.tile(np.array([0, 5], np.int32), len(lists))
    np.testing.assert_allclose(
        calibration(lists, offsets, items, twice, run=RUN), calibration(lists, offsets, items, summed, run=RUN)
    )
    dense = summed.toarray()
    unit = dense / np.linalg.norm(dense, axis=1, keepdims=True)
    cosines = unit @ unit.T
    naive = [1 - np.mean([cosines[a, b] for a, b in itertools.combinations(one, 2)]) for one in lists]
    np.testing.assert_allclose(intra_list_diversity(lists, twice, RUN), naive, atol=1e-6)


def test_histories_of_single_items() -> None:
    ids = DATA.item_ids
    assert Histories.from_items([101, [101], "101", np.int64(101)], ids).lengths.tolist() == [1, 1, 1, 1]
