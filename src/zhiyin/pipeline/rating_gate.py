"""The gate of versions that predict ratings: by RMSE on ratings that were held back, against what is in use and against
the biases of users and items.

The tests are those of `promotion_gate`, on the 95 % interval of the gain in RMSE, by draws of users with all of their
ratings. The gain in RMSE is the gain in mean squared error over the sum of both RMSEs; that sum is taken as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from zhiyin.core.run import Run
from zhiyin.data.evaluable_users import MIN_USERS
from zhiyin.evaluation.significance import bootstrap_interval, standard_error, users_needed
from zhiyin.pipeline.promotion_gate import BOOTSTRAP_ROUNDS, PairedTest, Verdict

# The name of the baseline in verdicts.
BASELINE = "user + item bias"


def decide_by_ratings(
    candidate: np.ndarray,
    baseline: np.ndarray,
    rivals: Mapping[str, np.ndarray],
    users: np.ndarray,
    *,
    margin: float,
    first: bool,
    left_out: Mapping[str, str] | None = None,
    run: Run | None = None,
) -> Verdict:
    """Whether a version may be put in use.

    Parameters
    ----------
    candidate, baseline, rivals: squared errors of the same m ratings, float64[m]; rivals: of versions in use, by name.
    users: int64[m], the user of each rating.
    margin: share of a rival's RMSE that may be lost.
    first: no version is in use: it passes unless the baseline is shown to be better.
    left_out: versions in use that are not compared, and why.
    """
    run = run or Run()
    errors = {"candidate": candidate, BASELINE: baseline, **rivals}
    figures = {name: math.sqrt(float(loss.mean())) for name, loss in errors.items()}
    n_users = len(np.unique(users))
    tests = {
        name: _test(candidate, loss, users, 0.0 if name == BASELINE else -margin * figures[name], first, run)
        for name, loss in errors.items()
        if name != "candidate"
    }
    why = f"rmse {figures['candidate']:.4f} on {len(candidate):,} ratings of {n_users:,} users; "
    why += "; ".join(test.describe(name, n_users, first) for name, test in tests.items())
    why += "".join(f"; {name} is not compared: {reason}" for name, reason in (left_out or {}).items())
    passed = all(test.passed for test in tests.values())
    if first and passed and not tests[BASELINE].low > 0:
        why += f"; the first version is used unless {BASELINE} is shown to be better"
    return Verdict(passed, why, "rmse", figures, tests, n_users, margin, first)


def _test(
    candidate: np.ndarray, other: np.ndarray, users: np.ndarray, bound: float, first: bool, run: Run
) -> PairedTest:
    """Of the gain in RMSE over another model."""
    figure = math.sqrt(float(other.mean()))
    both = figure + math.sqrt(float(candidate.mean()))
    gain = (other - candidate) / both if both else np.zeros(len(other))
    mean, error, n_users = standard_error(gain, users)
    low, high = (float(end[0]) for end in bootstrap_interval(gain[:, None], run, BOOTSTRAP_ROUNDS, groups=users))
    needed = users_needed(error * math.sqrt(n_users), mean - bound) if n_users > 1 else None
    passed = high >= bound if first else n_users >= MIN_USERS and low > bound
    return PairedTest(figure, mean, low, high, bound, passed, needed)
