"""Inspection of a project without a running service: the health issues that its service would report."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import log
from zhiyin.data.project_config import store_address, streams_address
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service.experiments import Experiments
from zhiyin.service.health_issues import MAX_LISTED_ISSUES, HealthIssue
from zhiyin.service.key_cache import Keys
from zhiyin.service.placements import Placements, placements_of
from zhiyin.service.serving_issues import invalid_column, invalid_users, unreadable_changes
from zhiyin.service.serving_state import ServingState
from zhiyin.service.settings import Settings, read_settings
from zhiyin.service.stream_reading import StreamReader
from zhiyin.service.tenant import stream_reader
from zhiyin.store.store import Store


def inspect_project(config: Path, address: str | None = None) -> list[HealthIssue]:
    """The health issues that the service of a settings file would report, with the ids and names of the store's rows.

    For operators of the store: unlike /ready the result names ids. Nothing is written and no key is made.

    Parameters
    ----------
    address: address of the store; None: as the settings say.
    """
    try:
        settings = read_settings(config)
        address = address or store_address(settings.config, config.parent)
    except ConfigError as error:  # a service could not start
        where = "" if error.row is None else f"line {error.row}: "
        return [HealthIssue(config.name, where + error.message, error.remedy or "mend it")]
    path = address.removeprefix("sqlite:///")
    if "://" not in path and not Path(path).is_file():
        return list(settings.health_issues)
    with _silent_log():
        return [*settings.health_issues, *_store_issues(settings, address)]


def _store_issues(settings: Settings, address: str) -> list[HealthIssue]:
    home = settings.file.parent
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(Store(address)))
        live = stack.enter_context(contextlib.closing(ServingState(
            Bundles(home / settings.config.train.output / "bundles"), store, settings.answer_settings,
            settings.config.weights, types=settings.config.schema.types, streams=_existing_streams(settings, store),
            watch=False,
        )))  # fmt: skip
        view = live.serving
        placements = Placements(store, None, None if view is None else view.answers)
        keys, _ = Keys.open(store, None, first=False)
        users = invalid_users(live)
        readable = view is not None and settings.file.is_file() and not settings.instead
        experiments = Experiments(store, None, placements, live.bundles.versions)
        usable, file_issues = placements_of(settings.file, view.answers) if view is not None and readable else ({}, {})
        if settings.file.is_file() and not settings.instead:
            file_issues |= experiments.file_issues(settings.file, usable)
        issues = [*live.health_issues(), *placements.health_issues(), *experiments.health_issues()]
        issues += keys.health_issues()
        issues += file_issues.values()
        issues += [invalid_column(live, "users", column, ids) for column, ids in users.items()]
        names = (
            {}
            if view is None
            else {f"items.{column}": sorted(ids)[:MAX_LISTED_ISSUES] for column, ids in view.invalid_values.items()}
        )
        names |= {f"users.{column}": sorted(ids)[:MAX_LISTED_ISSUES] for column, ids in users.items()}
        names["keys"] = keys.damaged
        for table in ("items", "users"):
            names |= {
                f"change {seq} of {table}": [store.id_of_change(table, seq)] for seq in unreadable_changes(live, table)
            }
    return [
        dataclasses.replace(entry, reason=f"{entry.reason}: {', '.join(names[entry.what])}")
        if names.get(entry.what) else entry
        for entry in issues
    ]  # fmt: skip


def _existing_streams(settings: Settings, store: Store) -> StreamReader | None:
    """Reads what streams have computed; None where that is a file which does not exist, and would be made."""
    path = (streams_address(settings.config, settings.file.parent) or "").removeprefix("sqlite:///")
    return None if "://" not in path and not Path(path).is_file() else stream_reader(settings, store)


@contextlib.contextmanager
def _silent_log() -> Iterator[None]:
    """Turn off the log: what the service would log is returned."""
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
