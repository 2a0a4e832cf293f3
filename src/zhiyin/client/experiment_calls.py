"""Calls for experiments."""

from __future__ import annotations

from typing import Any

from zhiyin.api import endpoints
from zhiyin.client.api_call import Call, as_object, endpoint_call
from zhiyin.client.api_types import Columns


def list_experiments() -> Call[list[dict[str, Any]]]:
    """All experiments: {"name", "version", "settings", "state", "running", "issue", "by", "reason"} each."""
    return endpoint_call(endpoints.LIST_EXPERIMENTS, read=lambda body: list(body["experiments"]))


def get_experiment(name: str) -> Call[dict[str, Any]]:
    """One experiment."""
    return endpoint_call(endpoints.GET_EXPERIMENT, name, read=as_object)


def put_experiment(name: str, settings: Columns) -> Call[dict[str, Any]]:
    """Begin or change an experiment, as its next version."""
    return endpoint_call(endpoints.PUT_EXPERIMENT, name, read=as_object, body=settings)


def delete_experiment(name: str) -> Call[dict[str, Any]]:
    """Remove an experiment; its versions are kept."""
    return endpoint_call(endpoints.DELETE_EXPERIMENT, name, read=as_object)


def experiment_versions(name: str) -> Call[dict[str, Any]]:
    """All versions of an experiment, with who wrote each and why."""
    return endpoint_call(endpoints.EXPERIMENT_VERSIONS, name, read=as_object)


def experiment_results(name: str) -> Call[dict[str, Any]]:
    """What an experiment has shown so far: {"arms", "comparisons", "sample_ratio_ok", "interleaving", ...}."""
    return endpoint_call(endpoints.EXPERIMENT_RESULTS, name, read=as_object)


def stop_experiment(name: str, arm: str | None = None, reason: str = "") -> Call[dict[str, Any]]:
    """Stop an arm, whose units get the control's lists from then on; without an arm the experiment."""
    return endpoint_call(endpoints.STOP_EXPERIMENT, name, read=as_object, body={"arm": arm, "reason": reason})
