"""Scores into probabilities: equal to scikit-learn's, and an error of calibration that is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.errors import DataError
from zhiyin.ranking.calibration import Isotonic, Platt, expected_calibration_error


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans(), st.integers(1, 4)), min_size=1, max_size=60))
def test_isotonic_equals_scikit_learns(rows: list[tuple[int, bool, int]]) -> None:
    from sklearn.isotonic import IsotonicRegression

    scores, labels, weights = (np.array(column, dtype=np.float64) for column in zip(*rows))
    asked = np.linspace(-6, 6, 49)
    peer = IsotonicRegression(out_of_bounds="clip").fit(scores, labels, weights)
    assert np.allclose(Isotonic.fit(scores, labels, weights).apply(asked), peer.predict(asked), atol=1e-9)


def test_platt_is_the_optimum_of_its_loss() -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    scores = rng.normal(size=500) * 3 + 1
    labels = (rng.random(500) < 1 / (1 + np.exp(-0.7 * scores + 0.4))).astype(float)
    target = np.where(labels > 0, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((1 - labels).sum() + 2))

    def loss(line: np.ndarray) -> float:
        z = line[0] * scores + line[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    peer = minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-8}).x
    assert Platt.fit(scores, labels).line == pytest.approx(peer, abs=1e-4)
    backwards = Platt.fit(-scores, labels)
    assert backwards.line[0] == 0
    assert backwards.apply(scores)[0] == pytest.approx(labels.mean(), abs=0.01)


def test_the_error_of_what_is_right_and_of_what_is_off_by_a_tenth() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(200_000) * 0.8 + 0.1
    labels = (rng.random(len(p)) < p).astype(float)
    for how in ("mass", "width"):
        assert expected_calibration_error(labels, p, how=how) < 0.006
        assert expected_calibration_error(p, p, how=how) == pytest.approx(0, abs=1e-9)
        assert expected_calibration_error(p, p - 0.1, how=how) == pytest.approx(0.1)
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([0.5, 0.5]), bins=1) == 0


def test_nothing_to_learn_from() -> None:
    for kind in (Isotonic, Platt):
        with pytest.raises(DataError):
            kind.fit(np.zeros(0), np.zeros(0))
