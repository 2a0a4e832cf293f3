"""Conformance suites that a model, ranker or policy inherits as its test; they need pytest.

    from zhiyin.testing import RecommenderConformance

    class TestMyModel(RecommenderConformance):
        def make(self):
            return MyModel(factors=8)

A model outside the package is registered first: `zhiyin.models.registry.register`.
"""

from __future__ import annotations

import pytest

# Before the suites are imported, so that a failed assertion shows its values.
pytest.register_assert_rewrite("zhiyin.testing.recommender", "zhiyin.testing.ranker", "zhiyin.testing.policy")

from zhiyin.testing.policy import PolicyConformance  # noqa: E402
from zhiyin.testing.ranker import RankerConformance  # noqa: E402
from zhiyin.testing.recommender import RecommenderConformance  # noqa: E402

__all__ = ["PolicyConformance", "RankerConformance", "RecommenderConformance"]
