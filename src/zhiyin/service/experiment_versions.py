"""Versions of experiments as the store has them: reading, changing, stopping, and their form over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zhiyin.core.errors import ConfigError
from zhiyin.data.project_config import parse_usable, read_text
from zhiyin.pipeline.experiment_state import ExperimentVersion, Stop
from zhiyin.service.experiment_checks import UnknownExperimentError
from zhiyin.service.health_issues import HealthIssue
from zhiyin.store.store import Store

TABLE = "experiments"


def read_experiments(store: Store) -> tuple[dict[str, ExperimentVersion], dict[str, HealthIssue]]:
    """The newest version of each experiment of a store, and the issues of those that cannot be read; by name."""
    rows, _ = store.changes_since(TABLE)
    newest, unreadable = {}, {}
    for name, columns in rows.items():
        stored = None if columns is None else store.get(TABLE, name)
        if stored is None:
            continue
        try:
            newest[name] = ExperimentVersion.of_columns(name, *stored)
        except (ValidationError, KeyError, TypeError, ValueError):
            what, reason = f"experiment {name!r}", "its newest version cannot be read"
            unreadable[name] = HealthIssue(what, reason, f"PUT /v1/experiments/{name}")
    return newest, unreadable


def versions_of_experiments(store: str) -> list[int]:
    """Versions of the models that arms of running experiments name; of a store by its address."""
    with contextlib.closing(Store(store)) as opened:
        newest, _ = read_experiments(opened)
    return used_versions(version for version in newest.values() if version.is_running)


def used_versions(experiments: Iterable[ExperimentVersion]) -> list[int]:
    """Versions of the models that arms name which are not stopped."""
    arms = (arm for one in experiments for name, arm in one.settings.arms.items() if name not in one.state.stopped)
    return sorted({arm.version for arm in arms if arm.version is not None})


def experiment_tables(file: Path) -> tuple[dict[str, dict[str, Any]], dict[str, HealthIssue]]:
    """The tables `[experiments.NAME]` of a settings file by name, and the issues of what is no table."""
    try:
        config, errors = parse_usable(read_text(file), file)
    except ConfigError as error:
        what = f"[experiments] of {file.name}"
        reason = f"{error.message}: experiments stay as they are"
        return {}, {what: HealthIssue(what, reason, error.remedy or "mend it")}
    rejected: dict[str, HealthIssue] = {}
    for place, place_error in errors.items():
        if place[0] == TABLE:
            what = f"[{'.'.join(place)}]"
            rejected[what] = HealthIssue(what, "it is no table", f"{file.name}: {place_error.remedy}")
    return config.experiments, rejected


def change_experiment(
    store: Store, name: str, next_version: Callable[[ExperimentVersion | None], ExperimentVersion | None]
) -> int:
    """Write what `next_version` makes of an experiment's newest version, in a transaction without other writers.

    Returns the number of the newest version.
    """

    def combine(key: str, old: dict[str, Any] | None, new: Mapping[str, Any]) -> Mapping[str, Any]:
        version = next_version(None if old is None else ExperimentVersion.of_columns(key, old, 0))
        return (old or {}) if version is None else version.to_columns()

    return store.change(TABLE, {name: {}}, combine)[name]


def stopped_version(
    name: str, arm: str | None, reason: str, by: str, now: int
) -> Callable[[ExperimentVersion | None], ExperimentVersion | None]:
    """A change that stops an arm, or the experiment where none is named; one that is stopped already stays as it is.

    It raises UnknownExperimentError, and ConfigError for an arm that there is not, or the control.
    """

    def next_version(before: ExperimentVersion | None) -> ExperimentVersion | None:
        if before is None:
            raise UnknownExperimentError(f"there is no experiment {name!r}", remedy="zhiyin experiment list")
        state, settings = before.state, before.settings
        stop = Stop(now, reason)
        if arm is None:
            if state.ended is not None:
                return None
            return dataclasses.replace(before, state=dataclasses.replace(state, ended=stop), by=by, reason=reason)
        others = [one for one in settings.arms if one != settings.control]
        if arm not in others or settings.kind == "interleaving":
            raise UnknownExperimentError(f"experiment {name!r} has no arm {arm!r} that can be stopped", column="arm",
                                         remedy=f"one of {', '.join(others)}; without arm, all of it")  # fmt: skip
        if arm in state.stopped:
            return None
        stopped = {**state.stopped, arm: stop}
        return dataclasses.replace(before, state=dataclasses.replace(state, stopped=stopped), by=by, reason=reason)

    return next_version


def experiment_json(version: ExperimentVersion, issue: str = "") -> dict[str, Any]:
    """An experiment as the service tells it. issue: why it takes no part, though it runs; "" where it does."""
    return {
        "name": version.name,
        "version": version.number,
        "settings": version.settings.model_dump(exclude_defaults=True, mode="json"),
        "state": dataclasses.asdict(version.state),
        "running": version.is_running and not issue,
        "issue": issue,
        "by": version.by,
        "reason": version.reason,
    }


def version_json(number: int, columns: Mapping[str, Any] | None, when: int) -> dict[str, Any]:
    """A version of an experiment as the service tells it; `columns` None: it was deleted."""
    row: dict[str, Any] = {
        "version": number, "time": when, "by": None, "reason": None, "settings": None, "state": None,
    }  # fmt: skip
    if columns is None:
        return row
    try:
        version = ExperimentVersion.of_columns("", columns, number)
    except (ValidationError, KeyError, TypeError, ValueError):
        return row | {"reason": "it cannot be read"}
    full = experiment_json(version)
    return row | {name: full[name] for name in ("by", "reason", "settings", "state")}
