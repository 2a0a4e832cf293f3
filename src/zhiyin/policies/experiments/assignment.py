"""Which arm of an experiment a user gets: a hash of the user, so that no table of assignments is needed.

Experiments in one layer exclude each other: each has a range of the layer's buckets. Layers are independent, since each
hashes with a salt of its own (Tang, Agarwal, O'Brien & Meyer, KDD 2010).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

import numpy as np

from zhiyin.core.errors import ConfigError
from zhiyin.policies.action_sets import hash_texts

# Arms and experiments get shares of this many buckets of users.
N_BUCKETS = 10_000


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment in a layer.

    Parameters
    ----------
    name: also the salt of the assignment to arms, where no other is given.
    arms: weight of each arm, > 0, by name; the first one is the control.
    layer: experiments of one layer share no user.
    share: of the layer's users that take part, in (0, 1].
    offset: share of the layer's users before the first that takes part; experiments of a layer lie side by side.
    salt: of the assignment to arms; empty: the name.

    Raises ConfigError for weights, shares or offsets that are none.
    """

    name: str
    arms: Mapping[str, float]
    layer: str = "default"
    share: float = 1.0
    offset: float = 0.0
    salt: str = ""

    def __post_init__(self) -> None:
        if len(self.arms) < 2 or not all(weight > 0 and np.isfinite(weight) for weight in self.arms.values()):
            remedy = "{control = 1, new = 1}"
            raise ConfigError(f"experiment {self.name!r} has no two arms of weights > 0", remedy=remedy)
        if not (0 < self.share <= 1 and self.offset >= 0 and self.offset + self.share <= 1 + 1e-12):
            remedy = "shares from 0 to 1"
            raise ConfigError(f"experiment {self.name!r} takes {self.share} from {self.offset}", remedy=remedy)

    def assign(self, units: Iterable[str]) -> np.ndarray:
        """int64: the arm of each unit (a user's id), counted from 0; -1 for those who do not take part."""
        units = list(units)
        bucket = _fractions(units, f"layer\0{self.layer}") * N_BUCKETS
        first, last = round(self.offset * N_BUCKETS), round((self.offset + self.share) * N_BUCKETS)
        weights = np.array(list(self.arms.values()), dtype=np.float64)
        ends = np.cumsum(weights)[:-1] / weights.sum()
        arms = np.searchsorted(ends, _fractions(units, f"experiment\0{self.salt or self.name}"), side="right")
        return np.where((bucket >= first) & (bucket < last), arms, -1)

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of each arm, for a unit that takes part."""
        total = sum(self.arms.values())
        return {name: weight / total for name, weight in self.arms.items()}


def check_layers(experiments: Iterable[Experiment]) -> None:
    """Raises ConfigError where two experiments of a layer share users, or two have one name."""
    by_layer: dict[str, list[Experiment]] = {}
    names: set[str] = set()
    for experiment in experiments:
        if experiment.name in names:
            raise ConfigError(f"two experiments are called {experiment.name!r}", remedy="give each a name of its own")
        names.add(experiment.name)
        by_layer.setdefault(experiment.layer, []).append(experiment)
    for layer, members in by_layer.items():
        members.sort(key=lambda experiment: experiment.offset)
        for one, two in itertools.pairwise(members):
            if round(one.offset * N_BUCKETS) + round(one.share * N_BUCKETS) > round(two.offset * N_BUCKETS):
                raise ConfigError(
                    f"{one.name!r} and {two.name!r} share users of layer {layer!r}",
                    remedy="offsets that lie apart by the shares, or layers of their own",
                )


def _fractions(units: list[str], salt: str) -> np.ndarray:
    """float64 in [0, 1): a number for each unit."""
    return (hash_texts(units, salt.encode()) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
