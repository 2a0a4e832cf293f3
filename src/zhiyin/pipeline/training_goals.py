"""Training goals: what a version may be trained for, what each goal needs of the data, and how it is trained.

`[train] goal` or `zhiyin train --goal` names one. Whatever the goal, the result is a version: it is judged by the gate
on the last events, saved, and put in use where it passes. Retraining beside the service reads the same key.
"""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import Any

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.pipeline.training import TrainedVersion

DEFAULT_GOAL = "ranking"
# Time budget of a training for another goal than ranking, where none is named.
DEFAULT_BUDGET = "2m"


@dataclasses.dataclass(frozen=True)
class TrainingGoal:
    """A goal that versions are trained for.

    Parameters
    ----------
    name: as `[train] goal` has it.
    needs: what it needs of the data, in words.
    metric: what its versions are compared by.
    trainer: "module:function" of the function that `train` calls; imported by the first call.
    """

    name: str
    needs: str
    metric: str
    trainer: str

    def train(self, *args: Any, **options: Any) -> TrainedVersion:
        """Train a version within a budget, and let the gate judge it.

        Takes what `training.train_version` takes: data, bundles, seconds, and its options; and `settings`, the [train]
        section of the settings.
        """
        module, _, function = self.trainer.partition(":")
        trained: TrainedVersion = getattr(import_module(module), function)(*args, **options)
        return trained


GOALS: dict[str, TrainingGoal] = {
    goal.name: goal
    for goal in (
        TrainingGoal(
            "ranking",
            "events of users with items",
            "ndcg@10",
            "zhiyin.pipeline.training:train_version",
        ),
        TrainingGoal(
            "rating",
            "ratings: a value of each event, such as stars",
            "rmse",
            "zhiyin.pipeline.rating_training:train_rating_version",
        ),
        TrainingGoal(
            "ctr",
            "events that say what was displayed, and clicks",
            "log-loss",
            "zhiyin.pipeline.click_training:train_click_version",
        ),
        TrainingGoal(
            "cvr",
            "events that say what was displayed, clicks and purchases",
            "log-loss",
            "zhiyin.pipeline.click_training:train_purchase_version",
        ),
    )
}


def training_goal(name: str) -> TrainingGoal:
    """The goal of a name. Raises ConfigError for one that there is not."""
    if name not in GOALS:
        raise ConfigError(f"goal = {name!r} is not known", remedy=suggest(name, list(GOALS)))
    return GOALS[name]
