"""SASRec: the conformance suite."""

import pytest

pytest.importorskip("torch")

from tests.conformance.recommender import RecommenderConformance
from zhiyin.models.sequence.sasrec import SASRec


class TestSASRec(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> SASRec:
        return SASRec(factors=8, epochs=3, max_len=10, heads=2, dropout=0.2)
