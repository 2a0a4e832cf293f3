"""Decisions in traces: every number comes back with the bits that it had."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.pipeline.decision_record import DecisionInfo, decode_decision, encode_decision, without_large_arrays
from zhiyin.pipeline.policy_kinds import ONE_SLOT, make_policy, policy_class_name
from zhiyin.policies.action_sets import action_keys
from zhiyin.policies.lin_ts import LinTS
from zhiyin.store.traces import Trace, trace_of_row, trace_row

INFO = DecisionInfo("home", "LinTS", "online", 7, "", False, "abc", 12, "v1", "b")


def decision(with_features: bool = True) -> SimpleNamespace:
    rng = np.random.default_rng(3)
    pmfs = rng.dirichlet(np.ones(5), 2)
    chosen = np.array([4, 1], np.int16)
    propensities = pmfs[np.arange(2), chosen]
    return SimpleNamespace(
        keys=action_keys(["a", "b", "c", "d", "e"]), slots=np.array([0, 2], np.int16), chosen=chosen,
        greedy=np.array([0, 1], np.int16), baseline=np.array([-1, 1], np.int16), pmfs=pmfs, propensities=propensities,
        prefix_propensities=np.cumprod(propensities), target_propensities=None, target_pmfs=None,
        explored=True, expected_loss=0.1 + 0.2,
        features=rng.normal(size=(2, 3)).astype(np.float32) if with_features else None,
    )  # fmt: skip


@pytest.mark.parametrize("with_features", [True, False])
def test_a_decision_comes_back_from_the_store_bit_for_bit(with_features: bool) -> None:
    made = decision(with_features)
    part, arrays = encode_decision(made, INFO)
    row = trace_row(Trace("l1", "u1", 1, 1, "home", {"items": ["e", "pinned", "b"]} | part, arrays))
    trace = trace_of_row(row.values())
    record = decode_decision(trace.head, trace.arrays)
    assert record is not None
    assert record.info == INFO
    assert record.items == ("e", "b")
    assert record.loss == made.expected_loss
    assert record.explored
    assert record.keys is not None
    assert record.pmfs is not None
    assert record.chosen_keys().tolist() == record.keys[record.chosen].tolist()
    assert record.propensities.tobytes() == record.pmfs[np.arange(2), record.chosen].tobytes()
    for name in ("keys", "slots", "chosen", "greedy", "baseline", "pmfs", "propensities"):
        assert getattr(record, name).tobytes() == getattr(made, name).tobytes(), name
    assert record.prefix.tobytes() == made.prefix_propensities.tobytes()
    assert (record.features is None) == (made.features is None)


def test_without_room_what_is_learned_from_stays() -> None:
    part, arrays = encode_decision(decision(), dataclasses.replace(INFO, arm=""))
    assert "arm" not in part["decision"]
    record = decode_decision({"items": ["e", "x", "b"]} | part, without_large_arrays(arrays))
    assert record is not None
    assert record.pmfs is None
    assert record.keys is None
    assert record.chosen_keys().tolist() == action_keys(["e", "b"]).tolist()
    assert record.features is not None


def test_a_list_without_a_policy_has_no_decision() -> None:
    assert decode_decision({"items": []}, {}) is None


def test_policies_by_name() -> None:
    for name in ("lin_ts", "LinTS", "lints", "lin-ts"):
        assert policy_class_name(name) == "LinTS"
    policy = make_policy("lin_ts", {"draws": 30})
    assert isinstance(policy, LinTS)
    assert policy.draws == 30
    assert make_policy(ONE_SLOT, {}) is None
    with pytest.raises(ConfigError) as unknown:
        make_policy("lin_tss", {})
    assert "LinTS" in str(unknown.value)
    with pytest.raises(ConfigError) as setting:
        make_policy("lin_ts", {"drawz": 30})
    assert "draws" in str(setting.value)
    with pytest.raises(ConfigError, match="out of range"):
        make_policy("lin_ts", {"draws": 0})
    with pytest.raises(ConfigError, match="no hyperparameter"):
        make_policy(ONE_SLOT, {"draws": 3})
