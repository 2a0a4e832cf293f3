"""What if, over logs of other systems and over exported stores: what a policy alone would have earned.

Such a log has the actions of each decision and the probabilities they were drawn with, but no pipeline to ask. So the
target is a policy over them: "uniform", "first" (Personalizer's baseline), "epsilon-greedy:0.1" over what the log drew
most, or a policy that `Policy.save` wrote and that needs no features.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.core.run import Run
from zhiyin.pipeline.decision_record import DecisionRecord, decode_decision
from zhiyin.pipeline.whatif import DRAWN, LoggedList, WhatIfResult, evaluate_lists, made_for
from zhiyin.pipeline.whatif_support import support_terms
from zhiyin.policies.action_sets import ActionSets, action_keys, decision_seeds
from zhiyin.policies.epsilon_greedy import EpsilonGreedy
from zhiyin.policies.off_policy import (
    DsjsonLog,
    OffPolicyResult,
    evaluate_off_policy,
    first_action_target,
    read_open_bandit,
    uniform_target,
)
from zhiyin.policies.off_policy.vowpal_wabbit_log import DsjsonBatch
from zhiyin.policies.policy import Policy

UNIFORM, FIRST, EPSILON_GREEDY = "uniform", "first", "epsilon-greedy"
TARGETS = (UNIFORM, FIRST, EPSILON_GREEDY)
DEFAULT_EPSILON = 0.1
_BLANK = b" \t\r\n\xef\xbb\xbf"


def what_if_log(
    path: str | Path,
    target: str | Policy = UNIFORM,
    *,
    estimators: list[str] | None = None,
    confidence: float = 0.95,
    interval: str = "clopper_pearson",
    reward_range: tuple[float, float] | None = None,
    run: Run | None = None,
) -> WhatIfResult:
    """What a policy would have earned, from the log of another one.

    Parameters
    ----------
    path: a dsjson log (Vowpal Wabbit, rl-client, Azure Personalizer; plain or gzip), a CSV file in the form of the Open
        Bandit Dataset, or a folder that `zhiyin store export` wrote. Which of them it is, its content tells.
    target: one of TARGETS, "epsilon-greedy:SHARE" for another share than .1, a folder of a saved policy, or a policy.
    estimators, confidence, interval, reward_range: see `evaluate_off_policy`, and `evaluate_slates` for lists.

    Raises DataError naming file and line of what cannot be read, ConfigError for a target that there is not.
    """
    path, options = Path(path), {"confidence": confidence, "interval": interval, "reward_range": reward_range}
    policy, words = target_of(target)
    kind = log_kind(path)
    if kind == "export":
        lists, left_out, times = _exported_lists(path, policy, run or Run())
        return evaluate_lists(
            lists, target=words, left_out=left_out, times=times, estimators=estimators, **cast(Any, options)
        )
    if kind == "open_bandit":
        result = _open_bandit(path, policy, estimators, options)
        return _result(result, words, {})
    log = DsjsonLog(path)
    if _has_slots(path):
        return _dsjson_lists(log, policy, words, estimators, options)
    result = evaluate_off_policy(log.decisions(_dsjson_target(policy)), estimators, **cast(Any, options))
    left_out = {"never activated": log.n_not_learned, "no decision of a bandit": log.n_skipped}
    return _result(result, words, left_out)


def target_of(target: str | Policy) -> tuple[Policy | str, str]:
    """The policy of a target ("uniform" and "first" stay words), and what it is called."""
    if isinstance(target, Policy):
        return target, type(target).__name__
    name, colon, share = target.partition(":")
    name = name.replace("_", "-").lower()
    if name in (UNIFORM, FIRST) and not colon:
        return name, {UNIFORM: "all actions alike", FIRST: "always the first action"}[name]
    if name == EPSILON_GREEDY:
        try:
            floor = float(share) if colon else DEFAULT_EPSILON
        except ValueError:
            raise ConfigError(f"{share!r} is no share", remedy=f"write {EPSILON_GREEDY}:0.1") from None
        policy = EpsilonGreedy(floor=floor)
        return policy, f"what the log draws most, and {floor:.0%} of the decisions evenly"
    if (Path(target) / "policy.json").is_file():
        from zhiyin.policies.loading import load

        policy_of_folder = load(target)
        return policy_of_folder, f"{type(policy_of_folder).__name__} of {target}"
    raise ConfigError(
        f"there is no target {target!r}", remedy=f"{suggest(name, list(TARGETS))}; or name a folder of a saved policy"
    )


def log_kind(path: Path) -> str:
    """ "dsjson", "open_bandit" or "export", by the content. Raises DataError for something else."""
    if path.is_dir():
        if (path / "lists").is_dir():
            return "export"
        raise DataError("the folder is no export of a store", file=path, remedy="name what zhiyin store export wrote")
    if not path.is_file():
        raise DataError("there is no such file", file=path, remedy="give the path of a log")
    with _opened(path) as file:
        start = file.read(1 << 16).lstrip(_BLANK)
    if start.startswith(b"{"):
        return "dsjson"
    if b"propensity_score" in start.split(b"\n", 1)[0]:
        return "open_bandit"
    raise DataError(
        "this is no log of decisions", file=path,
        remedy="give dsjson, a CSV file with propensity_score, or a folder of zhiyin store export",
    )  # fmt: skip


# -- single decisions -------------------------------------------------------------------------------------------------


def _result(result: OffPolicyResult, words: str, left_out: Mapping[str, int]) -> WhatIfResult:
    used = {DRAWN: result.support.n_rows}
    left_out = {reason: number for reason, number in left_out.items() if number}
    return WhatIfResult(words, "", result, result.refusal, (), used, left_out, unit="decision")


def _dsjson_target(policy: Policy | str) -> Callable[[DsjsonBatch], np.ndarray]:
    """The target's probabilities of the chosen actions of a batch."""
    if policy == UNIFORM:
        return uniform_target
    if policy == FIRST:
        return first_action_target
    assert isinstance(policy, Policy)

    def target(batch: DsjsonBatch) -> np.ndarray:
        numbers = np.arange(1, int(batch.actions.max(initial=0)) + 2)
        keys = action_keys(map(str, numbers.tolist()))[batch.actions]
        sets = ActionSets(batch.offsets, keys, scores=batch.probabilities)
        names = [name or str(line) for name, line in zip(batch.event_ids, batch.lines.tolist(), strict=True)]
        probabilities = policy.probabilities(sets, decision_seeds(names))
        chosen: np.ndarray = probabilities[batch.actions == np.repeat(batch.chosen, batch.n_actions)]
        return chosen

    return target


def _open_bandit(
    path: Path, policy: Policy | str, estimators: list[str] | None, options: Mapping[str, Any]
) -> OffPolicyResult:
    log = read_open_bandit(path)
    shape = log.n_items, log.n_positions
    if policy == UNIFORM:
        target = np.full(shape, 1 / log.n_items)
    elif policy == FIRST:
        raise ConfigError("this log does not say which action comes first", remedy=f"{UNIFORM} or {EPSILON_GREEDY}")
    else:
        assert isinstance(policy, Policy)
        # What the log draws: the mean propensity of an item at a position; items it never showed there have none.
        cells = log.items * log.n_positions + log.positions
        counts = np.bincount(cells, minlength=log.n_items * log.n_positions)
        totals = np.bincount(cells, log.propensities, minlength=len(counts))
        scores = np.divide(totals, counts, out=np.zeros(len(counts)), where=counts > 0).reshape(shape)
        offsets = np.arange(log.n_positions + 1) * log.n_items
        keys = np.tile(action_keys(map(str, range(log.n_items))), log.n_positions)
        seeds = decision_seeds(f"position {position}" for position in range(log.n_positions))
        probabilities = policy.probabilities(ActionSets(offsets, keys, scores=scores.T.ravel()), seeds)
        target = probabilities.reshape(log.n_positions, log.n_items).T
    return evaluate_off_policy(log.decisions(target), estimators, **options)


# -- lists ------------------------------------------------------------------------------------------------------------


def _has_slots(path: Path) -> bool:
    """Whether the first lines of a dsjson log have `_outcomes`, as lists do."""
    with _opened(path) as file:
        return b'"_outcomes"' in file.read(1 << 20)


def _dsjson_lists(
    log: DsjsonLog, policy: Policy | str, words: str, estimators: list[str] | None, options: Mapping[str, Any]
) -> WhatIfResult:
    if policy == FIRST or not (policy == UNIFORM or type(policy) is EpsilonGreedy):
        raise ConfigError(
            "the slots of this log name their actions by place only", remedy=f"take {UNIFORM} or {EPSILON_GREEDY}"
        )
    floor = 1.0 if policy == UNIFORM else cast(EpsilonGreedy, policy).floor
    slates = log.slates(target=lambda slots: floor / slots.n_actions + (1 - floor) * slots.share_of_best)
    lists = [
        LoggedList(rewards, propensities, target)
        for rewards, propensities, target in zip(
            slates.rewards, slates.propensities, slates.target_probabilities, strict=True
        )
    ]
    left_out = {"never activated": log.n_not_learned, "no list": log.n_skipped}
    left_out = {reason: number for reason, number in left_out.items() if number}
    return evaluate_lists(lists, target=words, left_out=left_out, estimators=estimators, **options)


def _exported_lists(
    folder: Path, policy: Policy | str, run: Run
) -> tuple[list[LoggedList], dict[str, int], tuple[int, int]]:
    """The decided lists of an exported store, those left out, and the times of the first and the last."""
    from zhiyin.store.traces import trace_of_row

    rewards_of = dict(_closed_rewards(folder))
    lists: list[LoggedList] = []
    left_out: Counter[str] = Counter()
    times: list[int] = []
    files = sorted((folder / "lists").glob("part-*.parquet"))
    with run.bar("Reading lists", len(files)) as advance:
        for file in files:
            for row in pl.read_parquet(file).iter_rows():
                if row[0] not in rewards_of:
                    if '"decision":' in row[5]:
                        left_out["their reward window is open"] += 1
                    continue
                trace, rewards = trace_of_row(row), rewards_of[row[0]]
                record = decode_decision(trace.head, trace.arrays)
                if rewards is None:
                    left_out["they were not shown"] += 1
                elif record is None or record.pmfs is None or record.keys is None:
                    left_out["they are not kept in full"] += 1
                else:
                    lists.append(_logged_list(record, rewards, policy, trace.list_id, trace.user))
                    times.append(trace.time)
            advance(1)
    return lists, dict(left_out), (min(times, default=0), max(times, default=0))


def _closed_rewards(folder: Path) -> Iterator[tuple[str, list[float | None] | None]]:
    """The rewards of closed lists, by list."""
    files = sorted((folder / "decisions").glob("part-*.parquet"))
    if not files:
        raise DataError(
            "the export has no closed decisions", file=folder, remedy="export a store whose placements have a policy"
        )
    import json

    for file in files:
        for list_id, rewards in pl.read_parquet(file, columns=["list_id", "rewards"]).iter_rows():
            yield list_id, None if rewards is None else json.loads(rewards)


def _logged_list(
    record: DecisionRecord, rewards: list[float | None], policy: Policy | str, list_id: str, user: str | None
) -> LoggedList:
    """A decided list with the target's probabilities, each among the items that could stand in the slot."""
    assert record.pmfs is not None
    assert record.keys is not None
    pmfs, s = record.pmfs if record.target_pmfs is None else record.target_pmfs, len(record)
    allowed = (pmfs > 0) | (record.pmfs > 0)
    dense = np.zeros_like(pmfs)
    if policy == UNIFORM:
        dense = allowed / allowed.sum(axis=1, keepdims=True)
    elif policy == FIRST:
        rows = np.flatnonzero(record.baseline >= 0)
        dense[rows, record.baseline[rows]] = 1.0
    else:
        assert isinstance(policy, Policy)
        counts = allowed.sum(axis=1)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        slots, actions = np.nonzero(allowed)
        sets = ActionSets(offsets, record.keys[actions], scores=pmfs[slots, actions])
        names = [f"{list_id}.{slot}" for slot in range(s)]
        dense[slots, actions] = policy.probabilities(sets, decision_seeds(names))
    targets = np.where(record.chosen >= 0, dense[np.arange(s), record.chosen], 0.0) if pmfs.size else np.ones(s)
    unlogged, squares = support_terms(dense, record.pmfs)
    values = np.array([0.0 if value is None else value for value in rewards], dtype=np.float64)
    n_choices = int(allowed.sum(axis=1).max(initial=1))
    return LoggedList(
        values,
        record.propensities,
        targets,
        made_for(record.info),
        user,
        n_choices=n_choices,
        unlogged=unlogged,
        squared_weights=squares,
    )


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    try:
        return cast(IO[bytes], gzip.open(path, "rb")) if is_gzip else path.open("rb")
    except (OSError, zlib.error) as error:
        raise DataError(f"the file cannot be read: {error}", file=path, remedy="give a whole file") from None
