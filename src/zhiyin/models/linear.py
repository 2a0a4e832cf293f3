"""EASE: item-to-item regression in closed form; and products of sparse and dense matrices."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import sparse

from zhiyin.core.errors import ConfigError
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import param
from zhiyin.core.run import Advance, Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.matrix_inverse import MAX_CHOLESKY_ROWS, invert
from zhiyin.models.recommender import Recommender
from zhiyin.models.row_computation import RowComputation

_TILE = 64
_STRIPE = 256  # number of columns scored at once: 24 MiB per thread for 25,000 items


@dataclasses.dataclass
class EASE(Recommender):
    """Embarrassingly shallow autoencoder (Steck, WWW 2019).

    With X the binary users × items matrix and P = (XᵀX + reg·I)⁻¹, the weights are B = I - P / diag(P) (columns
    divided), whose diagonal is zero, and score(u) = x_u B (eq. 8). A history is scored as x_u.

    Memory is one dense float32 items × items matrix, which holds XᵀX, its inverse and B in turn.
    """

    reg: float = param(
        250.0, "L2 penalty on item weights; higher for sparser data", at_least=1e-6, tune=(10.0, 5000.0), log=True
    )

    def _fit(self, data: Dataset, run: Run) -> None:
        check_memory(data.n_items)
        with run.bar("EASE", 3) as advance:
            weights = gram(data.matrix("binary"), run)
            advance(1)
            self.solve(weights, run, advance)

    def solve(self, weights: np.ndarray, run: Run, advance: Advance = lambda steps, note="": None) -> None:
        """Set the weights from XᵀX, dense float32[n_items, n_items] of which the upper triangle is read; its memory
        becomes that of the weights."""
        weights[np.diag_indices(len(weights))] += np.float32(self.reg)
        invert(weights)
        diagonal = weights.diagonal().copy()
        advance(1)
        _fill_by_tiles(weights, diagonal, run)
        self.weights_ = weights
        advance(1)

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        return sparse_times_dense(histories.matrix(len(self.weights_)), self.weights_, run)

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """Row i of B: the weight of item i in the score of each item."""
        return np.array(self.weights_[items])


def gram(users: sparse.csr_matrix, run: Run) -> np.ndarray:
    """XᵀX of a CSR matrix as dense float32[n, n], upper triangle only; the rest is zero."""
    return gram_rows(users).run(run)[0]


def gram_rows(users: sparse.csr_matrix) -> RowComputation:
    """The computation of `gram`."""
    users.sort_indices()
    items = users.T.tocsr()
    n_items = users.shape[1]
    inputs = (items.indptr, items.indices, items.data, users.indptr, users.indices, users.data)
    cost = np.diff(items.indptr) + 1.0
    return RowComputation(n_items, inputs, (), _compute_gram_rows, ((0, np.float32, n_items),), cost)


def _compute_gram_rows(
    inputs: tuple[np.ndarray, ...], settings: tuple[Any, ...], start: int, stop: int, outputs: tuple[np.ndarray, ...]
) -> None:
    _gram(*inputs, start, stop, *outputs)


def mirror(upper: np.ndarray, run: Run) -> np.ndarray:
    """Copy the upper triangle of a square matrix into its lower one, in place. Returns the matrix."""
    _fill_by_tiles(upper, np.zeros(0, dtype=upper.dtype), run)
    return upper


def sparse_times_dense(rows: sparse.csr_matrix, dense: np.ndarray, run: Run) -> np.ndarray:
    """float32[n, m]: a CSR batch times a dense float32[k, m], computed by stripes of columns.

    For a large batch each stripe is first copied into contiguous memory: in place its rows are a page or more apart,
    and address translation takes longer than the arithmetic. Each stripe is handled, and copied, by one thread.
    """
    out = np.empty((rows.shape[0], dense.shape[1]), dtype=np.float32)
    pack = rows.nnz > 4 * len(dense)
    stripes = -(-dense.shape[1] // _STRIPE)

    def work(start: int, stop: int) -> None:
        _striped(rows.indptr, rows.indices, rows.data, dense, pack, _STRIPE, start, stop, out)

    for_chunks(work, stripes, run, chunk=max(1, stripes // (8 * run.n_threads)))
    return out


def check_memory(n_items: int) -> None:
    """Raise ConfigError where the weights do not fit into free memory, before the computation begins."""
    needed = 4 * n_items * n_items * (1 if n_items <= MAX_CHOLESKY_ROWS else 2)  # larger ones are inverted by halves
    try:
        with open("/proc/meminfo") as info:
            free = next(int(line.split()[1]) * 1024 for line in info if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return
    if needed > free:
        raise ConfigError(
            f"EASE over {n_items:,} items needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free",
            remedy="use ItemKNN or ALS, whose memory grows with the events, or leave out rare items",
        )


def _fill_by_tiles(upper: np.ndarray, diagonal: np.ndarray, run: Run) -> None:
    """Apply `_fill_from_upper` to all rows of tiles, in place."""
    tiles = -(-len(upper) // _TILE)

    def work(start: int, stop: int) -> None:
        _fill_from_upper(upper, diagonal, _TILE, start, stop)

    for_chunks(work, tiles, run, chunk=max(1, tiles // 64))


@kernel
def _gram(i_indptr, i_users, i_data, u_indptr, u_items, u_data, start, stop, out):
    for item in range(start, stop):
        line = out[item - start]
        for at in range(i_indptr[item], i_indptr[item + 1]):
            user, weight = i_users[at], i_data[at]
            for to in range(u_indptr[user + 1] - 1, u_indptr[user] - 1, -1):  # sorted: the upper triangle comes last
                other = u_items[to]
                if other < item:
                    break
                line[other] += weight * u_data[to]


@kernel
def _fill_from_upper(p, diagonal, tile, start, stop):
    """The lower triangle of a symmetric P from its upper one; with the diagonal of P, all of B = I - P / diag(P)."""
    n, divided = len(p), len(diagonal) > 0
    for tile_row in range(start, stop):
        for tile_col in range(tile_row, (n + tile - 1) // tile):
            for i in range(tile_row * tile, min(n, (tile_row + 1) * tile)):
                for j in range(max(i + 1, tile_col * tile), min(n, (tile_col + 1) * tile)):
                    if divided:
                        value = -p[i, j]
                        p[i, j] = value / diagonal[j]
                        p[j, i] = value / diagonal[i]
                    else:
                        p[j, i] = p[i, j]
        if divided:
            for i in range(tile_row * tile, min(n, (tile_row + 1) * tile)):
                p[i, i] = 0


@kernel
def _striped(indptr, items, data, dense, pack, width, start, stop, out):
    lines = len(dense) if pack else 0
    packed = np.empty((lines, width), dtype=np.float32)
    # Padding: where arrays nearly overlap, another version of the loop runs, with other rounding.
    total = np.empty(width + 512, dtype=np.float32)[256 : 256 + width]
    for stripe in range(start, stop):
        left = stripe * width
        size = min(width, dense.shape[1] - left)
        for line in range(lines):
            for column in range(size):
                packed[line, column] = dense[line, left + column]
        for row in range(len(out)):
            if pack:
                _add_up(items, data, indptr[row], indptr[row + 1], packed, 0, size, total)
            else:
                _add_up(items, data, indptr[row], indptr[row + 1], dense, left, size, total)
            for column in range(size):
                out[row, left + column] = total[column]


@kernel
def _add_up(items, data, at, end, dense, left, size, total):
    """total = weighted sum of rows of `dense`, four rows per pass; indexed, as views would be slower."""
    for column in range(size):
        total[column] = 0
    while at + 4 <= end:
        a, b, c, d = items[at], items[at + 1], items[at + 2], items[at + 3]
        wa, wb, wc, wd = data[at], data[at + 1], data[at + 2], data[at + 3]
        for column in range(size):
            total[column] += (
                wa * dense[a, left + column] + wb * dense[b, left + column]
                + wc * dense[c, left + column] + wd * dense[d, left + column]
            )  # fmt: skip
        at += 4
    while at < end:
        a, wa = items[at], data[at]
        for column in range(size):
            total[column] += wa * dense[a, left + column]
        at += 1
