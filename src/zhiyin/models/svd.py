"""PureSVD: truncated singular value decomposition of the users × items matrix."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models import search_plan
from zhiyin.models.linear import sparse_times_dense
from zhiyin.models.recommender import VectorRecommender

_BEYOND = 16  # oversampling: singular vectors computed in addition to `factors`, as the last ones converge slowest
_CHUNK = 1 << 16  # users multiplied at once


@dataclasses.dataclass
class PureSVD(VectorRecommender):
    """Truncated singular value decomposition of the users × items matrix (Cremonesi, Koren & Turrin, RecSys 2010).

    With R = U S Vᵀ cut to `factors` columns, what is missing counted as zero, score(u) = r_u V Vᵀ (eq. 5): a history
    is folded in by the same product that scores it, for known and unknown users alike.

    V comes from a seeded block Krylov iteration (Musco & Musco, NeurIPS 2015), exact once its basis spans the
    catalogue, which it does for a few hundred items. Directions with singular value 0 are left out, so the vectors
    may be shorter than `factors`.
    """

    factors: int = param(64, "singular vectors kept", at_least=1, at_most=4096, tune=(8, 512), log=True)
    entries: str = param("binary", "entries of the matrix R: 1, or the weights of events", choices=("binary", "weight"))
    depth: int = param(4, "products with RᵀR in the Krylov basis", at_least=1, at_most=50)

    def _fit(self, data: Dataset, run: Run) -> None:
        vectors, strengths = right_vectors(data.matrix(self.entries), self.factors, self.depth, run)
        self.item_vectors_ = vectors  # type: ignore[misc]
        self.strengths_ = strengths

    def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """Vectors of histories, float32[n, d]: r_u V."""
        rows = histories.matrix(len(self.item_vectors_), self.entries)
        return sparse_times_dense(rows, self.item_vectors_, run or Run())

    def _put_search(self, table: ArrayTable, base: int, run: Run) -> int:
        kind = super()._put_search(table, base, run)
        if kind != search_plan.VECTORS or type(self).encode is not PureSVD.encode:
            return kind
        return search_plan.put_fold(table, base, search_plan.FOLD_SUM, self.entries)


def right_vectors(rows: sparse.csr_matrix, factors: int, depth: int, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The first right singular vectors of a CSR matrix, float32[n_items, d], and their values, float32[d].

    d is `factors` or the rank, if that is less (one column of zeros for rank 0). The strongest come first; each has
    its largest entry positive.
    """
    n_items = rows.shape[1]
    width = factors + _BEYOND
    spanned = width * (depth + 1) >= n_items
    basis = np.eye(n_items, dtype=np.float32) if spanned else _krylov(rows, width, depth, run)
    # RᵀR within the basis: its eigenvectors are the best that the basis holds (Rayleigh and Ritz).
    within = basis.T.astype(np.float64) @ _twice(rows, basis, run)
    squares, turned = np.linalg.eigh((within + within.T) / 2)
    squares, turned = squares[::-1][:factors], turned[:, ::-1][:, :factors]
    real = squares > max(1e-6 * squares[0], 1e-20)
    if not real.any():
        return np.zeros((n_items, 1), dtype=np.float32), np.zeros(1, dtype=np.float32)
    vectors = basis.astype(np.float64) @ turned[:, real]
    largest = np.abs(vectors).argmax(axis=0)
    vectors *= np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return np.ascontiguousarray(vectors, dtype=np.float32), np.sqrt(squares[real]).astype(np.float32)


def _krylov(rows: sparse.csr_matrix, width: int, depth: int, run: Run) -> np.ndarray:
    """An orthonormal basis float32[n_items, width · (depth + 1)] from products of RᵀR with random vectors."""
    block = run.rng(12).standard_normal((rows.shape[1], width)).astype(np.float32)
    blocks: list[np.ndarray] = []
    with run.bar("PureSVD", depth + 1) as advance:
        for _ in range(depth + 1):
            block = _twice(rows, block, run)
            # Orthogonalized twice, as one pass leaves a remainder of the basis.
            for _ in range(2):
                for other in blocks:
                    block -= other @ (other.T @ block)
                block = np.linalg.qr(block)[0]
            blocks.append(block)
            advance(1)
    return np.concatenate(blocks, axis=1)


def _twice(rows: sparse.csr_matrix, block: np.ndarray, run: Run) -> np.ndarray:
    """RᵀR block, float32, some users at a time."""
    total = np.zeros_like(block)
    block = np.ascontiguousarray(block)
    for start in range(0, rows.shape[0], _CHUNK):
        part = rows[start : start + _CHUNK]
        total += sparse_times_dense(part.T.tocsr(), sparse_times_dense(part, block, run), run)
    return total
