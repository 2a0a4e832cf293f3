"""Closed decisions as arrays: what the learner of a policy computes with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from zhiyin.pipeline.decision_record import DecisionRecord, decode_decision
from zhiyin.store.decisions import ClosedDecision

# Modes in which the baseline decides with certainty: importance weights of its own actions say nothing.
_CERTAIN = ("shadow", "fallback", "control")
CONTROL = "control"
# Of numbers of decisions: how many, their sum, the sum of squares, how many are not 0, the largest absolute one.
Figures = tuple[int, float, float, int, float, float]


@dataclasses.dataclass(frozen=True)
class Context:
    """What the features of a list mean.

    Parameters
    ----------
    layout: digest of the names of the features.
    vectors: digest of what those behind the version-free ones are made of; "": there are none.
    version_free: the first so many features mean the same with every version of the models; -1: all.
    """

    layout: str = ""
    vectors: str = ""
    version_free: int = -1

    def same(self, other: Context) -> bool:
        """Whether all features mean the same."""
        return (self.layout, self.vectors) == (other.layout, other.vectors)


@dataclasses.dataclass(frozen=True, eq=False)
class DecisionBatch:
    """n decisions in the order in which they were closed, with m outcomes: slots that were shown.

    Parameters
    ----------
    times: int64[n], when the lists were made, microseconds UTC.
    modes: of each list; CONTROL where the baseline made it for comparison.
    is_guarded: bool[n], made in mode guarded, by the policy or for comparison.
    contexts: of the features of each list.
    features: of each list, float32[outcomes, d]; None where it has none.
    offsets: int64[n + 1], where the outcomes of each decision begin.
    keys: int64[m], of the items. slots: int64[m], of the list, from 0. rewards: float64[m].
    weights: float64[n, 5]: `Figures` of the importance weights of the baseline's actions.
    """

    times: np.ndarray
    modes: tuple[str, ...]
    is_guarded: np.ndarray
    contexts: tuple[Context, ...]
    features: tuple[np.ndarray | None, ...]
    offsets: np.ndarray
    keys: np.ndarray
    slots: np.ndarray
    rewards: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.times)

    @classmethod
    def of(cls, decisions: Sequence[ClosedDecision]) -> DecisionBatch:
        """Of closed decisions; those that are not to be learned, or of which nothing was shown, are left out."""
        times, records, features, rewards, shown = [], list[DecisionRecord](), [], [], []
        for decision in decisions:
            record = None if decision.rewards is None else _record_of(decision)
            if record is None or decision.rewards is None or len(decision.rewards) != len(record):
                continue
            values = np.array(decision.rewards, dtype=np.float64)  # None becomes NaN
            is_shown = ~np.isnan(values)
            if not is_shown.any() or (record.features is not None and not np.isfinite(record.features).all()):
                continue
            times.append(decision.trace.time)
            records.append(record)
            rewards.append(values[is_shown])
            shown.append(is_shown)
            features.append(None if record.features is None else record.features[is_shown])
        n_shown = [len(values) for values in rewards]
        infos = [record.info for record in records]
        return cls(
            np.array(times, dtype=np.int64),
            tuple(CONTROL if info.control else info.mode for info in infos),
            np.array([info.mode == "guarded" for info in infos], dtype=bool),
            tuple(Context(info.layout, info.vectors, info.version_free) for info in infos),
            tuple(features),
            np.concatenate([[0], np.cumsum(n_shown, dtype=np.int64)]),
            _joined([_chosen_keys(record)[seen] for record, seen in zip(records, shown)], np.int64),
            _joined([record.slots[seen] for record, seen in zip(records, shown)], np.int64),
            _joined(rewards, np.float64),
            _baseline_weights(records),
        )

    def runs(self) -> Iterator[tuple[int, int]]:
        """Where decisions begin and end whose features mean the same, and are as many."""
        start = 0
        for place in range(1, len(self) + 1):
            if place == len(self) or not self._alike(start, place):
                yield start, place
                start = place

    def _alike(self, one: int, other: int) -> bool:
        widths = [None if part is None else part.shape[1] for part in (self.features[one], self.features[other])]
        return self.contexts[one].same(self.contexts[other]) and widths[0] == widths[1]

    def part(self, start: int, stop: int) -> DecisionBatch:
        """Some of the decisions."""
        low, high = self.offsets[start], self.offsets[stop]
        return DecisionBatch(
            self.times[start:stop], self.modes[start:stop], self.is_guarded[start:stop], self.contexts[start:stop],
            self.features[start:stop], self.offsets[start : stop + 1] - low, self.keys[low:high], self.slots[low:high],
            self.rewards[low:high], self.weights[start:stop],
        )  # fmt: skip

    def joined_features(self) -> np.ndarray | None:
        """float64[m, d], of the decisions of one run; None where they have none."""
        if not self.features or self.features[0] is None:
            return None
        return np.concatenate([part for part in self.features if part is not None]).astype(np.float64)

    def list_rewards(self) -> np.ndarray:
        """float64[n]: the sum of the rewards of each list."""
        owners = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        return np.bincount(owners, self.rewards, minlength=len(self))

    def figures_by_mode(self) -> dict[str, Figures]:
        """Of the rewards of lists, by mode."""
        rewards, modes = self.list_rewards(), np.array(self.modes)
        return {str(mode): figures_of(rewards[modes == mode]) for mode in np.unique(modes)}

    def guarded_figures(self, since: int) -> tuple[Figures, Figures]:
        """Of the rewards of lists that the policy, and that the baseline, made in mode guarded from a time on."""
        rewards, is_control = self.list_rewards(), np.array(self.modes) == CONTROL
        counts = self.is_guarded & (self.times >= since)
        return figures_of(rewards[counts & ~is_control]), figures_of(rewards[counts & is_control])

    def weight_figures(self) -> Figures:
        """Of the importance weights of the baseline's actions, one a slot that could have had it."""
        n, total, squares, nonzero, _ = self.weights.sum(axis=0).tolist()
        return int(n), total, squares, int(nonzero), float(self.weights[:, 4].max(initial=0.0)), 0.0


def figures_of(numbers: np.ndarray) -> Figures:
    """Of numbers, float64[n]."""
    largest, smallest = float(np.abs(numbers).max(initial=0.0)), float(numbers.min(initial=0.0))
    total, squares, nonzero = float(numbers.sum()), float(numbers @ numbers), int(np.count_nonzero(numbers))
    return len(numbers), total, squares, nonzero, largest, smallest


def _chosen_keys(record: DecisionRecord) -> np.ndarray:
    """int64[s], keys of the actions chosen, of the shortlist where it is in the trace: ids are hashed no more."""
    if record.keys is None or (record.chosen < 0).any():
        return record.chosen_keys()
    return record.keys[record.chosen]


def _record_of(decision: ClosedDecision) -> DecisionRecord | None:
    """The decision of a trace; None where it cannot be read: what it brought is not learned then."""
    try:
        return decode_decision(decision.trace.head, decision.trace.arrays)
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _baseline_weights(records: Sequence[DecisionRecord]) -> np.ndarray:
    """float64[n, 5]: `Figures` of 1{the baseline's action was chosen} / propensity, whose expectation is 1.

    Counted are slots in which the baseline's action could be chosen, of lists whose probabilities are in the trace.
    """
    drawn = [
        number for number, record in enumerate(records)
        if record.pmfs is not None and record.pmfs.size and record.info.mode not in _CERTAIN and not record.info.control
    ]  # fmt: skip
    result = np.zeros((len(records), 5))
    if not drawn:
        return result
    parts = [records[number] for number in drawn]
    pmfs = [record.pmfs for record in parts if record.pmfs is not None]
    n_slots, n_actions = np.array([pmf.shape for pmf in pmfs]).T
    begins = np.cumsum(n_slots * n_actions) - n_slots * n_actions
    rows = np.arange(n_slots.sum()) - np.repeat(np.cumsum(n_slots) - n_slots, n_slots)
    baseline = _joined([record.baseline for record in parts], np.int64)
    chosen = _joined([record.chosen for record in parts], np.int64)
    propensities = _joined([record.propensities for record in parts], np.float64)
    places = np.repeat(begins, n_slots) + rows * np.repeat(n_actions, n_slots) + np.maximum(baseline, 0)
    could_be = (baseline >= 0) & (_joined([pmf.ravel() for pmf in pmfs], np.float64)[places] > 0)
    owners = np.repeat(drawn, n_slots)[could_be]
    weights = np.where(chosen == baseline, 1.0 / np.maximum(propensities, 1e-300), 0.0)[could_be]
    for column, values in enumerate((np.ones(len(weights)), weights, weights**2, weights > 0)):
        result[:, column] = np.bincount(owners, values, minlength=len(records))
    np.maximum.at(result[:, 4], owners, weights)
    return result


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=dtype), *parts]).astype(dtype, copy=False)
