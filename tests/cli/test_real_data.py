"""What a newcomer types first, on real data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command


@pytest.mark.slow
@pytest.mark.parametrize("name", ["movielens-100k", "goodbooks"])
def test_init_train_evaluate(zhiyin: Command, real_data: Callable[[str], Path], name: str) -> None:
    zhiyin("init", str(real_data(name)))
    trained = zhiyin("train").stderr
    judged = zhiyin("evaluate").stderr
    models = {model["name"]: model for model in json.loads(Path("evaluation.json").read_text())["models"]}
    bar = models["Popular"]["intervals"]["ndcg@10"][1]
    assert models["EASE"]["intervals"]["ndcg@10"][0] > bar
    assert models["ALS"]["intervals"]["ndcg@10"][0] > bar
    assert Path("models/ease/model.json").exists()
    if name == "goodbooks":
        assert "the log has no times" in trained
        assert "split: ratio, because the log has no times" in judged
        assert "leaking-columns" in judged
        assert "average_rating" in judged
