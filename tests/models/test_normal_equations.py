"""Rows of ALS solved by Cholesky's decomposition: the solution in float64, whatever else is solved, and where."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from zhiyin.models.normal_equations import ITEMS_PER_BLOCK, PIVOTS, TILE_ROWS, VECTOR, solve_blocks

EDGES = [0, 1, 2, ITEMS_PER_BLOCK - 1, ITEMS_PER_BLOCK, ITEMS_PER_BLOCK + 1, 3 * ITEMS_PER_BLOCK + 5]
FACTORS = sorted({1, 2, TILE_ROWS, PIVOTS, PIVOTS + 1, VECTOR - 1, VECTOR, VECTOR + 1, 47, 48, 64, 65})


def _problem(lengths: list[int], factors: int, seed: int) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Rows of so many items each with their confidences, the vectors of the items, and YᵀY + reg I."""
    rng = np.random.default_rng(seed)
    n_items = 250
    y = rng.standard_normal((n_items, factors)).astype(np.float32)
    items = [np.sort(rng.choice(n_items, length, replace=False)) for length in lengths]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    data = rng.uniform(0.5, 20, indptr[-1]).astype(np.float32)
    rows = sparse.csr_matrix((data, np.concatenate(items), indptr), shape=(len(lengths), n_items))
    return rows, y, (y.T @ y + 5 * np.eye(factors)).astype(np.float32)


def _solved(
    rows: sparse.csr_matrix, y: np.ndarray, matrix: np.ndarray, x: np.ndarray, width: int = 0, ridge: float = 0.0
) -> np.ndarray:
    """x, improved."""
    penalties = np.full(len(x), ridge, dtype=np.float32) if ridge else np.zeros(0, dtype=np.float32)
    arrays = (rows.indptr, rows.indices, rows.data, x, y, matrix, penalties)
    solve_blocks(*arrays, width or x.shape[1], 0, len(x))
    return x


def _wanted(rows: sparse.csr_matrix, y: np.ndarray, matrix: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """The solution of each row in float64."""
    wanted = np.zeros((rows.shape[0], y.shape[1]))
    for row in range(rows.shape[0]):
        here = slice(rows.indptr[row], rows.indptr[row + 1])
        near, confidence = y[rows.indices[here]].astype(np.float64), rows.data[here].astype(np.float64)
        square = matrix + near.T @ (near * confidence[:, None]) + ridge * np.eye(y.shape[1])
        wanted[row] = np.linalg.solve(square, near.T @ (1 + confidence))
    return wanted


@pytest.mark.parametrize("factors", FACTORS)
def test_rows_have_the_solution_in_float64(factors: int) -> None:
    rows, y, matrix = _problem(EDGES, factors, seed=factors)
    for ridge in (0.0, 3.0):
        x = np.full((len(EDGES), factors), 7, dtype=np.float32)  # where it stood does not matter
        wanted = _wanted(rows, y, matrix, ridge)
        assert np.abs(_solved(rows, y, matrix, x, ridge=ridge) - wanted).max() < 1e-5 * np.abs(wanted).max()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 150), min_size=1, max_size=8),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
)
def test_a_sweep_over_blocks_is_newtons_step_for_each(lengths: list[int], factors: int, width: int, seed: int) -> None:
    """In float64: the slope of the loss is zero in the last block, and each block's step is that of its own square."""
    rows, y, matrix = _problem(lengths, factors, seed)
    width = min(width, factors)
    before = np.random.default_rng(seed).standard_normal((len(lengths), factors)).astype(np.float32)
    wanted = before.astype(np.float64)
    for row, length in enumerate(lengths):
        here = slice(rows.indptr[row], rows.indptr[row + 1])
        near, confidence = y[rows.indices[here]].astype(np.float64), rows.data[here].astype(np.float64)
        square, target = matrix + near.T @ (near * confidence[:, None]), near.T @ (1 + confidence)
        for left in range(0, factors, width):
            block = slice(left, left + width)
            slope = (target - square @ wanted[row])[block]
            wanted[row, block] += np.linalg.solve(square[block, block], slope)
        if not length:
            wanted[row] = 0
    got = _solved(rows, y, matrix, before.copy(), width)
    assert np.abs(got - wanted).max() < 2e-5 * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize(("factors", "width"), [(64, 64), (21, 21), (40, 32)])
def test_a_row_does_not_depend_on_the_rows_beside_it_or_on_memory(factors: int, width: int) -> None:
    """Bit for bit: rows one by one, with vectors that begin at other addresses, and two times."""
    rows, y, matrix = _problem([*EDGES, 30, 90], factors, seed=1)
    start = np.random.default_rng(2).standard_normal((rows.shape[0], factors)).astype(np.float32)
    together = _solved(rows, y, matrix, start.copy(), width)
    np.testing.assert_array_equal(_solved(rows, y, matrix, start.copy(), width), together)
    for row in range(rows.shape[0]):
        for shift in (0, 1, 7):
            memory = np.empty(y.size + shift + factors, dtype=np.float32)
            moved, alone = memory[shift : shift + y.size].reshape(y.shape), memory[shift + y.size :].reshape(1, factors)
            moved[:], alone[:] = y, start[row : row + 1]
            np.testing.assert_array_equal(_solved(rows[row : row + 1], moved, matrix, alone, width)[0], together[row])


def test_a_direction_without_anything_in_it_is_left_at_zero() -> None:
    """Without a penalty, of items that all lie in one plane."""
    rows, y, _ = _problem([30, 100], 20, seed=3)
    y[:, 5] = y[:, 17] = 0
    x = _solved(rows, y, (y.T @ y).astype(np.float32), np.ones((2, 20), dtype=np.float32))
    others = np.delete(np.arange(20), [5, 17])
    assert not x[:, [5, 17]].any()
    wanted = _wanted(rows, y[:, others], (y.T @ y)[np.ix_(others, others)])
    assert np.abs(x[:, others] - wanted).max() < 1e-4 * np.abs(wanted).max()
