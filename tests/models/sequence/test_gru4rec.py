"""GRU4Rec: the conformance suite; all three cells overfit, are causal and ignore padding."""

import dataclasses

import pytest

pytest.importorskip("torch")

from tests.models.sequence.test_sasrec import (
    LENGTH,
    assert_causal,
    assert_overfits,
    assert_padding_changes_nothing,
    fresh,
)
from zhiyin.models.sequence.gru4rec import GRU4Rec
from zhiyin.testing.recommender import RecommenderConformance

CELLS = pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])


class TestGRU4Rec(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> GRU4Rec:
        return GRU4Rec(factors=8, epochs=3, max_len=10, layers=2, units=12, dropout=0.2)


@CELLS
def test_overfits(cell: str) -> None:
    assert_overfits(GRU4Rec(factors=32, max_len=LENGTH, cell=cell))


@pytest.mark.parametrize("loss", ["sampled_softmax", "bpr_max"])
def test_overfits_with_negatives_of_the_batch(loss: str) -> None:
    model = GRU4Rec(factors=32, max_len=LENGTH, units=48, loss=loss, negatives=64, popularity_power=0, score_reg=0)
    assert_overfits(model)


@CELLS
def test_causal(cell: str) -> None:
    assert_causal(GRU4Rec(factors=8, cell=cell, layers=2, units=12))


@CELLS
def test_padding_changes_nothing(cell: str) -> None:
    assert_padding_changes_nothing(GRU4Rec(factors=8, cell=cell, layers=2, units=12))


def test_projection_only_where_the_state_is_of_another_length() -> None:
    model = GRU4Rec(factors=8)
    assert not [name for name, _ in fresh(model).named_parameters() if "out" in name]
    wide = dataclasses.replace(model, units=12)
    assert dict(fresh(wide).named_parameters())["encoder.out.weight"].shape == (8, 12)
