"""The protocol: right figures where they can be worked out by hand, and no way for the test part into a model."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.ranking_metrics import RANKING
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.splits import folds, split
from zhiyin.evaluation.beyond_accuracy import BEYOND_ACCURACY
from zhiyin.evaluation.comparison_table import table_cells
from zhiyin.evaluation.model_evaluation import Window
from zhiyin.evaluation.protocol import evaluate
from zhiyin.evaluation.significance import bootstrap_interval, paired_tests
from zhiyin.models.linear import EASE
from zhiyin.models.popularity import Popular
from zhiyin.models.random import Random
from zhiyin.models.recommender import Recommender

DAY = 86_400_000_000
RUN = Run(seed=3, threads=2)


def log(rows: list[tuple[str, str, float, float]], items: pl.DataFrame | None = None) -> Dataset:
    """A data set of (user, item, day, weight)."""
    frame = pl.DataFrame(rows, schema=["user", "item", "day", "weight"], orient="row")
    time = (pl.col("day") * DAY).cast(pl.Int64).alias("time")
    return Dataset.build(frame.select("user", "item", time, "weight"), items=items)


def big(n_users: int = 400, n_items: int = 60, days: int = 40, seed: int = 0) -> Dataset:
    """Users of two tastes, each of which likes half of the items."""
    rng = np.random.default_rng(seed)
    n = 12 * n_users
    user = rng.integers(n_users, size=n)
    item = rng.integers(n_items // 2, size=n) * 2 + user % 2
    day = rng.random(n) * days
    return log([(f"u{u}", f"i{i:02}", d, 1.0) for u, i, d in zip(user, item, day)])


@dataclasses.dataclass
class Oracle(Recommender):
    """Knows the test part because it was told outside of `fit`."""

    scores_empty_histories: ClassVar[bool] = True
    truth: Any = None

    def _fit(self, data: Dataset, run: Run) -> None:
        self.fits_ = 1

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        return self.truth[histories.users].toarray()


@dataclasses.dataclass
class Spy(Popular):
    """Keeps what it was fitted on in a list of its caller's."""

    seen: Any = None

    def _fit(self, data: Dataset, run: Run) -> None:
        self.seen.append(data)
        super()._fit(data, run)


def test_random_finds_k_of_the_candidates() -> None:
    part = split(big(), test="10d")
    result = evaluate([Random()], split=part, k=10, exclude_seen=False, run=RUN)
    values = result.per_user["Random"]["recall@10"]
    expected = 10 / part.train.candidates.sum()
    assert abs(values.mean() - expected) < 3 * values.std() / math.sqrt(len(values))


def test_a_perfect_model_scores_one() -> None:
    part = split(big(), test="10d")
    result = evaluate({"oracle": Oracle(part.test.matrix())}, split=part, k=(1, 10, 30), run=RUN, auc=True)
    oracle = result["oracle"].metrics
    assert result.best == "oracle"
    for metric in ("ndcg@1", "ndcg@10", "precision@1", "map@10", "mrr@10", "hit_rate@10", "recall@30", "auc"):
        assert oracle[metric] == pytest.approx(1.0)
    assert all(p < 0.001 for model in result.models if model.name != "oracle" for p in [model.p_values["ndcg@10"]])
    assert result["oracle"].p_values == {}


def tiny() -> Dataset:
    """Popularity a 3, b 2, c 1, d 1 before day 10. Test: see the comments."""
    return log(
        [
            ("u", "a", 1, 1.0),
            ("v", "a", 1, 1.0),
            ("w", "a", 1, 1.0),
            ("v", "b", 2, 1.0),
            ("w", "b", 2, 1.0),
            ("w", "c", 3, 1.0),
            ("x", "d", 3, 1.0),
            ("u", "b", 11, 1.0),  # u is shown b, c, d in this order or b, d, c: hit at 1
            ("u", "b", 12, 1.0),  # a repeat counts once
            ("u", "new", 12, 1.0),  # no candidate: a miss
            ("v", "a", 11, 1.0),  # seen: dropped, and v is not judged
            ("w", "c", 11, -1.0),  # a dislike is not relevant
            ("x", "b", 11, 1.0),  # x is shown a, b: hit at 2
            ("z", "b", 12, 1.0),  # a stranger: a, b: hit at 2
        ]
    )


def test_a_case_worked_out_by_hand() -> None:
    part = split(tiny(), test="4d")
    result = evaluate({"popular": Popular()}, split=part, k=2, main="recall@2", baselines=False, run=RUN)
    values = result.per_user["popular"]
    assert result.users.to_list() == ["u", "x", "z"]
    assert values["recall@2"].tolist() == [0.5, 1, 1]
    assert values["precision@2"].tolist() == [0.5, 0.5, 0.5]
    assert values["mrr@2"].tolist() == [1, 0.5, 0.5]
    second = 1 / math.log2(3)
    assert values["ndcg@2"] == pytest.approx([1 / (1 + second), second, second])
    assert result["popular"].metrics["recall@2"] == pytest.approx(2.5 / 3)
    assert values["serendipity@2"].tolist() == [0, 0, 0]
    text = " ".join(result.protocol)
    assert "3 users judged by 4 relevant items" in text
    assert "25.0% of the relevant items are no candidates" in text
    assert "1 relevant items that are in it do not count" in text
    assert "2 users of the test part have none" in text


def test_shown_histories_end_where_the_test_window_begins() -> None:
    part = split(tiny(), test="4d")
    window = Window.of(part)
    assert (window.histories.now == part.test.window[0]).all()
    assert (window.histories.times < part.test.window[0]).all()


def test_seen_items_can_be_judged() -> None:
    part = split(tiny(), test="4d")
    result = evaluate([Popular()], split=part, k=1, main="recall@1", exclude_seen=False, baselines=False, run=RUN)
    values = dict(zip(result.users, result.per_user["Popular"]["recall@1"]))
    assert values == {"u": 0, "v": 1, "x": 0, "z": 0}


def test_nothing_of_the_test_part_reaches_fit() -> None:
    seen: list[Dataset] = []
    part = split(big(), test="10d")
    model = Spy(seen=seen)
    evaluate({"spy": model}, split=part, k=5, run=RUN)
    assert [data.fingerprint for data in seen] == [part.train.fingerprint]
    assert seen[0].window[1] < part.test.window[0]
    assert not model.is_fitted


def test_a_model_fitted_on_everything_is_refused() -> None:
    data = big()
    train, test = split(data, test="10d")
    with pytest.raises(ConfigError, match="may have seen the test window"):
        evaluate({"leaky": EASE().fit(data, RUN)}, train, test, run=RUN)


def test_a_fitted_model_is_used_as_it_is() -> None:
    seen: list[Dataset] = []
    train, test = split(big(), test="10d")
    model = Spy(seen=seen).fit(train, RUN)
    result = evaluate({"spy": model}, train, test, k=5, run=RUN)
    assert len(seen) == 1
    assert math.isnan(result["spy"].fit_seconds)
    assert result["spy"].metrics["ndcg@5"] == result["Popular"].metrics["ndcg@5"]


def test_baselines_stand_beside_every_model_once() -> None:
    part = split(big(), test="10d")
    names = [model.name for model in evaluate({"mine": EASE()}, split=part, run=RUN).models]
    assert names == ["Random", "Popular", "Popular 7d", "mine"]
    short = split(big(days=10), test="2d")
    names = [model.name for model in evaluate({"pop": Popular(), "Random": EASE()}, split=short, run=RUN).models]
    assert names == ["Random (baseline)", "pop", "Random"]


def test_segments_part_the_users() -> None:
    part = split(big(), test="10d")
    result = evaluate([EASE()], split=part, run=RUN)
    ease = result["EASE"]
    users = [name for name in ease.segments if name.endswith("users")]
    assert sum(ease.segments[name]["users"] for name in users) == len(result.users)
    weighted = sum(ease.segments[name]["users"] * ease.segments[name]["ndcg@10"] for name in users)
    assert weighted / len(result.users) == pytest.approx(ease.metrics["ndcg@10"])
    assert set(ease.segments["head items"]) == {"users", "recall@10", "ndcg@10", "recall@20", "ndcg@20"}


@pytest.mark.slow
def test_folds_are_joined() -> None:
    data = big()
    parts = folds(data, 3, "7d")
    together = evaluate([EASE()], split=parts, k=10, run=RUN)
    alone = [evaluate([EASE()], split=part, k=10, run=RUN).per_user["EASE"]["ndcg@10"] for part in parts]
    assert together.per_user["EASE"]["ndcg@10"].tolist() == np.concatenate(alone).tolist()
    assert len(together.users) == sum(map(len, alone))
    with pytest.raises(ConfigError, match="other data"):
        evaluate([EASE().fit(parts[0].train, RUN)], split=parts, run=RUN)


def test_cold_users_are_shown_with_their_own_history() -> None:
    part = split(big(), by="cold-users", test=0.3)
    result = evaluate([EASE(reg=10.0)], split=part, run=RUN)
    assert result.best == "EASE(reg=10.0)"
    assert result["EASE(reg=10.0)"].metrics["ndcg@10"] > 1.5 * result["Popular"].metrics["ndcg@10"]


def test_same_seed_same_figures() -> None:
    part = split(big(), test="10d")
    one, two = (evaluate([EASE(), Random()], split=part, run=Run(seed=5, threads=t)) for t in (1, 2))
    for a, b in zip(one.models, two.models):
        assert a.metrics == pytest.approx(b.metrics, nan_ok=True)
        assert {m: ends[0] for m, ends in a.intervals.items()} == pytest.approx(
            {m: ends[0] for m, ends in b.intervals.items()}
        )
    assert one.frame().select("model", "segment", "metric").equals(two.frame().select("model", "segment", "metric"))


def test_categories_make_likeness() -> None:
    items = pl.DataFrame({"id": ["a", "b", "c", "d", "new"], "genres": ["x|y", "x|y", "z", None, "z"]})
    part = split(log(tiny_rows(), items), test="4d")
    result = evaluate([Popular()], split=part, k=2, main="recall@2", baselines=False, run=RUN)
    # x and z are shown a and b, of the same genres; u is shown b and c or b and d.
    assert result.per_user["Popular"]["diversity@2"][1:] == pytest.approx([0, 0], abs=1e-6)
    assert any("by their categories" in sentence for sentence in result.protocol)


def tiny_rows() -> list[tuple[str, str, float, float]]:
    data = tiny()
    events = data.events
    users, items = data.user_ids.decode(events["user"].to_numpy()), data.item_ids.decode(events["item"].to_numpy())
    return list(zip(users, items, (events["time"] / DAY).to_list(), events["weight"].to_list()))


def test_what_is_handed_out(tmp_path: Any) -> None:
    part = split(big(), test="10d")
    result = evaluate([EASE()], split=part, k=5, main="map@5", run=RUN, title="Shop: a test")
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert plain["best"] == result.best
    assert plain["models"][0]["name"] == "Random"
    frame = result.frame()
    assert frame.columns == ["model", "segment", "metric", "value", "low", "high", "p"]
    row = frame.row(
        by_predicate=(pl.col("model") == "EASE") & (pl.col("segment") == "all") & (pl.col("metric") == "map@5")
    )
    assert row[4] < row[3] < row[5]
    assert "EASE" in str(result)
    assert "Shop" in str(result)
    assert result.report(tmp_path / "report.html").stat().st_size > 1_000_000
    assert all(model.score_seconds_per_1000 >= 0 for model in result.models)
    assert all(model.peak_mb >= 0 for model in result.models)


def test_users_of_several_folds_are_one_user_to_intervals_and_tests() -> None:
    result = evaluate([EASE()], split=folds(big(120), 3, "5d"), k=5, main="ndcg@5", run=RUN)
    values = {name: figures["ndcg@5"] for name, figures in result.per_user.items()}
    users = result.users.to_numpy()
    assert len(np.unique(users)) < 0.6 * len(users)  # most are judged more than once
    model = result["EASE"]
    low, high = bootstrap_interval(values["EASE"][:, None], RUN, groups=users)
    assert model.intervals["ndcg@5"] == pytest.approx((low[0], high[0]))
    for name, p in paired_tests(values, result.best, users).items():
        assert result[name].p_values["ndcg@5"] == pytest.approx(p)
    assert any(f"{len(np.unique(users)):,} different users" in sentence for sentence in result.protocol)


def test_without_draws_there_are_no_intervals(tmp_path: Path) -> None:
    result = evaluate([EASE()], split=split(big(60), test="10d"), k=5, main="ndcg@5", rounds=0, run=RUN)
    assert all(model.intervals == {} for model in result.models)
    assert any("No intervals" in sentence for sentence in result.protocol)
    assert "±" not in str(result)
    page = result.report(tmp_path / "report.html").read_text()
    assert "()" not in page[: page.index("<script>")]


def test_more_than_there_is_ends_in_misses() -> None:
    part = split(tiny(), test="4d")
    result = evaluate([Popular()], split=part, k=50, main="recall@50", run=RUN)
    assert result.per_user["Popular"]["recall@50"].tolist() == [0.5, 1, 1]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"main": "ndgc@10"}, "no metric"),
        ({"main": "auc"}, "no metric"),
        ({"k": 0}, "a whole number of at least 1"),
        ({"k": ()}, "no length"),
        ({"split": []}, "no split"),
        ({"split": None}, "both needed"),
    ],
)
def test_wrong_questions_are_said(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate([Popular()], **{"split": split(tiny(), test="4d"), "run": RUN} | asked)


def test_parts_must_belong_together_and_hold_someone() -> None:
    train, test = split(tiny(), test="4d")
    with pytest.raises(ConfigError, match="do not share their codes"):
        evaluate([Popular()], train, big(), run=RUN)
    nobody = test.subset(test.events["weight"].to_numpy() < 0)
    with pytest.raises(DataError, match="nobody can be judged"):
        evaluate([Popular()], train, nobody, run=RUN)
    assert any("learn from the future" in said for said in evaluate([Popular()], test, train, run=RUN).warnings)


def test_notebooks_show_the_comparison_best_first_and_escaped() -> None:
    evil = "<script>alert(1)</script>"
    evaluation = evaluate({evil: EASE(reg=5.0)}, split=split(big(60, 20), test="5d"), rounds=0, run=RUN)
    page = evaluation._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert page.index(evaluation.best.replace("<", "&lt;").replace(">", "&gt;")) < page.index("Random")
    assert all(f"<th>{name}</th>" in page for name in ("model", "NDCG@10", "p", "Coverage@10", "peak MB"))


def test_a_metric_named_in_its_registry_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new metric is one function and one line of a registry: of ranked lists, of each user, of all lists together."""
    monkeypatch.setitem(RANKING, "first_hit", lambda hits, relevant, k: hits[:, 0].astype(float))
    monkeypatch.setitem(BEYOND_ACCURACY, "list_length", lambda of: (of.lists >= 0).sum(axis=1).astype(float))
    monkeypatch.setitem(BEYOND_ACCURACY, "distinct_items", lambda of: float(len(np.unique(of.lists[of.lists >= 0]))))
    part = split(tiny(), test="4d")
    result = evaluate({"popular": Popular()}, split=part, k=(1, 2), main="first_hit@2", baselines=False, run=RUN)
    assert result.per_user["popular"]["first_hit@2"].tolist() == [1, 0, 0]
    assert result.per_user["popular"]["list_length@2"].tolist() == [2, 2, 2]
    metrics = result["popular"].metrics
    assert metrics["first_hit@2"] == pytest.approx(1 / 3)
    assert [metrics["list_length@1"], metrics["list_length@2"]] == [1, 2]
    assert metrics["distinct_items@2"] == 3  # a and b, and c or d
    shown = set(result.frame()["metric"])
    assert {"first_hit@1", "list_length@2", "distinct_items@1"} <= shown
    assert "first hit@2" in table_cells(result)[0]
