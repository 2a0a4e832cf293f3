"""TimeSVD++: SVD++ with biases, and optionally user factors, that change with time."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from zhiyin.core.parallel import kernel
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.ratings.rating_model import fold, repeats_share
from zhiyin.models.ratings.sgd_model import SGDRatingModel
from zhiyin.models.ratings.svdpp import implicit_sums, share_implicit_step, start_implicit_sum
from zhiyin.models.ratings.temporal_effects import Moments, day_terms, without_days


@dataclasses.dataclass
class TimeSVDpp(SGDRatingModel):
    """timeSVD++ (Koren, "Collaborative filtering with temporal dynamics", KDD 2009; CACM 2010).

    r̂_ui(t) = μ + b_u + α_u dev_u(t) + b_u,day(t) + (b_i + b_i,bin(t)) (c_u + c_u,day(t)) + q_i·(p_u(t) + z_u), with z_u
    the implicit sum of `SVDpp`, p_u(t) = p_u + a_u dev_u(t) where `factor_drift`, and dev_u(t) = sign(t - t_u)
    |t - t_u|^power, t_u the mean moment of the user's ratings. Minimises the squared error with the penalties of
    `SVDpp`, and once for each parameter reg_bin b_i,bin² + reg_drift (α_u² + (c_u - 1)² + |a_u|²) + reg_day (b_u,day² +
    c_u,day²), by the same descent.

    A score is for the moment `now` of a history, or `times` of `predict`. A user is folded in: all that is the user's
    (b_u, α_u, c_u, p_u, a_u and the days) is solved exactly against fixed items.

    | difference from the paper | why |
    |---|---|
    | temporal terms are penalised once each, not once per rating | a day with one rating is weaker evidence than one of
    fifty |
    | dev_u is divided by the largest of the training part | a step is as long whatever the span |
    | no drift after a user's last rating, or the last bin | requests are mostly later than the training data |
    | no vector for each day of a user | it would be as long as the log |
    | y_j and the penalties as in `SVDpp` | see there |

    A log without times leaves an `SVDpp` with a scale c_u of each user.

    The defaults but reg_bin are those of `SVDpp`, and first guesses: none of some twenty changes to one of them was
    better by .0002 in RMSE on tenths cut from the train parts of folds u1 and u3 of MovieLens-100k. There reg_bin is
    flat above 50, bins of seven days saying nothing of films. Of .0128 below `SVDpp`, c_u brings .0067 without
    any time, days .0037, and drift the rest.
    """

    bins: int = param(30, "time bins of equal length for an item's bias", at_least=1, at_most=1000, tune=(5, 60))
    power: float = param(
        0.4, "power of the time distance from a user's mean date", at_least=0, at_most=2, tune=(0.2, 1.0)
    )
    reg_bin: float = param(200.0, "L2 penalty on an item's bias in a time bin", at_least=1e-3, tune=(1, 1000), log=True)
    reg_drift: float = param(10.0, "L2 penalty on a user's drift and scale", at_least=1e-3, tune=(1, 100), log=True)
    reg_day: float = param(
        10.0, "L2 penalty on a user's bias and scale of one day", at_least=1e-3, tune=(1, 100), log=True
    )
    day_bias: bool = param(True, "learn a bias and a scale for each day of a user")
    scaling: bool = param(True, "learn a scale of the item biases for each user")
    factor_drift: bool = param(False, "let the vectors of users drift, too")
    timed: ClassVar[bool] = True
    implicit_: ClassVar[np.ndarray]
    mean_: ClassVar[float]
    unit_: ClassVar[float]
    window_: ClassVar[np.ndarray]

    def _fit(self, data: Dataset, run: Run) -> None:
        histories, rng = data.histories, run.rng(54)
        rated = self._learn_scale(histories)
        given, ratings, owner = rated.histories, rated.ratings, rated.owner
        self.window_ = np.array([given.times.min(), given.times.max()])  # type: ignore[misc]
        when = self._moments(given)
        self.unit_ = float(np.abs(when.deviations).max()) or 1.0  # type: ignore[misc]
        self.mean_ = float(ratings.mean(dtype=np.float64))  # type: ignore[misc]
        n_users, n_items, f = data.n_users, data.n_items, self.factors
        counts, once = np.diff(when.starts), repeats_share(histories)
        day = np.repeat(np.arange(len(counts)), counts)
        in_bin = given.items * np.int64(self.bins) + when.bins
        events_per_bin = np.bincount(in_bin, minlength=n_items * self.bins)
        shares = np.stack([1 / np.bincount(owner)[owner], 1 / counts[day], 1 / events_per_bin[in_bin]], axis=1)
        users, items = np.zeros((n_users, 3), np.float32), np.zeros((n_items, 1 + self.bins), np.float32)
        users[:, 2] = 1
        days = np.zeros((len(counts), 2), np.float32)
        p, a = self._start_vectors(n_users, rng), np.zeros((n_users, f if self.factor_drift else 0), np.float32)
        q, y = self._start_vectors(n_items, rng), self._start_vectors(n_items, rng)
        q[np.bincount(given.items, minlength=n_items) == 0] = 0
        y[np.bincount(histories.items, minlength=n_items) == 0] = 0
        penalties = np.array([self.reg, self.reg_bias, self.reg_drift, self.reg_day, self.reg_bin], np.float32)

        def pass_over_ratings(rate: np.float32) -> float:
            order = np.lexsort((rng.random(len(ratings), dtype=np.float32), owner))
            return sweep(
                rng.permutation(n_users), order, given.offsets, given.items, ratings, histories.offsets,
                histories.items, when.bins, when.deviations / np.float32(self.unit_), day, shares.astype(np.float32),
                np.float32(self.mean_), users, days, items, p, a, q, y, once, rate, penalties, self._error_limit,
                self.day_bias, self.scaling,
            )  # fmt: skip

        self._train(pass_over_ratings, len(ratings), run)
        ones = np.ones((n_items, 1), np.float32)
        self.item_vectors_ = np.hstack([items[:, :1], ones, q, items[:, 1:]])  # type: ignore[misc]
        self.implicit_ = y  # type: ignore[misc]

    def _encode(self, histories: Histories, run: Run) -> np.ndarray:
        """float32[n, 2 + factors + bins]: the scale of items' biases, what the user adds to all items, the vector with
        its implicit sum, and the scale again in the bin of `now`, zeros in the others."""
        n, f, rated = len(histories), self.factors, self._ratings(histories)
        given, items = rated.histories, rated.histories.items
        when, unit = self._moments(given), np.float32(self.unit_)
        sums = implicit_sums(histories.offsets, histories.items, self.implicit_)
        vectors = self.item_vectors_[:, 2 : 2 + f][items]
        item_biases = self.item_vectors_[items, 0] + self.item_vectors_[items, 2 + f + when.bins]
        drift, query_drift = when.deviations / unit, when.asked_deviations / unit
        targets = rated.ratings - np.float32(self.mean_) - item_biases
        targets -= np.einsum("ef,ef->e", sums[rated.owner], vectors)
        parts = [np.ones_like(drift), drift, item_biases * np.float32(self.scaling), vectors]
        penalty = [self.reg_bias, self.reg_drift, self.reg_drift, *[self.reg] * f]
        if self.factor_drift:
            parts.append(vectors * drift[:, None])
            penalty += [self.reg_drift] * f
        design = np.column_stack(parts)
        penalties = np.maximum(np.array(penalty, np.float32) * np.float32(self.fold_reg), np.float32(1e-4))
        each = np.ones(len(penalties), dtype=bool)
        each[1:3] = each[3 + f :] = False
        free, rows, by_day = targets.copy(), design.copy(), np.float32(self.fold_reg * self.reg_day)
        if self.day_bias:
            without_days(when.starts, 2, by_day, free, rows)
        x = fold(given, free, rows, penalties, each, run)
        out = np.zeros((n, 2 + f + self.bins), dtype=np.float32)
        out[:, 0] = 1 + x[:, 2]
        out[:, 1] = np.float32(self.mean_) + x[:, 0] + x[:, 1] * query_drift
        out[:, 2 : 2 + f] = x[:, 3 : 3 + f] + sums
        if self.factor_drift:
            out[:, 2 : 2 + f] += x[:, 3 + f :] * query_drift[:, None]
        if self.day_bias:
            terms = day_terms(given.offsets, when.days, when.asked_days, 2, by_day, targets, design, x)
            out[:, 1] += terms[:, 0]
            out[:, 0] += terms[:, 1]
        out[np.arange(n), 2 + f + when.asked_bins] = out[:, 0]
        return out

    def _moments(self, histories: Histories) -> Moments:
        return Moments.of(histories, (int(self.window_[0]), int(self.window_[1])), self.bins, self.power)

    def _tastes(self) -> np.ndarray:
        tastes = self.item_vectors_[:, 2 : 2 + self.factors]
        return tastes / np.maximum(np.linalg.norm(tastes, axis=1, keepdims=True), 1e-12)


@kernel
def sweep(
    order_of_users, order, offsets, item, ratings, seen_offsets, seen, bins, devs, day, shares, mean, users, days,
    items, p, a, q, y, once, rate, penalties, limit, day_bias, scaling,
):  # fmt: skip
    """One pass of gradient steps, none of an error above `limit`; returns the sum of squared errors before each.

    offsets, item, ratings: the ratings of each user; seen_offsets, seen: all items of each history.
    users: [n_users, 3], b_u, α_u, c_u; days: [n_days, 2], b and c of each user's day; items: [n_items, 1 + bins], b_i
    and the bins; a: [n_users, 0 or factors]; shares: [m, 3], one over the ratings of the user, of the day, of the item
    in the bin; penalties: reg, reg_bias, reg_drift, reg_day, reg_bin. The implicit sum moves as in `SVDpp`, with
    `once` for its `share`. Penalties that stand once a parameter are taken after the step, as a shrinkage, which no
    penalty makes unstable.
    """
    f, total, drifting = p.shape[1], 0.0, a.shape[1] > 0
    reg, reg_bias, reg_drift, reg_day, reg_bin = penalties
    one = rate / rate
    z, start = np.empty(f, dtype=p.dtype), np.empty(f, dtype=p.dtype)
    for u in order_of_users:
        first, last = offsets[u], offsets[u + 1]
        if first == last:
            continue
        scale = start_implicit_sum(seen, seen_offsets[u], seen_offsets[u + 1], y, z, start)
        slow = one / (one + rate * reg_drift * shares[first, 0])
        for at in range(first, last):
            e = order[at]
            i, d, t, g = item[e], day[e], 1 + bins[e], devs[e]
            item_bias, c = items[i, 0] + items[i, t], users[u, 2] + days[d, 1]
            product = p[u, 0] * 0
            if drifting:
                for j in range(f):
                    product += (p[u, j] + z[j] + g * a[u, j]) * q[i, j]
            else:
                for j in range(f):
                    product += (p[u, j] + z[j]) * q[i, j]
            error = ratings[e] - mean - users[u, 0] - users[u, 1] * g - days[d, 0] - item_bias * c - product
            total += error * error
            error = min(max(error, -limit), limit)
            users[u, 0] += rate * (error - reg_bias * users[u, 0])
            users[u, 1] = slow * (users[u, 1] + rate * error * g)
            items[i, 0] += rate * (error * c - reg_bias * items[i, 0])
            items[i, t] = (items[i, t] + rate * error * c) / (one + rate * reg_bin * shares[e, 2])
            if scaling:
                users[u, 2] = one + slow * (users[u, 2] - one + rate * error * item_bias)
            if day_bias:
                keep = one / (one + rate * reg_day * shares[e, 1])
                days[d, 0] = keep * (days[d, 0] + rate * error)
                if scaling:
                    days[d, 1] = keep * (days[d, 1] + rate * error * item_bias)
            for j in range(f):
                left, right, implicit = p[u, j], q[i, j], z[j]
                whole = left + implicit
                if drifting:
                    whole += g * a[u, j]
                    a[u, j] = slow * (a[u, j] + rate * error * g * right)
                p[u, j] = left + rate * (error * right - reg * left)
                z[j] = implicit + rate * (error * right - reg * implicit)
                q[i, j] = right + rate * (error * whole - reg * right)
        share_implicit_step(seen, seen_offsets[u], seen_offsets[u + 1], y, z, start, scale * once[u])
    return total
