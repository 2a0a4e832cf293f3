"""Policies of placements by the names that settings give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.policies.policy import Policy
from zhiyin.policies.registry import make, names

# At most one slot of a list goes to a replacement, with the probability `share` of the exploration.
ONE_SLOT = "one_slot"


def policy_class_name(kind: str) -> str:
    """The name of a policy's class: "lin_ts", "lints" and "LinTS" are one; ONE_SLOT stays as it is.

    Raises ConfigError with the nearest name where there is none.

    >>> policy_class_name("lin_ts")
    'LinTS'
    """
    known = {_plain(name): name for name in [*names(), ONE_SLOT]}
    if _plain(kind) not in known:
        raise ConfigError(f"there is no policy {kind!r}", column="policy.kind", remedy=suggest(kind, [*known.values()]))
    return known[_plain(kind)]


def make_policy(kind: str, settings: Mapping[str, Any]) -> Policy | None:
    """A policy at its prior; None for ONE_SLOT, which learns nothing.

    Raises ConfigError for an unknown kind or hyperparameter, with the nearest name, and for a value out of its range.
    """
    name = policy_class_name(kind)
    if name != ONE_SLOT:
        return make(name, dict(settings))
    for setting in settings:
        raise ConfigError(
            f"{ONE_SLOT} has no hyperparameter {setting!r}", column="policy.settings", remedy="none: leave settings out"
        )
    return None


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()
