"""Position bias: how much more an item is looked at because of where it stands (the position-based model, PBM).

    P(click | item, position) = examination(position) · relevance(item)

Estimates of the examination of each position, relative to the first:

| from | function | source |
|---|---|---|
| lists whose order was drawn uniformly | `examination_from_shuffled` | Joachims, Swaminathan & Schnabel, WSDM 2017 |
| items swapped between the first and another position | `examination_from_swaps` | same |
| any clicks, with features of what was shown | `RegressionEM` | Wang et al., WSDM 2018 |

`inverse_propensity_weights` turns them into weights of clicks, with which a ranker is trained as if every position were
looked at alike.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import expit

from zhiyin.core.errors import DataError
from zhiyin.core.params import param


def examination_from_shuffled(positions: np.ndarray, clicks: np.ndarray, n_positions: int | None = None) -> np.ndarray:
    """float64[p]: examination by position, 1 for the first, of lists whose items were shuffled uniformly.

    Parameters
    ----------
    positions: int[m], from 0, of what was shown. clicks: bool or 0/1[m].
    n_positions: p; None: up to the last one that was shown.

    Raises DataError where a position was never shown, or the first never clicked.
    """
    positions, clicks = _checked(positions, clicks)
    shown = np.bincount(positions, minlength=n_positions or 0)
    clicked = np.bincount(positions, weights=clicks, minlength=n_positions or 0)
    _check_shown(shown, clicked)
    rates = clicked / shown
    return rates / rates[0]


def examination_from_swaps(
    positions: np.ndarray, swapped_with: np.ndarray, clicks: np.ndarray, n_positions: int | None = None
) -> np.ndarray:
    """float64[p]: examination by position from lists in which, at random, the first item and one other changed places.

    Parameters
    ----------
    positions: int[m], where an item was shown; rows are of the items that the intervention is about, at the first or
        the other position alike.
    swapped_with: int[m], the other position of the pair, from 1; the same for both outcomes of the draw.
    clicks: bool or 0/1[m].

    Raises DataError where a pair was not shown in both orders, or the first position of a pair never clicked.
    """
    positions, clicks = _checked(positions, clicks)
    pair, _ = _checked(swapped_with, clicks)
    p = n_positions or int(max(positions.max(initial=0), pair.max(initial=0))) + 1
    first, other = positions == 0, positions == pair
    if (pair == 0).any() or not (first | other).all():
        raise DataError("a row is at neither position of its pair", remedy="positions are 0 or the one swapped with")
    result = np.ones(p)
    for position in range(1, p):
        rates = []
        for where in (first, other):
            mine = where & (pair == position)
            if not mine.any():
                raise DataError(f"position {position} was not swapped with the first", remedy="swap each, at random")
            rates.append(clicks[mine].mean())
        if rates[0] == 0:
            raise DataError(f"no clicks on the first of those swapped with {position}", remedy="a longer log")
        result[position] = rates[1] / rates[0]
    return result


@dataclasses.dataclass
class RegressionEM:
    """Examination from ordinary clicks, by expectation maximisation with a logistic model of the relevance.

    >>> model = RegressionEM(rounds=5)
    """

    rounds: int = param(50, "rounds of expectation and maximisation", at_least=1)
    reg: float = param(1e-3, "L2 penalty of the relevance model, per row", at_least=0)

    def fit(self, positions: np.ndarray, clicks: np.ndarray, features: np.ndarray) -> np.ndarray:
        """float64[p]: examination by position, 1 for the first. Also sets `weights_`, of the relevance model.

        Parameters
        ----------
        positions: int[m], from 0. clicks: bool or 0/1[m].
        features: float64[m, d], of what was shown, without its position; a constant is added.

        Raises DataError where a position was never shown, or the first never clicked.
        """
        positions, clicks = _checked(positions, clicks)
        if len(features) != len(clicks):
            raise DataError(f"features of {len(features)} rows for {len(clicks)}", remedy="one row an impression")
        design = np.column_stack([np.ones(len(clicks)), np.asarray(features, dtype=np.float64)])
        shown = np.bincount(positions)
        clicked = np.bincount(positions, weights=clicks)
        _check_shown(shown, clicked)
        examination = np.clip(clicked / shown / (clicked[0] / shown[0]), 1e-3, 1.0) * 0.9
        self.weights_ = np.zeros(design.shape[1])
        for _ in range(self.rounds):
            relevance = expit(design @ self.weights_)
            seen = examination[positions]
            unclicked = 1 - seen * relevance
            # of what was not clicked: examined but not relevant, relevant but not examined
            examined = np.where(clicks > 0, 1.0, seen * (1 - relevance) / unclicked)
            relevant = np.where(clicks > 0, 1.0, (1 - seen) * relevance / unclicked)
            examination = np.bincount(positions, weights=examined) / shown
            self.weights_ = _logistic_step(design, relevant, self.weights_, self.reg)
        return examination / examination[0]


def inverse_propensity_weights(
    positions: np.ndarray, clicks: np.ndarray, examination: np.ndarray, cap: float = 20.0
) -> np.ndarray:
    """float32[m]: weights of rows for `Ranker.fit(weights=...)`: min(1 / examination, cap) of a click, 1 of no click.

    Parameters
    ----------
    positions: int[m], from 0; those behind the last of `examination` count as the last. clicks: bool or 0/1[m].
    examination: float64[p] in (0, 1].
    """
    positions, clicks = _checked(positions, clicks)
    by_position = np.minimum(1 / np.maximum(np.asarray(examination, dtype=np.float64), 1e-12), cap)
    return np.where(clicks > 0, by_position[np.minimum(positions, len(by_position) - 1)], 1.0).astype(np.float32)


def _logistic_step(design: np.ndarray, target: np.ndarray, weights: np.ndarray, reg: float) -> np.ndarray:
    """One Newton step of logistic regression with fractional targets."""
    chance = expit(design @ weights)
    curvature = np.maximum(chance * (1 - chance), 1e-6)
    penalty = np.full(design.shape[1], reg * len(design))
    penalty[0] = 0
    hessian = (design * curvature[:, None]).T @ design + np.diag(penalty + 1e-9 * len(design))
    return weights + np.linalg.solve(hessian, design.T @ (target - chance) - penalty * weights)


def _checked(positions: np.ndarray, clicks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places, marks = np.asarray(positions), np.asarray(clicks, dtype=np.float64)
    if places.ndim != 1 or places.shape != marks.shape or places.dtype.kind not in "iu" or (places < 0).any():
        raise DataError("positions and clicks do not fit", remedy="one whole number from 0 and one click a row")
    if not np.isin(marks, (0, 1)).all():
        raise DataError("clicks are not 0 or 1", remedy="whether a row was clicked")
    return places.astype(np.int64), marks


def _check_shown(shown: np.ndarray, clicked: np.ndarray) -> None:
    if len(shown) == 0 or (shown == 0).any():
        position = int(np.argmin(shown)) if len(shown) else 0
        raise DataError(f"position {position} was never shown", remedy="leave positions behind the last one out")
    if clicked[0] == 0:
        raise DataError("the first position was never clicked", remedy="a longer log")
