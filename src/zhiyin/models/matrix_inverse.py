"""The inverse of a large symmetric positive definite matrix, in place."""

from __future__ import annotations

import numpy as np

from zhiyin.core.errors import ConfigError

# LAPACK builds with 32-bit integers crash on larger matrices (seen at 40,981 rows): these are halved first.
MAX_CHOLESKY_ROWS = 23_000
_BLOCK = 2_048


def invert(matrix: np.ndarray, largest: int = MAX_CHOLESKY_ROWS) -> None:
    """Replace the upper triangle of a positive definite float32 matrix by that of its inverse.

    Up to `largest` rows by Cholesky (potrf, potri) in the matrix's own memory. Beyond, by halves: with S = C - Bᵀ A⁻¹ B
    the Schur complement of A in [[A, B], [Bᵀ, C]] and W = A⁻¹ B, the inverse is [[A⁻¹ + W S⁻¹ Wᵀ, -W S⁻¹], [.., S⁻¹]];
    this takes at most one more matrix of memory. Raises ConfigError when the matrix is not positive definite.
    """
    n = len(matrix)
    if n <= largest:
        _cholesky(matrix)
        return
    half = n // 2
    a, b, c = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    invert(a, largest)
    inner = _symmetric(a)
    w = inner @ b
    c -= b.T @ w
    invert(c, largest)
    schur = _symmetric(c)
    np.matmul(w, schur, out=b)
    del schur
    inner += b @ w.T
    a[:] = inner
    np.negative(b, out=b)


def _cholesky(matrix: np.ndarray) -> None:
    """Lower triangle of the transpose, which is the same memory: a contiguous matrix is not copied."""
    from scipy.linalg import lapack

    block = matrix if matrix.flags.c_contiguous else np.ascontiguousarray(matrix)
    _, failed = lapack.spotrf(block.T, lower=1, overwrite_a=1, clean=0)
    if failed == 0:
        _, failed = lapack.spotri(block.T, lower=1, overwrite_c=1)
    if failed:
        raise ConfigError("the item matrix is not positive definite in float32", remedy="a larger reg")
    if block is not matrix:
        matrix[:] = block


def _symmetric(upper: np.ndarray) -> np.ndarray:
    """A full copy of a matrix whose upper triangle is given."""
    full = np.array(upper)
    for top in range(0, len(full), _BLOCK):
        stop = top + _BLOCK
        corner = np.triu(full[top:stop, top:stop])
        full[top:stop, top:stop] = corner + np.triu(corner, 1).T
        full[stop:, top:stop] = full[top:stop, stop:].T
    return full
