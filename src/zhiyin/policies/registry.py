"""Policies by name: the registry of the classes of `zhiyin.policies.POLICIES` and of those the caller registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhiyin.core.registry import Registry
from zhiyin.policies import POLICIES

if TYPE_CHECKING:
    from zhiyin.policies.policy import Policy

POLICY_REGISTRY: Registry[Policy] = Registry("policy", POLICIES, example="lints:floor=0.05")

register, names, policy_class = POLICY_REGISTRY.register, POLICY_REGISTRY.names, POLICY_REGISTRY.class_of
make, parse, hyperparameters = POLICY_REGISTRY.make, POLICY_REGISTRY.parse, POLICY_REGISTRY.hyperparameters
