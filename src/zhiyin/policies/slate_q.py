"""SlateQ: slates for what a session is worth in the long run, learned item by item (Ie et al., arXiv:1905.12767).

A user takes at most one item of a slate A, so the value of showing A in state x falls into values of items:

    Q(x, A) = Σ_{i in A} P(i | x, A) q(x, i) + P(no choice | x, A) q(x, none)

and q is learned as in SARSA or Q-learning, with the value of the next slate by the same sum. Here q is linear in the
features, q(x, i) = wᵀφ(x, i), and w solves the equations of least-squares temporal differences (Bradtke & Barto 1996):

    A w = b,   A = λI + Σ φ (φ - γ φ')ᵀ,   b = Σ r φ,   φ' = the features of the next choice, on average

which needs neither a learning rate nor a store of old events. No choice has a value of its own: the session goes on.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import DataError
from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import kernel
from zhiyin.core.params import Parameterized, check_settings, param, settings_of
from zhiyin.core.prng import uniform_of
from zhiyin.core.run import Run
from zhiyin.models.state_files import read_manifest, read_state, write_state
from zhiyin.policies.probabilities import CHOICE_STREAM, stream_state
from zhiyin.policies.slate_optimizer import greedy_slates
from zhiyin.policies.slate_states import SlateStates, SlateTransitions, choice_probabilities

FORMAT = 1


@dataclasses.dataclass
class SlateQ(Parameterized):
    """Chooses slates by their long-term value and learns it from transitions."""

    target: str = param("sarsa", "what follows: the slate that was shown, or the best one", choices=("sarsa", "q"))
    gamma: float = param(1.0, "worth of a reward one step later", at_least=0, at_most=1)
    reg: float = param(1.0, "penalty of the weights", at_least=1e-9)
    memory: int | None = param(None, "transitions after which what was learned counts 1/e; none: always", at_least=1)
    explore: float = param(0.0, "share of decisions with a uniformly random slate", at_least=0, at_most=1)
    null_value: bool = param(True, "learn the value of no choice; otherwise it is 0, as in RecSim's agent")

    def __post_init__(self) -> None:
        for name, value in check_settings(type(self), settings_of(self)).items():
            setattr(self, name, value)
        self.n_updates = 0
        self._matrix: np.ndarray | None = None  # float64[d, d], A without λI
        self._vector: np.ndarray | None = None  # float64[d], b
        self._weights: np.ndarray | None = None

    @property
    def weights(self) -> np.ndarray | None:
        """float64[d + e], w; None before the first transition."""
        if self._weights is None and self._matrix is not None and self._vector is not None:
            penalty = self.reg * np.eye(len(self._vector))
            self._weights = np.linalg.solve(np.asarray(self._matrix + penalty, dtype=np.float64), self._vector)
        return self._weights

    def item_values(self, states: SlateStates) -> tuple[np.ndarray, np.ndarray]:
        """q of the candidates, float64[n, m], and of no choice, float64[n]; zeros before the first transition."""
        w = self.weights
        if w is None:
            return np.zeros(states.weights.shape), np.zeros(len(states))
        self._check_width(states.n_features)
        d = states.items.shape[2]
        return states.items @ w[:d], states.null @ w[d:]

    def slate_values(self, states: SlateStates, slates: np.ndarray) -> np.ndarray:
        """float64[n]: Q of slates, int64[n, k]."""
        values, null_values = self.item_values(states)
        each = np.column_stack([np.take_along_axis(values, slates, axis=1), null_values])
        return (choice_probabilities(states, slates) * each).sum(axis=1)

    def best_slates(self, states: SlateStates, k: int, run: Run | None = None) -> np.ndarray:
        """int64[n, k]: greedy slates by the values learned so far."""
        if not 1 <= k <= states.n_candidates:
            raise DataError(f"slates of {k} of {states.n_candidates} candidates", remedy="1 <= k <= candidates")
        values, null_values = self.item_values(states)
        return greedy_slates(states.weights, states.null_weights, values, null_values, k, run)

    def choose_slates(
        self, states: SlateStates, k: int, seeds: np.ndarray, run: Run | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The greedy slate, or with probability `explore` a uniformly random one.

        Parameters
        ----------
        seeds: uint64[n] (see `decision_seeds`); the same seed gives the same slate.

        Returns
        -------
        slates: int64[n, k], candidates by slot.
        prefix_propensities: float64[n, k], probability of the slots up to each one, over the draws of `seeds`.
        """
        slates = self.best_slates(states, k, run)
        seeds = np.ascontiguousarray(seeds, dtype=np.uint64)
        if seeds.shape != (len(states),):
            raise DataError(f"{seeds.size} seeds for {len(states)} decisions", remedy="one seed a decision")
        propensities = np.empty((len(states), k))
        _explore(slates, propensities, states.n_candidates, self.explore, seeds)
        return slates, propensities

    def update(self, transitions: SlateTransitions) -> None:
        """Learn from transitions; with `target="q"` the slates that follow are the best by what was learned before."""
        n, k = len(transitions), transitions.slates_after.shape[1]
        if n == 0:
            return
        after, slates = transitions.after, transitions.slates_after
        d_items = after.items.shape[2]
        if self._matrix is None or self._vector is None:
            d = after.n_features
            self._matrix, self._vector = np.zeros((d, d)), np.zeros(d)
        self._check_width(after.n_features)
        if self.target == "q":
            slates = self.best_slates(after, k)
        chosen, following = transitions.chosen, after.expected_features(slates)
        following[transitions.ended] = 0.0
        if not self.null_value:  # decisions without a choice then have no features, and teach nothing
            chosen = chosen.copy()
            chosen[:, d_items:] = following[:, d_items:] = 0.0
        if self.memory is not None:
            decay = np.exp(-n / self.memory)
            self._matrix *= decay
            self._vector *= decay
        self._matrix += chosen.T @ (chosen - self.gamma * following)
        self._vector += chosen.T @ transitions.rewards
        self._weights = None
        self.n_updates += n

    def save(self, path: Any) -> None:
        """Write settings and state to a folder, as arrays and JSON. An existing one is replaced whole.

        Raises DataError where the folder holds something else.
        """
        target = Path(path)
        if target.exists() and not (target / "slate_q.json").exists() and any(target.iterdir()):
            raise DataError("the folder holds something else", file=target, remedy="save to another folder")
        with whole_folder(target) as draft:
            learned = {} if self._matrix is None else {"matrix": self._matrix, "vector": self._vector}
            entries = {name: write_state(draft, name, value) for name, value in learned.items()}
            manifest = {"format": FORMAT, "settings": settings_of(self), "updates": self.n_updates, "state": entries}
            (draft / "slate_q.json").write_text(json.dumps(manifest, indent=1) + "\n")

    @classmethod
    def load(cls, path: Any) -> SlateQ:
        """What `save` wrote; it goes on learning where it stopped.

        Raises DataError when the folder holds none, or a damaged one, or one of another format.
        """
        source = Path(path)
        manifest = read_manifest(source, "slate_q", FORMAT)
        try:
            result = cls(**check_settings(cls, manifest["settings"]))
            result.n_updates = int(manifest["updates"])
            state = {name: read_state(source, name, kind, mmap=False) for name, kind in manifest["state"].items()}
            if state:
                result._matrix, result._vector = _checked_state(state["matrix"], state["vector"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "restore the folder from a backup, or learn again from the log"
            raise DataError(f"the SlateQ is damaged ({error})", file=source, remedy=remedy) from None
        return result

    def _check_width(self, n_features: int) -> None:
        if self._vector is not None and n_features != len(self._vector):
            raise DataError(
                f"{n_features} features where {len(self._vector)} were learned with",
                remedy="use the same features, or begin anew",
            )


def _checked_state(matrix: np.ndarray, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    d = len(vector)
    if matrix.shape != (d, d) or matrix.dtype != np.float64 or vector.dtype != np.float64:
        raise ValueError("the matrix is not of the size of the vector")
    if not (np.isfinite(matrix).all() and np.isfinite(vector).all()):
        raise ValueError("numbers that are not finite")
    return matrix, vector


@kernel
def _explore(slates, propensities, m, explore, seeds):
    """Put a uniformly random slate in place of the greedy one where the seed says so; fill the prefix propensities."""
    k = slates.shape[1]
    order = np.empty(m, dtype=np.int64)
    for r in range(len(slates)):
        state = stream_state(seeds[r], CHOICE_STREAM)
        greedy = slates[r].copy()
        if uniform_of(mix(state)) < explore:
            for item in range(m):
                order[item] = item
            for slot in range(k):
                state += GOLDEN
                other = min(m - 1, slot + np.int64((m - slot) * uniform_of(mix(state))))
                order[slot], order[other] = order[other], order[slot]
                slates[r, slot] = order[slot]
        same, random_prefix = True, 1.0
        for slot in range(k):
            same = same and slates[r, slot] == greedy[slot]
            random_prefix /= m - slot
            propensities[r, slot] = explore * random_prefix + (1.0 - explore if same else 0.0)
