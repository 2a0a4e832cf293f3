"""What settings of an experiment may say, beside their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from zhiyin.api.experiment_settings import ExperimentSettings
from zhiyin.api.requests import PlacementSettings, PolicySettings
from zhiyin.core.errors import ConfigError
from zhiyin.core.validation_errors import first_field_error

# Settings of a placement's policy that an arm may have otherwise: those that change nothing of what it learns.
ARM_POLICY_SETTINGS = ("mode", "shortlist", "exploration", "randomisation", "margin", "control")


class UnknownExperimentError(ConfigError):
    """An experiment that does not exist."""


class TooManyExperimentsError(ConfigError):
    """There are `MAX_EXPERIMENTS` experiments already."""


class ExperimentConflictError(ConfigError):
    """Settings of an experiment that contradict each other, or another experiment."""


def with_policy_settings(setting: PlacementSettings, policy: Mapping[str, Any] | None) -> PlacementSettings:
    """Settings of a placement with other settings of its policy, as an arm has them; None: as they are.

    Raises ConfigError where the placement has no policy, or the settings are none of it.
    """
    if policy is None:
        return setting
    if setting.policy is None:
        raise ConfigError("the placement has no policy", remedy="give the placement a policy, or the arm a placement")
    learned = [name for name in policy if name in PolicySettings.model_fields and name not in ARM_POLICY_SETTINGS]
    if learned:
        raise ConfigError(f"{learned[0]}: what the policy learns is shared by all arms",
                          remedy=f"{', '.join(ARM_POLICY_SETTINGS)}; or give the arm a placement")  # fmt: skip
    try:
        merged = PolicySettings.model_validate(setting.policy.model_dump(exclude_unset=True) | dict(policy))
    except ValidationError as error:
        first = first_field_error(error, PolicySettings)
        raise ConfigError(str(first), column=first.field or None, remedy=first.remedy or None) from None
    return setting.model_copy(update={"policy": merged})


def check_settings_agree(name: str, settings: ExperimentSettings) -> None:
    """Raises ExperimentConflictError for settings that contradict each other."""
    metrics, arms = settings.metrics, settings.arms
    wrong: list[tuple[str, str, str]] = [
        (f"guardrails.{n}.metric", f"there is no metric {rail.metric!r}", f"one of {', '.join(metrics)}")
        for n, rail in enumerate(settings.guardrails)
        if rail.metric not in metrics
    ]
    wrong += [
        (f"metrics.{metric_name}.cuped", "cuped is for metrics per unit, of users",
         'per = "unit" and unit = "user", or leave cuped out')
        for metric_name, metric in metrics.items()
        if metric.cuped and "metrics" in settings.model_fields_set and (metric.per != "unit" or settings.unit != "user")
    ]  # fmt: skip
    if settings.allocation == "thompson" and settings.looks:
        wrong.append(("looks", "weights that are drawn again go without planned looks", "leave looks out"))
    if settings.kind == "interleaving":
        placements = {arm.placement or settings.placement for arm in arms.values()}
        if len(arms) != 2 or len(placements) != 2:
            wrong.append(("arms", "an interleaving compares two placements", "two arms, each with another placement"))
        if any(arm.version is not None or arm.policy is not None for arm in arms.values()):
            wrong.append(("arms", "the arms of an interleaving are placements", "leave version and policy out"))
        if settings.guardrails or settings.looks or settings.allocation != "fixed":
            remedy = "leave guardrails, looks and allocation out"
            wrong.append(("kind", "an interleaving has no arms that could be stopped or weighed", remedy))
    for column, message, remedy in wrong:
        raise ExperimentConflictError(f"experiment {name!r}: {column}: {message}", column=column, remedy=remedy)


def changed_fields(settings: ExperimentSettings) -> set[str]:
    """What the arms say otherwise than the placement."""
    if settings.kind == "interleaving":
        return {"placement", "version", "policy"}
    fields = ("placement", "version", "policy")
    changed = {name for arm in settings.arms.values() for name in fields if getattr(arm, name) is not None}
    return changed | ({"policy"} if "placement" in changed else set())
