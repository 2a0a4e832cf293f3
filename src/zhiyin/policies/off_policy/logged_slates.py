"""A batch of logged lists: one row per list, one column per slot."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.policies.off_policy.logged_decisions import (
    FloatArray,
    check_finite,
    check_probabilities,
    check_propensities,
)


@dataclass(frozen=True)
class LoggedSlates:
    """Lists of items that were shown together, with the target policy's probabilities of them.

    Lists shorter than the others are filled up with reward 0 and all probabilities 1.

    Parameters
    ----------
    rewards: float64[n, n_slots], of each slot; a reward of the whole list stands in its last slot.
    propensities: float64[n, n_slots], in (0, 1]: of each slot's item, given the items of the slots before it.
    target_probabilities: float64[n, n_slots], in [0, 1]: the target policy's, given the same (logged) items before.
    position_propensities, position_target_probabilities: float64[n, n_slots]: of the item at the slot, whatever stands
        before it. Needed by IIPS and the pseudo-inverse estimator; None: unknown.
    predicted_chosen: float64[n, n_slots], a reward model's expected reward of slot k (or of slots k and later) given
        the items up to k. None: no reward model.
    predicted_target: float64[n, n_slots], the same, expected over the target's choice in slot k after the logged items
        before it.
    groups: int64[n], see `LoggedDecisions`.
    """

    rewards: FloatArray
    propensities: FloatArray
    target_probabilities: FloatArray
    position_propensities: FloatArray | None = None
    position_target_probabilities: FloatArray | None = None
    predicted_chosen: FloatArray | None = None
    predicted_target: FloatArray | None = None
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if values is None:
                continue
            is_groups = field.name == "groups"
            array = np.asarray(values, dtype=np.int64 if is_groups else np.float64)
            object.__setattr__(self, field.name, array)
            expected = self.rewards.shape[:1] if is_groups else self.rewards.shape
            if array.shape != expected or (not is_groups and array.ndim != 2):
                raise DataError(f"{field.name} has shape {array.shape}, rewards {self.rewards.shape}",
                                remedy="give one row per list and one column per slot")  # fmt: skip
        check_finite(self.rewards, "rewards", "leave out lists whose reward window has not closed")
        for name in ("propensities", "position_propensities"):
            if getattr(self, name) is not None:
                check_propensities(getattr(self, name), name)
        for name in ("target_probabilities", "position_target_probabilities"):
            if getattr(self, name) is not None:
                check_probabilities(getattr(self, name), name)
        for first, second in (("position_propensities", "position_target_probabilities"),
                              ("predicted_chosen", "predicted_target")):  # fmt: skip
            if (getattr(self, first) is None) != (getattr(self, second) is None):
                raise DataError(f"{first} and {second} come together, one of them is missing", remedy="give both")
        for name in ("predicted_chosen", "predicted_target"):
            if getattr(self, name) is not None:
                check_finite(getattr(self, name), name, "fit the reward model without missing values")

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def n_slots(self) -> int:
        return self.rewards.shape[1]

    @property
    def predictions(self) -> tuple[FloatArray, FloatArray]:
        """The reward model's predictions: of the chosen items, and expected under the target policy."""
        if self.predicted_chosen is None or self.predicted_target is None:
            raise DataError("there are no predictions of a reward model", remedy="give predicted_chosen and _target")
        return self.predicted_chosen, self.predicted_target

    @property
    def prefix_weights(self) -> FloatArray:
        """float64[n, n_slots]: the importance weight of the items up to each slot, a product over slots."""
        return np.multiply.accumulate(self.target_probabilities / self.propensities, axis=1)
