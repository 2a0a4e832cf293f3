"""Models by name: what may be asked for, and what is said when it is not there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.core.params import param
from zhiyin.core.registry import label, specification
from zhiyin.models import registry
from zhiyin.models.als import ALS
from zhiyin.models.recommender import Recommender


def test_every_known_name_is_a_model_of_that_name() -> None:
    for name in registry.names():
        assert registry.model_class(name.lower()).__name__ == name


def test_text() -> None:
    assert registry.parse("als: factors=16, reg=1e-2") == ALS(factors=16, reg=0.01)
    assert registry.parse("als:factors=16", {"factors": 8, "epochs": 3}) == ALS(factors=16, epochs=3)
    with pytest.raises(ConfigError, match="no model 'ItemKNM'") as raised:
        registry.parse("ItemKNM")
    assert "did you mean 'ItemKNN'" in str(raised.value)
    with pytest.raises(ConfigError, match="cannot read 'factors'"):
        registry.parse("als:factors")
    with pytest.raises(ConfigError, match="whole number"):
        registry.parse("als:factors=1.5")


def test_label_says_what_is_not_the_default() -> None:
    assert label(ALS()) == "ALS"
    assert label(ALS(factors=128)) == "ALS(factors=128)"


def test_what_is_written_can_be_read() -> None:
    several = registry.make("Pipeline", {"sources": "als:factors=8,reg=1; ease", "ranker": "none"})
    for model in (ALS(factors=128, reg=0.5), several):
        assert registry.parse(specification(model)) == model


def test_a_model_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.MODEL_REGISTRY, "_registered", {})

    @registry.register
    @dataclasses.dataclass
    class Constant(Recommender):
        value: float = param(1.0, "what every item scores")

        def _score(self, histories, run):  # type: ignore[no-untyped-def]
            return np.full((len(histories), 1), self.value, dtype=np.float32)

    assert registry.parse("constant:value=2").value == 2.0  # type: ignore[attr-defined]


def test_hyperparameters_without_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch the settings file is written all the same, without the networks."""
    from zhiyin.core.errors import MissingExtraError

    real = registry.model_class
    networks = {"SASRec", "HSTU", "GRU4Rec", "NARM", "Caser", "NeuMF", "MultVAE", "LightGCN", "UltraGCN", "TwoTower"}

    def bare(name: str) -> type:
        if name in networks:
            raise MissingExtraError("torch", "deep", name)
        return real(name)

    monkeypatch.setattr(registry.MODEL_REGISTRY, "class_of", bare)
    found = registry.hyperparameters()
    assert {"ALS", "EASE", "Content", "Hybrid"} <= set(found)
    assert not set(found) & networks
    assert found["ALS"]["factors"].default == 64
