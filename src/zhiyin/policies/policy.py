"""The contract of a policy: probabilities of actions, a choice drawn by them, learning from outcomes, saving.

A policy says with what probability it chooses each action; the choice is drawn by exactly these numbers, which the
caller logs. It is pure: arrays in, arrays out. The seed of a decision is all the randomness there is, so the same event
id gives the same decision. `zhiyin.testing.PolicyConformance` holds what every policy must do.
"""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import DataError
from zhiyin.core.parallel import for_chunks
from zhiyin.core.params import Parameterized, check_settings, list_length, param, settings_of
from zhiyin.core.run import Run
from zhiyin.models.state_files import write_state
from zhiyin.policies.action_sets import ActionSets, Outcomes
from zhiyin.policies.probabilities import draw, mix_floor, slot_seed
from zhiyin.policies.slot_probabilities import SlotValues

FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Choices:
    """One action for each of n decisions.

    Parameters
    ----------
    rows: int64[n], rows of the chosen actions.
    propensities: float64[n], `probabilities[rows]`, bit for bit.
    probabilities: float64[m], of all actions.
    """

    rows: np.ndarray
    propensities: np.ndarray
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SlateChoices:
    """Up to k actions for each of n decisions, each action at most once.

    Parameters
    ----------
    rows: int64[n, k], rows of the actions by slot; -1 behind the last.
    propensities: float64[n, k], the probability of each action in its slot given the slots before it; 0 where none is.
    prefix_propensities: float64[n, k], products over the slots up to this one: what estimators of a slate divide by.
    """

    rows: np.ndarray
    propensities: np.ndarray
    prefix_propensities: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, propensities: np.ndarray) -> SlateChoices:
        return cls(rows, propensities, np.where(rows >= 0, np.cumprod(propensities, axis=1), 0.0))


@dataclasses.dataclass
class Policy(Parameterized, abc.ABC):
    """Base class of policies. A subclass gives `_probabilities`, and `_update` and `state` where it learns.

    >>> from zhiyin.policies.epsilon_greedy import EpsilonGreedy
    >>> sets = ActionSets.single([3, 8, 9], scores=[.1, .5, .2])
    >>> EpsilonGreedy(floor=.3).probabilities(sets).round(3).tolist()
    [0.1, 0.8, 0.1]
    """

    floor: float = param(0.0, "share of decisions drawn uniformly from all actions", at_least=0, at_most=1)

    def __post_init__(self) -> None:
        for name, value in check_settings(type(self), settings_of(self)).items():
            setattr(self, name, value)
        self.n_updates = 0

    # -- what a subclass gives -----------------------------------------------------------------------------------

    @abc.abstractmethod
    def _probabilities(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> np.ndarray:
        """float64[m], before the floor. None of the actions is excluded; `_prepare` has gone over them."""

    def _prepare(self, sets: ActionSets) -> ActionSets:
        """What is computed once of a decision, whatever its number of slots: mostly scores of features."""
        return sets

    def _update(self, outcomes: Outcomes) -> None:
        """Learn; policies that do not learn ignore outcomes."""

    def expected_rewards(self, sets: ActionSets) -> np.ndarray | None:
        """float64[m]: what each action is believed to bring, without exploration; None where that is not known.

        The greedy list of a placement is made of these, and the loss that exploring costs is counted in them.
        """
        return None

    def slot_values(self, sets: ActionSets, seeds: np.ndarray) -> SlotValues | None:
        """Numbers from which a kernel fills lists; None: lists are filled by `probabilities`, which takes longer.

        Parameters
        ----------
        sets: n lists to fill; none of the actions is excluded.
        seeds: uint64[n].
        """
        return None

    def state(self) -> dict[str, np.ndarray]:
        """What was learned, by name; {} before the first outcome, or where nothing is."""
        return {}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take what `state` gave. Raises ValueError or KeyError where it does not fit."""

    def forget(self, share: float) -> None:
        """Let what was learned count less, by a share from 0 to 1; policies that do not learn ignore it."""

    # -- what callers use ----------------------------------------------------------------------------------------

    def probabilities(self, sets: ActionSets, seeds: np.ndarray | None = None, run: Run | None = None) -> np.ndarray:
        """The probability of each action: they sum to 1 in each decision; excluded actions have exactly 0.

        Parameters
        ----------
        seeds: uint64[n] (see `decision_seeds`); None: zeros. Policies that draw from a posterior give the
            probabilities of these draws.

        Returns
        -------
        float64[m], each action that is not excluded with at least `floor` / K.
        """
        seeds = self._checked_seeds(sets, seeds)
        return self._floored_probabilities(self._prepare(sets), seeds, run or Run(threads=1))

    def choose(self, sets: ActionSets, seeds: np.ndarray | None = None, run: Run | None = None) -> Choices:
        """Draw an action for each decision by `probabilities`. Parameters as there."""
        seeds = self._checked_seeds(sets, seeds)
        return self._choose(self._prepare(sets), seeds, run or Run(threads=1))

    def choose_slates(
        self, sets: ActionSets, k: int, seeds: np.ndarray | None = None, run: Run | None = None
    ) -> SlateChoices:
        """Fill k slots one after the other, each by the probabilities of the actions that are left."""
        k, seeds, run = list_length(k), self._checked_seeds(sets, seeds), run or Run(threads=1)
        sets, n = self._prepare(sets), sets.n_decisions
        rows, propensities = np.full((n, k), -1, dtype=np.int64), np.zeros((n, k))
        excluded = np.zeros(len(sets.actions), dtype=bool) if sets.excluded is None else sets.excluded.copy()
        n_actions = np.bincount(sets.owners[~excluded], minlength=n)
        for slot in range(min(k, int(n_actions.max(initial=0)))):
            decisions = np.flatnonzero(n_actions > slot)
            part, part_rows = sets.take(decisions, excluded)
            choices = self._choose(part, slot_seed(seeds[decisions], np.uint64(slot)), run)
            rows[decisions, slot] = part_rows[choices.rows]
            propensities[decisions, slot] = choices.propensities
            excluded[rows[decisions, slot]] = True
        return SlateChoices.of(rows, propensities)

    def update(self, outcomes: Outcomes) -> None:
        """Learn from outcomes in the order given; in one call or in several, the state is the same, bit for bit."""
        self._update(outcomes)
        self.n_updates += len(outcomes)

    def save(self, path: Any) -> None:
        """Write settings and state to a folder, as arrays and JSON. An existing policy is replaced whole.

        Raises DataError where the folder holds something else.
        """
        target = Path(path)
        if target.exists() and not (target / "policy.json").exists() and any(target.iterdir()):
            raise DataError(
                "the folder holds something that is no policy", file=target, remedy="save to another folder"
            )
        with whole_folder(target) as draft:
            entries = {name: write_state(draft, name, value) for name, value in self.state().items()}
            manifest = {
                "format": FORMAT,
                "policy": type(self).__name__,
                "settings": settings_of(self),
                "updates": self.n_updates,
                "state": entries,
            }
            (draft / "policy.json").write_text(json.dumps(manifest, indent=1) + "\n")

    # -- helpers -------------------------------------------------------------------------------------------------

    def _floored_probabilities(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> np.ndarray:
        """float64[m]: `_probabilities` of the actions that are not excluded, mixed with the floor; 0 of the others."""
        eligible, rows = sets.eligible()
        result = self._probabilities(eligible, seeds, run)
        for_chunks(lambda a, b: mix_floor(result, eligible.offsets, self.floor, a, b), len(seeds), run)
        if rows is None:
            return result
        every = np.zeros(len(sets.actions))
        every[rows] = result
        return every

    def _choose(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> Choices:
        probabilities = self._floored_probabilities(sets, seeds, run)
        rows = np.empty(len(seeds), dtype=np.int64)
        for_chunks(lambda a, b: draw(probabilities, sets.offsets, seeds, rows, a, b), len(seeds), run)
        return Choices(rows, probabilities[rows], probabilities)

    @staticmethod
    def _checked_seeds(sets: ActionSets, seeds: np.ndarray | None) -> np.ndarray:
        if seeds is None:
            return np.zeros(sets.n_decisions, dtype=np.uint64)
        seeds = np.ascontiguousarray(seeds, dtype=np.uint64)
        if seeds.shape != (sets.n_decisions,):
            raise DataError(f"{seeds.size} seeds for {sets.n_decisions} decisions", remedy="one seed a decision")
        return seeds
