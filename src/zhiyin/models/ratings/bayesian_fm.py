"""BayesianFM: factorisation machine over users, items, implicit feedback and columns, by Gibbs sampling."""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from zhiyin.core.parallel import kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.ratings.one_hot import OneHot
from zhiyin.models.ratings.rating_model import RatingModel, fold


@dataclasses.dataclass
class BayesianFM(RatingModel):
    """Bayesian factorisation machine by Gibbs sampling (Rendle, Zhang & Koren, "On the difficulty of evaluating
    baselines", 2019; sampler of Freudenthaler, Schmidt-Thieme & Rendle, "Bayesian factorization machines", 2011).

    r̂_ui = w_0 + w_u + w_i + U_u·I_i. The vector of a user is the sum of those of its features: itself, the items it
    has rated (each times |N(u)|^-½, as in SVD++), its columns; the vector of an item likewise: itself, the users who
    rated it, its columns. Each kind of feature has its own normal prior in each dimension, whose mean and precision are
    sampled too, so that no penalty is to be tuned. Predictions are means over samples of the posterior.

    Coordinates are sampled one after the other; the terms of a user's or item's ratings are summed once per dimension,
    so that a feature costs its users and not its ratings (Rendle, "Scaling factorization machines to relational data",
    VLDB 2013). A sweep is O(factors · (ratings + non-zeros of the features)).

    A user at serving time is folded in: for each kept sample, the mean of (w_u, v_u) given the history and the items.

    The result is flat around the default of factors: 8, 12 and 16 are within .001 by RMSE on tenths cut from the train
    parts of the folds u1 and u3 of MovieLens-100k; 32 is worse.

    | difference from the paper | why |
    |---|---|
    | no interaction of a user's features with one another, nor of an item's | they are constants of one user or item |
    | the user is the mean of its posterior given a sample of the items, not a sample | strangers; less noise |
    | no time | predictions are for moments after the training data |

    Memory: 4 · kept · 2 (factors + 1) bytes an item.
    """

    factors: int = param(12, "length of the vectors", at_least=1, at_most=512, tune=(4, 32), log=True)
    sweeps: int = param(120, "samples drawn", at_least=2, tune=(60, 500), log=True)
    burn: int = param(40, "first samples that are discarded (burn-in)", at_least=0, at_most=10_000)
    kept: int = param(32, "samples kept, spread evenly after the burn-in", at_least=1, at_most=1000)
    implicit: bool = param(True, "use which items were rated and by whom, besides the ratings")
    columns: bool = param(True, "use the columns of users and items")
    seen_: ClassVar[np.ndarray]
    offsets_: ClassVar[np.ndarray]
    described_: ClassVar[np.ndarray]
    prior_: ClassVar[np.ndarray]
    user_columns_: ClassVar[list[Any]]

    def _fit(self, data: Dataset, run: Run) -> None:
        rated, rng = self._learn_scale(data.histories), run.rng(53)
        ratings, user, item = rated.ratings, rated.owner, rated.histories.items
        seen = _pairs(data.histories, data.n_items)
        described = [OneHot.of(frame if self.columns else frame.select("id")) for frame in (data.users, data.items)]
        users = _Block.of(data.n_users, seen if self.implicit else None, described[0].encode(data.users), self.factors)
        items = _Block.of(
            data.n_items, seen.T if self.implicit else None, described[1].encode(data.items), self.factors
        )
        for block in (users, items):
            block.begin(rng)
        error = ratings - ratings.mean(dtype=np.float64)
        for k in range(self.factors):
            error -= users.rows[1 + k, user] * items.rows[1 + k, item]
        mean, keep = float(ratings.mean(dtype=np.float64)), self._which()
        samples: list[tuple[np.ndarray, ...]] = []
        started = time.perf_counter()
        with run.bar("BayesianFM", self.sweeps) as advance:
            for sweep in range(self.sweeps):
                alpha = rng.gamma((1 + len(error)) / 2) * 2 / (1 + float(error @ error))
                precision = alpha * len(error)
                moved = float(error.mean()) + rng.standard_normal() / np.sqrt(precision)
                mean, error = mean + moved, error - moved
                for block, other, row, partner in (
                    (users, items, user, item),
                    (items, users, item, user),
                ):
                    block.draw_prior(rng)
                    for k in range(1 + self.factors):
                        block.draw(k, other.rows[k] if k else None, row, partner, error, alpha, rng)
                if sweep in keep:
                    samples.append((mean + items.rows[0], items.rows[1:].T.copy(), *users.parts(alpha)))
                advance(1)
                rmse = float(np.sqrt(error @ error / len(error)))
                seconds = time.perf_counter() - started
                run.report(model="BayesianFM", epoch=sweep + 1, of=self.sweeps, loss=rmse, seconds=seconds)
        offset = np.mean([sample[0] for sample in samples], axis=0)
        parts = [offset[:, None], np.ones((data.n_items, 1)), *(sample[1] for sample in samples)]
        self.item_vectors_ = np.hstack(parts, dtype=np.float32)  # type: ignore[misc]
        self.offsets_ = np.array([sample[0] for sample in samples], dtype=np.float32)  # type: ignore[misc]
        self.seen_, self.described_, self.prior_ = (  # type: ignore[misc]
            np.array([sample[part] for sample in samples], dtype=np.float32) for part in (2, 3, 4)
        )
        self.user_columns_ = described[0].columns  # type: ignore[misc]

    def _which(self) -> set[int]:
        """The sweeps whose samples are kept; the last one among them."""
        first = min(self.burn, self.sweeps - 1)
        return set(np.linspace(self.sweeps - 1, first, min(self.kept, self.sweeps - first)).astype(int).tolist())

    def _encode(self, histories: Histories, run: Run) -> np.ndarray:
        """float32[n, 2 + kept · factors]: one, the bias, and the vectors of each history in every kept sample."""
        n, n_samples, rated = len(histories), len(self.prior_), self._ratings(histories)
        given, owner = rated.histories, rated.owner
        seen = _pairs(histories, len(self.item_vectors_))
        columns = OneHot(self.user_columns_).encode(histories.features, n)
        vectors = np.zeros((n, 2 + n_samples * self.factors), dtype=np.float32)
        vectors[:, 0] = 1
        event_vectors = self.item_vectors_[given.items]
        design = np.ones((len(event_vectors), 1 + self.factors), np.float32)
        for s in range(n_samples):
            place = slice(2 + s * self.factors, 2 + (s + 1) * self.factors)
            design[:, 1:] = event_vectors[:, place]
            base = self.prior_[s, 0] + columns @ self.described_[s]
            if self.implicit:
                base = base + seen @ self.seen_[s]
            base = np.ascontiguousarray(base, dtype=np.float32)
            targets = rated.ratings - self.offsets_[s, given.items]
            _subtract(targets, base, owner, design)
            x = base + fold(given, targets, design, self.prior_[s, 1], False, run)
            vectors[:, 1] += x[:, 0] / n_samples
            vectors[:, place] = x[:, 1:] / np.float32(n_samples)
        return vectors


@dataclasses.dataclass
class _Block:
    """The features of users, or of items, and the current sample of their parameters.

    matrix: CSC float64[rows, features]; ends: where each group of features ends: itself, the implicit ones, columns;
    theta: float64[1 + factors, features], biases first; rows: float64[1 + factors, rows], theta added up a row;
    mean, precision: float64[groups, 1 + factors], the priors.
    """

    matrix: sparse.csc_matrix
    ends: list[int]
    theta: np.ndarray
    rows: np.ndarray
    mean: np.ndarray
    precision: np.ndarray
    has_seen: bool
    has_columns: bool

    @classmethod
    def of(cls, n: int, seen: sparse.spmatrix | None, columns: sparse.csr_matrix, factors: int) -> _Block:
        groups = [sparse.identity(n, format="csr"), *([_unit(seen)] if seen is not None else []), columns]
        groups = [group for group in groups if group.shape[1]]
        matrix = sparse.hstack(groups, format="csc", dtype=np.float64)
        ends = np.cumsum([group.shape[1] for group in groups]).tolist()
        shape = (len(groups), 1 + factors)
        theta, rows = np.zeros((1 + factors, matrix.shape[1])), np.zeros((1 + factors, n))
        has_columns = columns.shape[1] > 0
        return cls(matrix, ends, theta, rows, np.zeros(shape), np.ones(shape), seen is not None, has_columns)

    def begin(self, rng: np.random.Generator) -> None:
        """Small random vectors, no biases."""
        self.theta[1:] = 0.1 * rng.standard_normal(self.theta[1:].shape)
        self.rows[:] = (self.matrix @ self.theta.T).T

    def draw_prior(self, rng: np.random.Generator) -> None:
        """Mean and precision of each group and dimension: normal-gamma, its parameters all 1 as in libFM."""
        for group, (first, last) in enumerate(itertools.pairwise([0, *self.ends])):
            part, mean = self.theta[:, first:last], self.mean[group]
            n = last - first
            spread = np.sum((part - mean[:, None]) ** 2, axis=1) + mean**2 + 1
            self.precision[group] = rng.gamma((2 + n) / 2, size=len(mean)) * 2 / spread
            noise = rng.standard_normal(len(mean)) / np.sqrt((n + 1) * self.precision[group])
            self.mean[group] = part.sum(axis=1) / (n + 1) + noise

    def draw(
        self,
        k: int,
        other: np.ndarray | None,
        row: np.ndarray,
        partner: np.ndarray,
        error: np.ndarray,
        alpha: float,
        rng: np.random.Generator,
    ) -> None:
        """Draw every coordinate of dimension k; `other`: what multiplies it, float64[rows of the other block]."""
        sizes = np.diff([0, *self.ends])
        mean, precision = np.repeat(self.mean[:, k], sizes), np.repeat(self.precision[:, k], sizes)
        noise, m = rng.standard_normal(len(mean)), self.matrix
        factor = np.ones(int(partner.max()) + 1) if other is None else other
        _draw(
            m.indptr, m.indices, m.data, self.theta[k], self.rows[k], row, partner, factor, error, mean, precision,
            alpha, noise,
        )  # fmt: skip

    def parts(self, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What folding in needs, copied: theta of the implicit features and of columns, float64[features, 1 + factors],
        and of a row itself the prior's mean and its precision over alpha, float64[2, 1 + factors]."""
        bounds = [0, *self.ends]
        none = np.zeros((0, len(self.theta)))
        implicit = self.theta[:, bounds[1] : bounds[2]].T.copy() if self.has_seen else none
        columns = self.theta[:, bounds[-2] :].T.copy() if self.has_columns else none
        return implicit, columns, np.array([self.mean[0], self.precision[0] / alpha])


def _pairs(histories: Histories, n_items: int) -> sparse.csr_matrix:
    """CSR float32[n, n_items]: which items a history holds, rows of length 1; empty ones stay so."""
    offsets = histories.offsets
    ones = np.ones(len(histories.items), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, histories.items, offsets), shape=(len(histories), n_items), copy=True)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return _unit(matrix)


def _unit(matrix: sparse.spmatrix) -> sparse.csr_matrix:
    """The pattern of a matrix with rows of length 1."""
    rows = sparse.csr_matrix(matrix)
    counts = np.diff(rows.indptr)
    data = np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts).astype(np.float32)
    return sparse.csr_matrix((data, rows.indices, rows.indptr), shape=rows.shape)


@kernel
def _draw(indptr, rows, x, theta, value, row, partner, factor, error, mean, precision, alpha, noise):
    """One dimension of one block. `error` is what the ratings are above their predictions, and stays so."""
    square, product = np.zeros(len(value)), np.zeros(len(value))
    moved = np.zeros(len(value))
    for e in range(len(error)):
        q = factor[partner[e]]
        square[row[e]] += q * q
        product[row[e]] += q * error[e]
    for f in range(len(theta)):
        a = b = 0.0
        for at in range(indptr[f], indptr[f + 1]):
            a += x[at] * x[at] * square[rows[at]]
            b += x[at] * product[rows[at]]
        sharp = precision[f] + alpha * a
        step = (alpha * (b + theta[f] * a) + precision[f] * mean[f]) / sharp + noise[f] / np.sqrt(sharp) - theta[f]
        theta[f] += step
        for at in range(indptr[f], indptr[f + 1]):
            r = rows[at]
            product[r] -= square[r] * x[at] * step
            moved[r] += x[at] * step
    for r in range(len(value)):
        value[r] += moved[r]
    for e in range(len(error)):
        error[e] -= factor[partner[e]] * moved[row[e]]


@kernel
def _subtract(targets, base, owner, design):
    """targets_e -= base[owner_e] · design_e."""
    for e in range(len(targets)):
        total = np.float32(0)
        for j in range(base.shape[1]):
            total += base[owner[e], j] * design[e, j]
        targets[e] -= total
