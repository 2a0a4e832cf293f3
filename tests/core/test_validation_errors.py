"""Plain words for what pydantic says of a value: the path, the message and the nearest name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from zhiyin.api.experiment_settings import ExperimentSettings
from zhiyin.api.requests import PlacementSettings
from zhiyin.core.validation_errors import FieldError, first_field_error


def error_of(model: type[BaseModel], value: Any) -> FieldError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    return first_field_error(caught.value, model)


@pytest.mark.parametrize(
    ("value", "field", "message", "remedy"),
    [
        ({"polcy": {"kind": "lin_ts"}}, "polcy", "there is no such key", "did you mean 'policy'?"),
        ({"policy": {"kind": "lin_ts", "mode": "onlin"}}, "policy.mode", "'onlin' is none of",
         "did you mean 'online'?"),
        ({"policy": {"kind": "lin_ts", "exploration": {"shar": 0.1}}}, "policy.exploration.shar",
         "there is no such key", "did you mean 'share'?"),
        ({"policy": {"kind": "lin_ts", "exploration": {"share": 1.5}}}, "policy.exploration.share",
         "it should be less than or equal to 1", ""),
        ({"policy": {"kind": "lin_ts", "rewards": {"click": {"rewad": 1}}}}, "policy.rewards.click.rewad",
         "there is no such key", "did you mean 'reward'?"),
        ({"policy": {"kind": "lin_ts", "rewards": {"": 1}}}, "policy.rewards.", "at least 1 character", ""),
        ({"policy": {"kind": "lin_ts", "rewards": {"click": "1"}}}, "policy.rewards.click", "it should be", ""),
        ({"policy": {"kind": "lin_ts", "exploration": {"slot_shares": {"0": 0.1}}}},
         "policy.exploration.slot_shares.0", "a slot is a whole number", ""),
        ({"policy": {"mode": "online"}}, "policy.kind", "it is missing", ""),
        ({"policy": "lin_ts"}, "policy", "it should be an object", ""),
        ({"boosts": [{"whn": "a = 1"}]}, "boosts.0.whn", "there is no such key", "did you mean 'when'?"),
        ({"explore": 0.1, "policy": {"kind": "lin_ts"}}, "", "explore and policy are given", ""),
        ("text", "", "it should be an object", ""),
    ],
)  # fmt: skip
def test_placements(value: Any, field: str, message: str, remedy: str) -> None:
    error = error_of(PlacementSettings, value)
    assert error.field == field
    assert message in error.message
    assert remedy in error.remedy
    assert bool(remedy) == bool(error.remedy) or "known: " in error.remedy
    assert "Input" not in str(error)
    assert not str(error).startswith(":")


def test_alternatives_within_tables() -> None:
    arms = {"a": {}, "b": {"placment": "home"}}
    assert error_of(ExperimentSettings, {"arms": arms}).remedy == "did you mean 'placement'?"
    error = error_of(ExperimentSettings, {"arms": {"a": {}, "b": {}}, "metrics": {"m": {"events": {"click": "worth"}}}})
    assert error.field == "metrics.m.events.click"
