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
    unlogged_target_mass: float64[n, n_slots], in [0, 1]: the target's probability, given the items of the slots before,
        of items that the log could not have shown in the slot. None: unknown.
    mean_squared_weights: float64[n, n_slots]: of the slot's own weight (target probability / propensity), over what the
        log could have drawn into it after the items above. None: unknown.
    """

    rewards: FloatArray
    propensities: FloatArray
    target_probabilities: FloatArray
    position_propensities: FloatArray | None = None
    position_target_probabilities: FloatArray | None = None
    predicted_chosen: FloatArray | None = None
    predicted_target: FloatArray | None = None
    groups: np.ndarray | None = None
    unlogged_target_mass: FloatArray | None = None
    mean_squared_weights: FloatArray | None = None

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
        for name in ("target_probabilities", "position_target_probabilities", "unlogged_target_mass"):
            if getattr(self, name) is not None:
                check_probabilities(getattr(self, name), name)
        for first, second in (("position_propensities", "position_target_probabilities"),
                              ("predicted_chosen", "predicted_target"),
                              ("unlogged_target_mass", "mean_squared_weights")):  # fmt: skip
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

    @property
    def weights_before(self) -> FloatArray:
        """float64[n, n_slots]: the importance weight of the items above each slot; 1 for the first."""
        weights = self.prefix_weights
        return np.concatenate([np.ones((len(weights), 1)), weights[:, :-1]], axis=1)

    @property
    def prefix_unlogged_mass(self) -> FloatArray | None:
        """float64[n, n_slots]: its mean is the probability that the target's list has, down to the slot, an item that
        the log could not have shown there. The mean of `prefix_weights` is 1 minus that. None: unknown."""
        if self.unlogged_target_mass is None:
            return None
        return np.add.accumulate(self.weights_before * self.unlogged_target_mass, axis=1)

    @property
    def weight_variances(self) -> FloatArray | None:
        """float64[n, n_slots]: how much each slot's draw adds to the variance of `prefix_weights`, from it on, less
        what they lack. It is known from the pmfs: outcomes too rare to be among the lists count. None: unknown."""
        if self.unlogged_target_mass is None or self.mean_squared_weights is None:
            return None
        variances = self.mean_squared_weights - (1 - self.unlogged_target_mass) ** 2
        return self.weights_before**2 * np.maximum(variances, 0.0)
