"""Blends: exact on small candidates, and chosen only where they are better."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.pipeline import blending
from zhiyin.ranking.examples import Candidates

NAN = float("nan")


def small() -> Candidates:
    """Two requests; source a names 0, 1, 2 and 3; source b names 2 and 0, and 4."""
    return Candidates(
        np.array([0, 3, 5]),
        np.array([0, 1, 2, 3, 4], np.int32),
        ("a", "b"),
        np.array([[9, 1], [8, NAN], [4, 3], [5, NAN], [NAN, 7]], np.float32),
        np.array([[0, 1], [1, -1], [2, 0], [0, -1], [-1, 0]], np.int32),
    )


def test_reciprocal_rank_fusion() -> None:
    fused = blending.scores_by("rrf", small())
    assert fused == pytest.approx([1 / 61 + 1 / 62, 1 / 62, 1 / 63 + 1 / 61, 1 / 61, 1 / 61])


def test_normalised_scores_run_from_almost_0_to_1() -> None:
    found = blending.signals(small())[:, :2]
    assert found[:3, 0] == pytest.approx([1, 0.8, 0], abs=1e-5)
    assert found[2, 0] > 0  # named last is still named
    assert found[1, 1] == 0
    assert (found[[3, 4], [0, 1]] > 0).all()  # alone in the request


def test_one_source_keeps_its_own_order_and_then_the_others() -> None:
    at = blending.order(small(), blending.scores_by("b", small()))
    assert at.tolist() == [2, 0, 1, 4, 3]


def test_weights_find_the_source_that_is_right() -> None:
    rng = np.random.default_rng(0)
    n, m = 200, 10
    truth = rng.integers(0, m, n)
    labels = np.zeros(n * m, np.float32)
    labels[np.arange(n) * m + truth] = 1
    good = rng.random((n, m))
    good[np.arange(n), truth] += 0.5
    scores = np.stack([rng.random((n, m)), good], axis=-1)
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)
    candidates = Candidates(
        np.arange(n + 1) * m, np.tile(np.arange(m, dtype=np.int32), n), ("noise", "good"),
        scores.reshape(-1, 2).astype(np.float32), ranks.reshape(-1, 2).astype(np.int32),
    )  # fmt: skip
    weights = blending.learn_weights(candidates, labels)
    assert (weights >= 0).all()
    assert weights[[1, 3]].sum() > 10 * weights[[0, 2]].sum()
    one = np.ones(n, np.int64)
    values = {
        name: blending.metric_values(candidates, blending.scores_by(name, candidates), labels, one, "ndcg@3")
        for name in ("noise", "good", "rrf")
    }
    joined = blending.weighted(candidates, np.tile(weights, (n, 1)))
    values["weighted"] = blending.metric_values(candidates, joined, labels, one, "ndcg@3")
    assert values["weighted"].mean() >= 0.98 * values["good"].mean() > values["rrf"].mean() > values["noise"].mean()


def test_judged_counts_what_no_source_named() -> None:
    labels = np.array([1, 0, 0, 0, 1], np.float32)
    found = blending.metric_values(small(), blending.scores_by("a", small()), labels, np.array([2, 1]), "recall@1")
    assert found.tolist() == [0.5, 0.0]


def test_a_blend_must_beat_the_best_single_source() -> None:
    values = {"a": np.array([0.2, 0.4]), "b": np.array([0.1, 0.3]), "rrf": np.array([0.2, 0.4])}
    kept = blending.choose("all", values, ["rrf"])
    assert kept.method == "a"
    assert "no blend beats a" in kept.why
    values["rrf"] = np.array([0.3, 0.4])
    assert blending.choose("all", values, ["rrf"]).method == "rrf"


def test_a_segment_leaves_the_common_choice_only_for_a_clear_gain() -> None:
    values = {"a": np.tile([0.0, 1.0, 0.0, 1.0], 20), "b": np.tile([1.0, 0.2, 0.0, 1.0], 20)}
    assert blending.choose("short", values, [], default="a").method == "a"
    clear = {"a": np.zeros(80), "b": np.tile([0.5, 0.6, 0.4, 0.5], 20)}
    assert blending.choose("short", clear, [], default="a").method == "b"
    few = {name: value[:40] for name, value in clear.items()}
    assert blending.choose("short", few, [], default="a").method == "a"
    assert blending.choose("short", {"a": np.zeros(0)}, [], default="a").method == "a"


def test_which_source_is_best_is_told_by_the_windows_before_too() -> None:
    """On the last windows "lucky" is the best of the sources by chance, and the blend is better than the truly best."""
    values = {"lucky": np.full(60, 0.5), "good": np.full(60, 0.4), "rrf": np.full(60, 0.45)}
    assert blending.choose("all", values, ["rrf"]).method == "lucky"
    earlier = {"lucky": np.full(200, 0.1), "good": np.full(200, 0.4)}
    assert blending.choose("all", values, ["rrf"], earlier=earlier).method == "rrf"
    values["rrf"] -= 0.1
    assert blending.choose("all", values, ["rrf"], earlier=earlier).method == "good"
