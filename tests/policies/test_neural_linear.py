"""Neural-linear: a linear posterior on a network's last layer learns what one on plain numbers cannot."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.run import Run
from zhiyin.policies.action_sets import ActionSets, Outcomes
from zhiyin.policies.lin_ts import LinTS
from zhiyin.policies.neural_linear import refit
from zhiyin.ranking.registry import parse
from zhiyin.testing.ranker import auc, planted

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def encoders():
    examples, labels, _ = planted(1, 300)
    text = "deepfm:epochs=6,learning_rate=0.01,batch_size=256,hidden=16"
    return [parse(text).fit(examples, labels, run=Run(seed=seed, threads=2)) for seed in (1, 2)]


@pytest.mark.parametrize("text", ["deepfm:hidden=8", "dcnv2:hidden=8", "din:hidden=8", "multitask:hidden=16"])
def test_the_representation_holds_the_last_hidden_units(text):
    examples, labels, _ = planted(2, 30)
    both = np.stack([labels, labels], axis=1)
    ranker = parse(f"{text},epochs=1").fit(examples, both if "multi" in text else labels, run=Run(seed=1))
    features = ranker.representation(examples)
    assert features.dtype == np.float32
    assert len(features) == len(examples)
    assert (features[:, -1] == 1).all()
    assert features.std(axis=0)[:-1].max() > 0
    assert np.isfinite(features).all()


def test_a_network_without_a_last_layer_is_refused():
    examples, labels, _ = planted(2, 30)
    ranker = parse("fm:epochs=1").fit(examples, labels)
    with pytest.raises(ConfigError, match="FM has no last layer"):
        ranker.representation(examples)


def plain_numbers(examples):
    return np.column_stack([np.nan_to_num(examples.numbers), np.ones(len(examples))]).astype(np.float64)


def test_it_learns_what_plain_numbers_do_not_hold(encoders):
    log, rewards, _ = planted(3, 300)
    fresh, labels, _ = planted(4, 200)
    keys = log.items.astype(np.int64)
    neural = refit(LinTS(), encoders[0], [(log, keys, rewards)])
    plain = LinTS()
    plain.update(Outcomes(keys, rewards, plain_numbers(log)))
    by_network = auc(labels, neural.posterior.expected(encoders[0].representation(fresh).astype(np.float64)))
    by_numbers = auc(
        labels, plain.posterior.expected(np.column_stack([np.nan_to_num(fresh.numbers), np.ones(len(fresh))]))
    )
    assert by_network > by_numbers + 0.05


def test_a_new_network_makes_the_posterior_anew(encoders):
    log, rewards, _ = planted(3, 100)
    keys = log.items.astype(np.int64)
    old = refit(LinTS(draws=7), encoders[0], [(log, keys, rewards)])
    new = refit(old, encoders[1], [(log, keys, rewards)])
    assert new.draws == 7
    assert new.n_updates == old.n_updates == len(log)
    assert not np.allclose(new.posterior.precision, old.posterior.precision)
    with pytest.raises(DataError, match="features where the policy has learned with"):
        new.choose(ActionSets.single([1], np.ones((1, 2))))
