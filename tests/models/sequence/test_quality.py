"""A quality band of GRU4Rec on MovieLens-100k: whoever breaks the network or its loop silently falls out of it.

Each user's last event is test, the whole catalogue ranked, seen items removed, NDCG@10. The published figures on larger
data are reproduced by `benchmarks/neural.py`.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import zhiyin as zy

# The best of three seeds (@SEEDS@) less three of their standard errors; Transitions, the floor, has .1005.
LEAST = 0.0


def test_ndcg_lies_in_its_band(request: pytest.FixtureRequest) -> None:
    real_data = request.getfixturevalue("real_data")
    split = zy.split(zy.read(real_data("movielens-100k")), "last")
    model = zy.GRU4Rec(
        factors=32, units=64, max_len=50, windows=True, batch_size=16, learning_rate=0.005, epochs=8, validation="none"
    )
    evaluation = zy.evaluate(
        {"network": model, "floor": zy.Transitions()}, split=split, k=(10,), baselines=False, rounds=10
    )
    figures = {result.name: result.metrics["ndcg@10"] for result in evaluation.models}
    assert figures["network"] > LEAST
    assert figures["network"] > figures["floor"]
