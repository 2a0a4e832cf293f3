"""The state of an experiment beside its settings: when it began, what was stopped, its weights and its looks.

The store has settings and state together as the columns of one version, so each change, whoever made it, is a version
of its own with its reason.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from zhiyin.api.experiment_settings import DESIGN_FIELDS, ExperimentSettings
from zhiyin.policies.experiments.assignment import Experiment


@dataclasses.dataclass(frozen=True)
class Stop:
    """When an arm or an experiment was stopped, microseconds UTC, and why."""

    time: int
    reason: str


@dataclasses.dataclass(frozen=True)
class ExperimentState:
    """See the module.

    Parameters
    ----------
    started: when the present design began, microseconds UTC; lists carry it, so that lists of an earlier design are not
        counted.
    stopped: arms whose units get the control's lists. ended: the experiment.
    weights: of the arms, where they were drawn again; None: those of the settings.
    epoch: how often they were; each epoch assigns anew. drawn: when last, microseconds UTC.
    looks: results at the planned looks, oldest first.
    """

    started: int
    stopped: Mapping[str, Stop] = dataclasses.field(default_factory=dict)
    ended: Stop | None = None
    weights: Mapping[str, float] | None = None
    epoch: int = 0
    drawn: int = 0
    looks: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class ExperimentVersion:
    """A version of an experiment.

    Parameters
    ----------
    number: 0: not stored yet. by: "file", "http", "command", "guardrail", "allocation" or "look".
    reason: of the change.
    """

    name: str
    settings: ExperimentSettings
    state: ExperimentState
    by: str = "http"
    reason: str = ""
    number: int = 0

    @property
    def is_running(self) -> bool:
        return self.settings.enabled and self.state.ended is None

    @property
    def assignment(self) -> Experiment:
        """Which unit gets which arm."""
        settings, state = self.settings, self.state
        weights = state.weights or {name: arm.weight for name, arm in settings.arms.items()}
        salt = settings.salt or self.name
        return Experiment(
            self.name, {name: weights[name] for name in settings.arms}, settings.layer,
            min(settings.share, 1 - settings.offset), settings.offset,
            salt if state.epoch == 0 else f"{salt}\0{state.epoch}",
        )  # fmt: skip

    def to_columns(self) -> dict[str, Any]:
        """Columns of the row that the store has of this version."""
        return {
            "settings": self.settings.model_dump_json(exclude_defaults=True),
            "state": json.dumps(dataclasses.asdict(self.state)),
            "by": self.by,
            "reason": self.reason,
        }

    @classmethod
    def of_columns(cls, name: str, columns: Mapping[str, Any], number: int) -> ExperimentVersion:
        """Raises ValidationError, KeyError, TypeError or ValueError where a row cannot be read."""
        settings = ExperimentSettings.model_validate_json(columns["settings"])
        state = json.loads(columns["state"])
        stopped = {arm: Stop(**stop) for arm, stop in state.pop("stopped").items()}
        ended, looks = state.pop("ended"), tuple(state.pop("looks"))
        ended = None if ended is None else Stop(**ended)
        state = ExperimentState(stopped=stopped, ended=ended, looks=looks, **state)
        return cls(name, settings, state, columns["by"], columns.get("reason", ""), number)


def begins_anew(before: ExperimentSettings, after: ExperimentSettings) -> bool:
    """Whether what was measured under one design says nothing of the other."""
    fields = set(DESIGN_FIELDS)
    same = before.model_dump(include=fields) == after.model_dump(include=fields)
    return not same or list(before.arms) != list(after.arms)
