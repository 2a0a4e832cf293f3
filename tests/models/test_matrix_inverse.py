"""The inverse of a symmetric positive definite matrix, whole and by halves."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.models.matrix_inverse import invert


@pytest.mark.parametrize("largest", [1000, 160, 40])
def test_the_upper_triangle_equals_the_float64_inverse(largest: int) -> None:
    x = np.random.default_rng(0).random((400, 301)).astype(np.float32)
    matrix = x.T @ x + 50 * np.eye(301, dtype=np.float32)
    exact = np.linalg.inv(matrix.astype(np.float64))
    upper = np.triu(matrix)
    invert(upper, largest)
    assert np.abs(np.triu(upper) - np.triu(exact)).max() < 2e-4 * np.abs(exact).max()


def test_a_matrix_that_is_not_positive_definite_is_refused() -> None:
    with pytest.raises(ConfigError, match="positive definite"):
        invert(np.array([[1.0, 2.0], [2.0, 1.0]], dtype=np.float32))
