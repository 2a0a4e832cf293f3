"""Quality bands on MovieLens-100k: a model that is silently worse, or better than it can be, falls out of them.

Ratio split of seed 0 (20 % of each user's events), whole catalogue ranked, NDCG@10. The middle of each band was
measured; its half-width is far below what a wrong formula costs.
"""

from __future__ import annotations

import pytest

import zhiyin as zy
from zhiyin.models.registry import parse

BANDS = {
    "random": (0.0148, 0.0005),
    "popular": (0.2130, 0.0010),
    "itemknn": (0.3352, 0.0010),
    "itemknn:similarity=jaccard": (0.3264, 0.0010),
    "itemknn:similarity=tfidf": (0.3610, 0.0010),
    "itemknn:similarity=bm25": (0.3665, 0.0010),
    "transitions": (0.2040, 0.0010),
    "ease": (0.4459, 0.0010),
    "als": (0.4394, 0.0040),
}


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest) -> dict[str, float]:
    real_data = request.getfixturevalue("real_data")
    train, test = zy.split(zy.read(real_data("movielens-100k")), "ratio")
    models = {text: parse(text) for text in BANDS}
    evaluation = zy.evaluate(models, train, test, baselines=False, rounds=10)
    return {model.name: model.metrics["ndcg@10"] for model in evaluation.models}


@pytest.mark.slow
@pytest.mark.parametrize("text", BANDS)
def test_ndcg_lies_in_its_band(text: str, figures: dict[str, float]) -> None:
    middle, half = BANDS[text]
    assert figures[text] == pytest.approx(middle, abs=half)
