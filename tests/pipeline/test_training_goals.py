"""Goals of training: which there are, and that one that is not known is refused with the names."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.data.histories import Histories
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.training_goals import GOALS, training_goal


def test_ranking_is_a_goal_and_an_unknown_one_is_refused() -> None:
    assert training_goal("ranking").metric == "ndcg@10"
    assert all(goal.name == name for name, goal in GOALS.items())
    with pytest.raises(ConfigError, match="clicks"):
        training_goal("clicks")


def test_a_version_for_rankings_refuses_probabilities() -> None:
    nobody = Histories.of(np.zeros(2, np.int64), np.zeros(0, np.int32))
    with pytest.raises(ConfigError) as error:
        Pipeline().probabilities(nobody, np.array([0, 1]), np.array([0]))
    assert "zhiyin train --goal ctr" in str(error.value)
