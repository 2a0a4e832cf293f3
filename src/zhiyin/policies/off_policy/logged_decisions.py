"""A batch of logged decisions: what off-policy estimators read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from zhiyin.core.errors import DataError

FloatArray = npt.NDArray[np.float64]

# Rows per chunk of streaming sums: the arrays of one chunk stay in the processor's cache, and BLAS, which would wait
# for its other threads at each of the many small products, multiplies them in the calling thread.
CHUNK_ROWS = 8_192
# Rounding that a sum of probabilities may carry above 1.
ROUNDING = 1e-9


@dataclass(frozen=True)
class LoggedDecisions:
    """One row per logged decision (or per slot of a list, see `slate_log`), with the target policy's probability of it.

    Parameters
    ----------
    rewards: float64[n], the final reward of each decision, in any range.
    propensities: float64[n], in (0, 1]: the probability that the chosen action was drawn with, exactly as logged.
    target_probabilities: float64[n], in [0, 1]: the probability that the target policy gives to the chosen action.
    pass_probabilities: float64[n], in (0, 1]: the probability that the row was kept when the log was sub-sampled. Rows
        count 1 / pass_probability times. None: every row was kept.
    predicted_chosen: float64[n], a reward model's expected reward of the chosen action. None: no reward model.
    predicted_target: float64[n], the model's expected reward under the target policy, sum over a of
        target(a | x) * predicted(x, a). None: no reward model.
    groups: int64[n], codes 0 to n_groups - 1 of rows that depend on each other (slots of a list, decisions of a user);
        intervals treat a group as one observation. None: rows are independent.
    unlogged_target_mass: float64[n], in [0, 1]: the target's probability of actions that the log cannot contain (their
        logged probability is 0, or they were not eligible). None: unknown.

    Raises DataError, with the row (from 1) and a remedy, for arrays of different lengths, values that are not finite,
    and probabilities outside their range.

    >>> log = LoggedDecisions(rewards=[1.0, 0.0], propensities=[0.25, 0.5], target_probabilities=[0.5, 0.25])
    >>> log.importance_weights
    array([2. , 0.5])
    """

    rewards: FloatArray
    propensities: FloatArray
    target_probabilities: FloatArray
    pass_probabilities: FloatArray | None = None
    predicted_chosen: FloatArray | None = None
    predicted_target: FloatArray | None = None
    groups: npt.NDArray[np.int64] | None = None
    unlogged_target_mass: FloatArray | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if values is not None:
                object.__setattr__(self, field.name, _column(values, field.name))
        for name, values in self._columns().items():
            if len(values) != len(self):
                message = f"{len(values)} values of {name} for {len(self)} rewards"
                raise DataError(message, remedy="give one value for each logged decision")
        if (self.predicted_chosen is None) != (self.predicted_target is None):
            raise DataError(
                "predicted_chosen and predicted_target come together, one of them is missing",
                remedy="take both from cross_fitted_predictions, or give neither",
            )
        check_finite(self.rewards, "rewards", "leave out decisions whose reward window has not closed")
        check_propensities(self.propensities, "propensities")
        check_probabilities(self.target_probabilities, "target_probabilities")
        if self.pass_probabilities is not None:
            check_propensities(self.pass_probabilities, "pass_probabilities")
        if self.unlogged_target_mass is not None:
            check_probabilities(self.unlogged_target_mass, "unlogged_target_mass")
        for name in ("predicted_chosen", "predicted_target"):
            if getattr(self, name) is not None:
                check_finite(getattr(self, name), name, "fit the reward model without missing values")
        if self.groups is not None and len(self) and self.groups.min() < 0:
            row = int(np.argmin(self.groups)) + 1
            raise DataError(f"row {row} has the negative group {self.groups.min()}", remedy="give codes from 0")

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def importance_weights(self) -> FloatArray:
        """float64[n]: target probability over propensity."""
        return self.target_probabilities / self.propensities

    @property
    def has_predictions(self) -> bool:
        """Whether a reward model's predictions are there."""
        return self.predicted_chosen is not None

    def with_predictions(self, chosen: FloatArray, target: FloatArray) -> LoggedDecisions:
        """The same rows with a reward model's predictions: of the chosen actions, and expected under the target."""
        return replace(self, predicted_chosen=chosen, predicted_target=target)

    def rows(self, start: int, stop: int) -> LoggedDecisions:
        """A view of the rows from `start` to `stop`; nothing is copied or checked again."""
        part = object.__new__(LoggedDecisions)
        for field in fields(self):
            values = getattr(self, field.name)
            object.__setattr__(part, field.name, None if values is None else values[start:stop])
        return part

    def chunks(self, n_rows: int = CHUNK_ROWS) -> Iterator[LoggedDecisions]:
        """Views of at most `n_rows` rows each, in order."""
        for start in range(0, len(self), n_rows):
            yield self.rows(start, start + n_rows)

    def _columns(self) -> dict[str, np.ndarray]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in values.items() if array is not None}


def _column(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.int64 if name == "groups" else np.float64)
    if array.ndim != 1:
        raise DataError(f"{name} has {array.ndim} dimensions", remedy="give one value for each logged decision")
    return array


def check_finite(values: np.ndarray, name: str, remedy: str) -> None:
    """Raise DataError naming the first row, from 1, whose value is NaN or infinite."""
    # A sum is finite only if all of its terms are; the rows are looked at where it is not.
    if np.isfinite(np.sum(values)):
        return
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(bad):
        raise DataError(f"row {bad[0] + 1} of {name} is not finite: {values[bad[0]]}", remedy=remedy)


def check_probabilities(values: np.ndarray, name: str) -> None:
    """Raise DataError naming the first row, from 1, whose value is outside [0, 1]."""
    check_finite(values, name, "give the probability that the target policy computes, never an empty value")
    if values.size and (values.min() < 0 or values.max() > 1 + ROUNDING):
        row = _first_row((values < 0) | (values > 1 + ROUNDING))
        raise DataError(
            f"row {row} of {name} is outside 0 to 1: {values[row - 1]}",
            remedy="give probabilities, not scores; normalise over the eligible actions",
        )


def check_propensities(values: np.ndarray, name: str) -> None:
    """Raise DataError naming the first row, from 1, whose value is outside (0, 1]."""
    check_finite(values, name, f"log {name} when the decision is drawn; leave out rows that have none")
    if values.size and (values.min() <= 0 or values.max() > 1 + ROUNDING):
        row = _first_row((values <= 0) | (values > 1 + ROUNDING))
        value = values[row - 1]
        if np.min(value) <= 0:
            remedy = (
                "an event of probability 0 cannot have been logged: log the probability that was drawn from, unrounded"
            )
        else:
            remedy = "log the probability of the chosen action, not its weight or score"
        raise DataError(f"row {row} of {name} is outside 0 to 1: {value}", remedy=remedy)


def _first_row(bad: np.ndarray) -> int:
    return int(np.argmax(bad.reshape(len(bad), -1).any(axis=1))) + 1
