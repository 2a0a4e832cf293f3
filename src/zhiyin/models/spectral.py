"""GraphFilter: low-pass filters on the item graph, applied to the history as a signal; without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from scipy import sparse

from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.linear import sparse_times_dense
from zhiyin.models.recommender import Recommender
from zhiyin.models.svd import right_vectors

_WIDTH = 16  # number of histories filtered at once, so that their scores of an item fill one cache line
_DEPTH = 8  # depth of the Krylov basis of the singular vectors, the last of which converge slowly
_ROWS = 512  # number of rows whose low-pass part is added at once


@dataclasses.dataclass
class GraphFilter(Recommender):
    """Graph filters for collaborative filtering without training.

    With X the binary users × items matrix, R = D_u^-1/2 X D_i^-1/2 and S = RᵀR, whose eigenvalues lie in [0, 1], V the
    first `factors` right singular vectors of R, x a history and D the items' numbers of users:

    - `way` = "chebyshev": ChebyCF (Kim et al., SIGIR 2025). score = D^beta (p(I - 2 S) + alpha V Vᵀ) D^-beta x, with p
      the Chebyshev interpolation of degree `order` to the plateau of eq. 13, (1 - sign(t) |t|^flatness) / 2 at t in
      [-1, 1]: signals between smooth and rough pass by half;
    - `way` = "gfcf": GF-CF (Shen et al., CIKM 2021, eq. 14). score = (S + alpha D^1/2 V Vᵀ D^-1/2) x.

    S and p are never formed: a batch of histories is multiplied by R and its transpose `order` times, in blocks that
    stay in cache. Memory is linear in events. A request alone costs 2 · order passes over the events.

    | difference from the paper | why |
    |---|---|
    | p meets the plateau at the nodes of the Chebyshev polynomial of degree order + 1 | the authors' code takes the \
plateau's values at the extrema of the one of degree order; on Gowalla Recall@20 .1936 instead of .1940 |
    """

    way: str = param("chebyshev", "spectral filter", choices=("chebyshev", "gfcf"), tune=("chebyshev", "gfcf"))
    factors: int = param(
        256,
        "singular vectors that the ideal low-pass filter keeps",
        at_least=1,
        at_most=4096,
        tune=(32, 1024),
        log=True,
    )
    alpha: float = param(0.2, "weight of the ideal low-pass filter", at_least=0, tune=(0.0, 0.5))
    beta: float = param(0.4, "chebyshev: power of the popularity that scales the scores", at_least=0, at_most=1,
                        tune=(0.0, 0.6))  # fmt: skip
    order: int = param(8, "chebyshev: degree of the polynomial", at_least=1, at_most=64, tune=(2, 12))
    flatness: float = param(1.5, "chebyshev: flatness of the plateau; 1: a straight line", at_least=0.1, at_most=100,
                            tune=(1.0, 15.0), log=True)  # fmt: skip

    users_: ClassVar[sparse.csr_matrix]
    items_: ClassVar[sparse.csr_matrix]
    degrees_: ClassVar[np.ndarray]
    vectors_: ClassVar[np.ndarray]

    def _fit(self, data: Dataset, run: Run) -> None:
        matrix = data.matrix("binary")
        degrees = np.maximum(np.bincount(matrix.indices, minlength=data.n_items), 1)
        row_lengths = np.diff(matrix.indptr)
        normalized = 1 / np.sqrt(np.repeat(row_lengths, row_lengths).astype(np.float64) * degrees[matrix.indices])
        rows = sparse.csr_matrix((normalized.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)
        self.users_, self.items_ = rows.copy(), rows.T.tocsr()  # type: ignore[misc]
        self.degrees_ = degrees.astype(np.float32)  # type: ignore[misc]
        self.vectors_ = right_vectors(rows, self.factors, _DEPTH, run)[0]  # type: ignore[misc]

    def coefficients(self) -> np.ndarray:
        """float32[order + 1], coefficients of the filter in Chebyshev polynomials of I - 2 S."""
        if self.way == "gfcf":
            return np.array([0.5, -0.5], dtype=np.float32)  # S itself
        return interpolated(self.order, lambda t: plateau(t, self.flatness))

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        signals = histories.matrix(len(self.degrees_))
        flat = self.way == "gfcf"
        scale = np.sqrt(self.degrees_) if flat else self.degrees_ ** np.float32(self.beta)
        scaled = sparse.csr_matrix((signals.data / scale[signals.indices], signals.indices, signals.indptr),
                                   shape=signals.shape)  # fmt: skip
        scores = filtered(signals if flat else scaled, self.users_, self.items_, self.coefficients(), run)
        if not flat:
            scores *= scale
        if self.alpha > 0:
            within = np.float32(self.alpha) * sparse_times_dense(scaled, self.vectors_, run)
            across = np.ascontiguousarray((self.vectors_ * scale[:, None]).T)
            for start in range(0, len(scores), _ROWS):
                scores[start : start + _ROWS] += within[start : start + _ROWS] @ across
        return scores

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """Scores of histories of one item each."""
        return self._score(Histories.of(np.arange(len(items) + 1, dtype=np.int64), items.astype(np.int32)), run)


def plateau(t: np.ndarray, flatness: float) -> np.ndarray:
    """(1 - sign(t) |t|^flatness) / 2: 1 at t = -1, where signals are smoothest, flat around 1/2, and 0 at t = 1."""
    return 0.5 - 0.5 * np.sign(t) * np.abs(t) ** flatness


def interpolated(order: int, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """float32[order + 1]: Chebyshev coefficients of the polynomial that meets a function of [-1, 1] at the nodes."""
    nodes = np.cos((np.arange(order + 1) + 0.5) * np.pi / (order + 1))
    terms = np.polynomial.chebyshev.chebvander(nodes, order)
    coefficients = 2 / (order + 1) * (function(nodes) @ terms)
    coefficients[0] /= 2
    return coefficients.astype(np.float32)


def filtered(
    signals: sparse.csr_matrix, users: sparse.csr_matrix, items: sparse.csr_matrix, coefficients: np.ndarray, run: Run
) -> np.ndarray:
    """float32[n, n_items]: sum over k of coefficients[k] T_k(I - 2 RᵀR) of each row of signals (CSR float32).

    users is R in rows, CSR float32[n_users, n_items], and items its transpose, CSR too.
    """
    n = signals.shape[0]
    scores = np.empty((n, items.shape[0]), dtype=np.float32)
    width = min(_WIDTH, max(1, n))

    def work(start: int, stop: int) -> None:
        _filter(
            signals.indptr, signals.indices, signals.data, users.indptr, users.indices, users.data,
            items.indptr, items.indices, items.data, coefficients, width, start, stop, scores,
        )  # fmt: skip

    for_chunks(work, -(-n // width), run)
    return scores


@kernel
def _filter(
    h_indptr, h_items, h_data, u_indptr, u_items, u_data, i_indptr, i_users, i_data, coefficients, width, start, stop,
    scores,
):  # fmt: skip
    n_items, n_users = len(i_indptr) - 1, len(u_indptr) - 1
    before = np.empty((n_items, width), dtype=np.float32)
    now = np.empty((n_items, width), dtype=np.float32)
    total = np.empty((n_items, width), dtype=np.float32)
    within = np.empty((n_users, width), dtype=np.float32)
    for block in range(start, stop):
        top = block * width
        rows = min(width, len(scores) - top)
        now[:] = 0
        for c in range(rows):
            for at in range(h_indptr[top + c], h_indptr[top + c + 1]):
                now[h_items[at], c] = h_data[at]
        first = coefficients[0]
        for item in range(n_items):
            for c in range(width):
                total[item, c] = first * now[item, c]
                before[item, c] = 0
        for k in range(1, len(coefficients)):
            coefficient = coefficients[k]
            for user in range(n_users):
                _gather(u_items, u_data, u_indptr[user], u_indptr[user + 1], now, within[user])
            # T_1 = M T_0; T_k+1 = 2 M T_k - T_k-1, with M = I - 2 RᵀR.
            twice = np.float32(1) if k == 1 else np.float32(2)
            line = np.empty(width, dtype=np.float32)
            for item in range(n_items):
                _gather(i_users, i_data, i_indptr[item], i_indptr[item + 1], within, line)
                for c in range(width):
                    value = twice * (now[item, c] - np.float32(2) * line[c]) - before[item, c]
                    before[item, c] = value
                    total[item, c] += coefficient * value
            before, now = now, before
        for c in range(rows):
            for item in range(n_items):
                scores[top + c, item] = total[item, c]


@kernel
def _gather(columns, data, at, end, rows, out):
    """out = the weighted sum of rows."""
    width = len(out)
    if width == _WIDTH:
        for c in range(_WIDTH):
            out[c] = 0
        for place in range(at, end):
            row, weight = columns[place], data[place]
            for c in range(_WIDTH):
                out[c] += weight * rows[row, c]
        return
    for c in range(width):
        out[c] = 0
    for place in range(at, end):
        row, weight = columns[place], data[place]
        for c in range(width):
            out[c] += weight * rows[row, c]
