"""What if another configuration had made the lists of a placement: the log replayed, and the answer.

import zhiyin as zy
result = zy.whatif("new.toml", placement="home")      # the log of zhiyin.toml, here
result.verdict(), result["rips"].difference_low
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from zhiyin.core.durations import is_duration, microseconds
from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.core.run import Run
from zhiyin.data.project_config import load_config, store_address
from zhiyin.pipeline.answer_settings import answer_settings
from zhiyin.pipeline.expression_nodes import parse_time
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.whatif import LoggedList, WhatIfResult, evaluate_lists
from zhiyin.pipeline.whatif_log import what_if_log
from zhiyin.policies.off_policy import SLATE_ESTIMATORS
from zhiyin.policies.policy import Policy
from zhiyin.service.loaded_version import UnknownVersionError
from zhiyin.service.placements import Placements
from zhiyin.service.serving_state import ServingState
from zhiyin.service.whatif_replay import NEWEST, OtherConfiguration, Snapshot, WhatIfReplay
from zhiyin.store.decisions import ClosedDecision
from zhiyin.store.store import Store

# Closed decisions that are read at once, and lists that are replayed unless more are asked for.
BATCH_DECISIONS, DEFAULT_LIMIT = 200, 20_000


@dataclasses.dataclass(frozen=True)
class LogPart:
    """Which lists of the log are read.

    Parameters
    ----------
    placement: that made them.
    first_time, last_time: when they were made, microseconds UTC; None: at any time.
    limit: the newest so many of the placement, at most.
    seconds: after which reading stops, and what was read counts; None: never.
    """

    placement: str
    first_time: int | None = None
    last_time: int | None = None
    limit: int = DEFAULT_LIMIT
    seconds: float | None = None


def whatif(
    config: str | Path | None = None,
    *,
    placement: str | None = None,
    since: str | int | None = None,
    until: str | int | None = None,
    log: str | Path | None = None,
    target: str | Policy = "uniform",
    version: int | None = None,
    as_placement: str | None = None,
    mode: Any = None,
    snapshot: Snapshot = NEWEST,
    limit: int = DEFAULT_LIMIT,
    project: str | Path = "zhiyin.toml",
    store: str | None = None,
    estimators: Sequence[str] | None = None,
    confidence: float = 0.95,
    interval: str = "clopper_pearson",
    reward_range: tuple[float, float] | None = None,
    run: Run | None = None,
) -> WhatIfResult:
    """What another configuration would have earned per list, from what the log's own configuration has shown.

    Parameters
    ----------
    config: a settings file with other [rules], [answers] or [placements]; None: the project's rules, and placements as
        they were when a list was made.
    placement: whose lists are read; None: the only one with decisions.
    since, until: when the lists were made: a date or time (ISO 8601, UTC), a duration before now such as "7d", or
        microseconds UTC.
    log: a log of another system, or a folder of `zhiyin store export`, in place of the store; then `target` says which
        policy decides, and config and version do not count. See `pipeline.whatif_log`.
    version: of the models; None: the one that made each list.
    as_placement: whose settings make the lists; None: those of `placement`.
    mode: of the policy, such as "online"; None: as its settings say.
    snapshot: learned state of the policy: "newest", "logged" (that of each list) or a number.
    limit: lists that are read, the newest ones.
    project: settings of the project, which say where its store and versions are.
    store: address of the store, in place of the project's.
    estimators: names in `SLATE_ESTIMATORS`; None: all that the log can give.
    confidence, interval, reward_range: see `evaluate_off_policy`; rewards are those of a slot.

    Raises ConfigError for settings that cannot be, DataError where there is no store, version or placement.
    """
    run = run or Run()
    options: dict[str, Any] = {"confidence": confidence, "interval": interval, "reward_range": reward_range}
    names = None if estimators is None else list(estimators)
    if log is not None:
        return what_if_log(log, target, estimators=names, run=run, **options)
    _check_estimators(names)
    file = Path(project)
    settings = load_config(file)
    address = store or store_address(settings, file.parent)
    if "://" not in address and not Path(address).is_file():
        raise DataError("there is no store yet", file=address, remedy="zhiyin serve makes it, or zhiyin store load")
    with closing(Store(address)) as opened:
        live = ServingState(
            Bundles(file.parent / settings.train.output / "bundles"), opened, answer_settings(settings, file),
            settings.weights, types=settings.schema.types, watch=False,
        )  # fmt: skip
        try:
            placements = Placements(opened, None, None)
            others: dict[str, Any] = {
                "version": version, "placement": as_placement, "mode": mode, "snapshot": snapshot,
            }  # fmt: skip
            if config is not None:
                other = OtherConfiguration.of_file(Path(config), **others)
            else:
                other = OtherConfiguration("the present settings", **others)
            moments = (moment_of(since, opened.clock()), moment_of(until, opened.clock()))
            part = LogPart(placement or _only_placement(opened, placements), *moments, limit)
            return replayed(live, placements, other, part, estimators=names, run=run, **options)
        finally:
            live.close()


def replayed(
    live: ServingState,
    placements: Placements,
    other: OtherConfiguration,
    part: LogPart,
    *,
    estimators: Sequence[str] | None = None,
    run: Run | None = None,
    **options: Any,
) -> WhatIfResult:
    """What a configuration would have earned on a part of the log of a shop; see `whatif` for the options.

    Raises UnknownPlacementError, and ConfigError where the configuration cannot make lists.
    """
    replay, store = WhatIfReplay(live, placements, other), live.store
    _check_names(live, placements, other, part)
    lists: list[LoggedList] = []
    left_out: Counter[str] = Counter()
    n_open = store.open_decision_count(part.placement)
    if n_open:
        left_out["their reward window is open"] = n_open
    first, last, stopped, deadline = 0, 0, False, None if part.seconds is None else time.monotonic() + part.seconds
    with (run or Run()).bar("Replaying lists", part.limit) as advance:
        for decision in _decisions(store, part):
            if deadline is not None and time.monotonic() > deadline:
                stopped = True
                break
            advance(1)
            moment = decision.trace.time
            if not (part.first_time or moment) <= moment <= (part.last_time or moment):
                continue
            row = replay.logged_list(decision)
            if isinstance(row, str):
                left_out[row] += 1
                continue
            lists.append(row)
            first, last = min(first or moment, moment), max(last, moment)
    result = evaluate_lists(
        lists, target=_words(other), placement=part.placement, left_out=left_out, times=(first, last),
        estimators=estimators, **options,
    )  # fmt: skip
    notes = [f"{number:,} lists {words}." for words, number in replay.notes.items()]
    if stopped:
        notes.append(f"Time ran out after {part.seconds:g} s: the {len(lists):,} oldest of the lists count.")
    return dataclasses.replace(result, remarks=tuple(notes))


def _decisions(store: Store, part: LogPart) -> Iterator[ClosedDecision]:
    """The newest closed decisions of a placement, in order."""
    seq, n_read = store.last_closed_seq(part.placement, skip=part.limit), 0
    while n_read < part.limit:
        batch = store.closed_decisions(part.placement, seq, min(BATCH_DECISIONS, part.limit - n_read))
        if not batch:
            return
        seq, n_read = batch[-1].seq, n_read + len(batch)
        yield from batch


def moment_of(value: str | int | None, now: int) -> int | None:
    """Microseconds UTC of a date, a time, or a duration before now. Raises ConfigError for something else."""
    if value is None or isinstance(value, int):
        return value
    if is_duration(value):
        return now - microseconds(value)
    moment = parse_time(value)
    if moment is None:
        raise ConfigError(
            f"{value!r} is no moment", remedy="write 2026-11-30, 2026-11-30T12:00:00Z, or 7d for 7 days ago"
        )
    return moment


def _only_placement(store: Store, placements: Placements) -> str:
    """The one placement that has closed decisions. Raises ConfigError where none or several have."""
    names = [entry["name"] for entry in placements.all()]
    decided = [name for name in names if store.last_closed_seq(name)]
    if len(decided) == 1:
        return decided[0]
    if not decided:
        raise ConfigError(
            "no placement has lists that a policy decided and whose reward window has ended",
            remedy="write [placements.NAME.policy], serve lists, and ask again; or name another log: --log",
        )
    raise ConfigError(f"{len(decided)} placements have decided lists", remedy=f"name one of {', '.join(decided)}")


def _check_names(live: ServingState, placements: Placements, other: OtherConfiguration, part: LogPart) -> None:
    """Raise UnknownPlacementError, or UnknownVersionError, where there is none, before any list is replayed.

    Lists of a placement that was deleted can be asked about.
    """
    placements.update(None)
    if not live.store.last_closed_seq(part.placement):
        placements.get(part.placement)
    if other.placement is not None and other.placement not in other.placements:
        placements.get(other.placement)
    versions = live.bundles.versions()
    if other.version is not None and other.version not in versions:
        there = ", ".join(map(str, versions)) or "none; train one: zhiyin train --budget 10m"
        raise UnknownVersionError(f"there is no version {other.version}", remedy=f"there are {there}")


def _check_estimators(names: Sequence[str] | None) -> None:
    """Raise ConfigError for a name that is not one of SLATE_ESTIMATORS, before any list is replayed."""
    for name in names or ():
        if name not in SLATE_ESTIMATORS:
            raise ConfigError(f"there is no estimator of lists {name!r}", remedy=suggest(name, list(SLATE_ESTIMATORS)))


def _words(other: OtherConfiguration) -> str:
    words = [other.words]
    words += [] if other.version is None else [f"version {other.version}"]
    words += [] if other.placement is None else [f"the settings of placement {other.placement}"]
    words += [] if other.mode is None else [f"mode {other.mode}"]
    return ", ".join(words)
