"""NARM: the conformance suite, and what its attention must and must not see."""

import pytest

pytest.importorskip("torch")

from tests.models.sequence.test_sasrec import LENGTH, assert_causal, assert_overfits, assert_padding_changes_nothing
from zhiyin.models.sequence.narm import NARM
from zhiyin.testing.recommender import RecommenderConformance


class TestNARM(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> NARM:
        return NARM(factors=8, epochs=3, max_len=10)


def test_overfits() -> None:
    assert_overfits(NARM(factors=32, max_len=LENGTH))


def test_causal() -> None:
    assert_causal(NARM(factors=8))


def test_padding() -> None:
    assert_padding_changes_nothing(NARM(factors=8))


def test_validation_keeps_what_sessions_repeat() -> None:
    assert not NARM._excludes_seen
