"""The settings of an experiment, as `[experiments.NAME]` of zhiyin.toml and PUT /v1/experiments/{name} have them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from zhiyin.api.requests import PLAIN, Body, Bool, Id, Number, Text, Version, _duration, _whole_number
from zhiyin.core.durations import SECOND, UNITS, pattern_of
from zhiyin.core.limits import MAX_KIND_CHARS

MAX_ARMS, MAX_METRICS, MAX_GUARDRAILS = 10, 20, 20
_WINDOW = pattern_of(SECOND, 30 * UNITS["d"])
Window = Annotated[str, _duration(_WINDOW, "from 1s to 30d"), Field(json_schema_extra={"pattern": _WINDOW})]
_PERIOD = pattern_of(SECOND, 365 * UNITS["d"])
Period = Annotated[str, _duration(_PERIOD, "from 1s to 365d"), Field(json_schema_extra={"pattern": _PERIOD})]
Kind = Annotated[str, Field(min_length=1, max_length=MAX_KIND_CHARS, json_schema_extra=PLAIN)]
_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=_NAME_PATTERN, max_length=64)]
# What the names of a table may be, which pydantic says of the values alone.
_NAMES: dict[str, Any] = {"propertyNames": {"pattern": _NAME_PATTERN, "maxLength": 64}, "additionalProperties": False}
_KINDS: dict[str, Any] = {"propertyNames": {"minLength": 1, "maxLength": MAX_KIND_CHARS, **PLAIN}}


class ArmSettings(Body):
    """An arm. What it does not name is as the experiment's placement has it.

    `weight`: share of the units, relative to the other arms. `placement`: whose settings its lists are made by.
    `version`: of the models. `policy`: settings of the placement's policy that are replaced: {"mode": "shadow"}.
    """

    weight: Annotated[Number, Field(gt=0, le=1_000_000)] = 1.0
    placement: Id | None = None
    version: Version | None = None
    policy: Annotated[dict[Name, Any], Field(max_length=30, json_schema_extra=_NAMES)] | None = None


class MetricSettings(Body):
    """A metric of the events that name a list, within its window.

    `events`: worth of an event by its kind; "value": the event's own value. `per`: "unit", the mean over units;
    "list" or "item", a ratio to the lists or to the items listed. `policy_rewards`: of a list that a policy decided,
    the rewards that it learns, in place of the events. `better`: the direction that is an improvement.
    `cuped`: take out what the unit's events of before the experiment explain; of users, and per unit alone.
    """

    events: Annotated[
        dict[Kind, Annotated[Number, Field(ge=-1_000_000, le=1_000_000)] | Literal["value"]],
        Field(min_length=1, max_length=50, json_schema_extra=_KINDS),
    ]
    policy_rewards: Bool = False
    per: Literal["unit", "list", "item"] = "unit"
    better: Literal["higher", "lower"] = "higher"
    cuped: Bool = False


class GuardrailSettings(Body):
    """An arm is stopped once its metric is surely worse than the control's by more than `margin`, a share of it."""

    metric: Name
    margin: Annotated[Number, Field(ge=0, le=1)] = 0.0


def default_metrics() -> dict[str, MetricSettings]:
    return {
        "click_rate": MetricSettings(events={"click": 1.0}, per="list"),
        "reward": MetricSettings(events={"click": 1.0, "purchase": 5.0}, policy_rewards=True),
        "purchases": MetricSettings(events={"purchase": 1.0}, cuped=True),
    }


class ExperimentSettings(Body):
    """An experiment: arms that lists of a placement are made by, and what is measured. The first arm is the control.

    `kind`: "ab" gives each unit one arm; "interleaving" mixes the lists of two placements into one.
    `layer`, `share`, `offset`: experiments of a layer lie side by side on its units, each on a share of them that
    begins at its offset and ends with the layer; layers are independent.
    `salt`: of the assignment, by default the name. `window`: how long after a list its events count.
    `planned_units`: units of all arms at which intervals are narrowest. `looks`: number of looks at the results that
    are planned beforehand, at equal numbers of units; 0: any number. `allocation`: "thompson" draws the weights again
    every `redraw`; no arm gets less than `floor`. `covariate`: length of the time before the experiment that CUPED
    reads. `enabled`: whether units are assigned.
    """

    kind: Literal["ab", "interleaving"] = "ab"
    placement: Id = "default"
    arms: Annotated[dict[Name, ArmSettings], Field(min_length=2, max_length=MAX_ARMS, json_schema_extra=_NAMES)]
    unit: Literal["user", "session", "list"] = "user"
    layer: Id = "default"
    salt: Annotated[Text, Field(max_length=100)] = ""
    share: Annotated[Number, Field(gt=0, le=1)] = 1.0
    offset: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    metrics: Annotated[
        dict[Name, MetricSettings], Field(min_length=1, max_length=MAX_METRICS, json_schema_extra=_NAMES)
    ] = Field(default_factory=default_metrics)
    guardrails: Annotated[list[GuardrailSettings], Field(fail_fast=True, max_length=MAX_GUARDRAILS)] = Field(
        default_factory=list
    )
    window: Window = "10m"
    covariate: Period = "14d"
    level: Annotated[Number, Field(ge=0.5, le=0.999)] = 0.95
    planned_units: Annotated[int, Field(ge=10, le=1_000_000_000), BeforeValidator(_whole_number)] = 10_000
    looks: Annotated[int, Field(ge=0, le=20), BeforeValidator(_whole_number)] = 0
    boundary: Literal["obrien_fleming", "pocock"] = "obrien_fleming"
    allocation: Literal["fixed", "thompson"] = "fixed"
    redraw: Period = "1h"
    floor: Annotated[Number, Field(gt=0, le=0.5)] = 0.05
    enabled: Bool = True

    @property
    def control(self) -> str:
        """Name of the first arm."""
        return next(iter(self.arms))


# What the assignment and the lists depend on: a change of these begins the experiment anew.
DESIGN_FIELDS = (
    "kind", "placement", "arms", "unit", "layer", "salt", "share", "offset", "window", "allocation", "floor",
)  # fmt: skip


class StopRequest(Body):
    """Stop an arm, whose units get the control's lists from then on; or, without `arm`, the experiment."""

    arm: Name | None = None
    reason: Annotated[Text, Field(max_length=500)] = ""
