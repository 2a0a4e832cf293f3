"""SegmentPopular: what is popular among users with the same columns; who has done nothing yet gets an answer by it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ConfigError
from zhiyin.core.params import param
from zhiyin.core.ranking_metrics import hits_of, ndcg
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.features.user_segments import UserSegments
from zhiyin.models.recommender import VectorRecommender
from zhiyin.models.topk import top_k

# Shrinkages that are tried on held-out users; infinity: popularity alone.
SHRINKAGES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, np.inf)
# Share of the users held out for it, how many at most, and the length of their lists.
HELD_OUT_SHARE, MAX_HELD_OUT, LIST_LENGTH = 0.2, 2_000, 20
# Fewer users with columns do not tell shrinkages apart: DEFAULT_SHRINKAGE then.
MIN_USERS, DEFAULT_SHRINKAGE = 100, 30.0
# Items whose effects are computed at once.
ITEMS_PER_BLOCK = 1 << 16


@dataclasses.dataclass
class SegmentPopular(VectorRecommender):
    """The share of users who have an item, by the segments a user is in.

        score(u, i) = mean(i) + sum over segments s of u of effect(s, i)

    mean(i) is the share of users with i. Segments are values of user columns, and pairs of values; a user is in
    several. The effects are the ridge solution of (share - mean) over the users' segments,

        effect = (FᵀF + reg I)⁻¹ Fᵀ (R - mean),     F users × segments, R users × items,

    so an effect of a segment of few users shrinks towards what its larger segments say, and these towards popularity
    (Hoerl & Kennedy, 1970; as a demographic recommender Pazzani, 1999). With one segment of n users the effect is its
    difference to the mean, times n / (n + reg). `reg` = 0 chooses the shrinkage by NDCG on held-out users, popularity
    alone among the choices.

    Without known columns the list is that of popular items.
    """

    scores_empty_histories: ClassVar[bool] = True

    columns: str = param("", "user columns to use, separated by commas or |; empty: all but lists")
    half_life: str | None = param(
        None, "half-life of the weight of an event; none: no decay", tune=("7d", "30d", "90d")
    )
    reg: float = param(0.0, "shrinkage of effects, in users; 0: chosen on held-out users", at_least=0)
    min_users: int = param(10, "fewest users of a segment", at_least=1)
    max_segments: int = param(128, "most segments; single values come before pairs", at_least=1, at_most=4096)
    bins: int = param(8, "quantile bins of a number of many distinct values", at_least=2, at_most=100)
    pairs: bool = param(True, "pairs of values of two columns are segments, too")

    segments_: ClassVar[list[dict[str, Any]]]
    shrinkage_: ClassVar[float]

    def _fit(self, data: Dataset, run: Run) -> None:
        vars(self).pop("_segments_cache", None)
        shares = self._shares(data)
        active = np.flatnonzero(np.diff(shares.indptr))
        frame = data.users.drop("id")[active] if data.users.width > 1 else None
        shares = shares[active]
        if frame is None:
            log.info("SegmentPopular: users have no columns; everybody gets the popular items")
            segments = UserSegments([], [])
        else:
            segments = UserSegments.learn(
                frame, self.columns, min_users=self.min_users, max_segments=self.max_segments, bins=self.bins,
                pairs=self.pairs,
            )  # fmt: skip
        self.segments_ = [dataclasses.asdict(segments)]  # type: ignore[misc]
        f = segments.encode(frame, len(active))
        self.shrinkage_ = self._chosen_shrinkage(f, shares, run)  # type: ignore[misc]
        self.item_vectors_ = _effects(f, shares, self.shrinkage_)  # type: ignore[misc]

    def _shares(self, data: Dataset) -> sparse.csr_matrix:
        """CSR float32[n_users, n_items]: 1 where a user has an item, less where it is long ago."""
        has = sparse.csr_matrix(data.matrix("binary"), dtype=np.float32)
        if self.half_life is None or not data.has_times:
            return has
        events = data.events
        age = data.window[1] - events["time"].to_numpy()
        fresh = np.exp2(-age / microseconds(self.half_life)).astype(np.float32)
        cells = (events["user"].to_numpy(), events["item"].to_numpy())
        total = sparse.csr_matrix((fresh, cells), shape=has.shape, dtype=np.float32)
        total.data = np.minimum(total.data, 1.0)
        return sparse.csr_matrix(has.multiply(total), dtype=np.float32)

    def _chosen_shrinkage(self, f: sparse.csr_matrix, shares: sparse.csr_matrix, run: Run) -> float:
        """The shrinkage of `reg`, or the one under which held-out users' items come first."""
        if self.reg:
            return float(self.reg)
        described = np.flatnonzero(np.diff(f.indptr))
        if len(described) < MIN_USERS:
            return DEFAULT_SHRINKAGE
        n = min(MAX_HELD_OUT, max(1, round(HELD_OUT_SHARE * len(described))))
        held = np.zeros(f.shape[0], dtype=bool)
        held[run.rng(64).choice(described, n, replace=False)] = True
        truth, queries = sparse.csr_matrix(shares[held]), _queries(sparse.csr_matrix(f[held]))
        truth.sort_indices()
        known_f, known_shares = sparse.csr_matrix(f[~held]), sparse.csr_matrix(shares[~held])
        n_items = shares.shape[1]
        every, none = np.ones(n_items, dtype=bool), (np.zeros(n + 1, np.int64), np.zeros(0, np.int32))
        priority = np.arange(n_items, dtype=np.int32)[::-1].copy()
        values = {}
        for shrinkage in SHRINKAGES:
            vectors = _effects(known_f, known_shares, shrinkage)
            found = 0.0
            step = max(1, (64 << 20) // (4 * max(1, n_items)))
            for start in range(0, n, step):
                rows = np.arange(start, min(n, start + step))
                scores = queries[rows] @ vectors.T
                lists, _ = top_k(scores, min(LIST_LENGTH, n_items), priority, every,
                                 (none[0][: len(rows) + 1], none[1]), run)  # fmt: skip
                part = truth[rows]
                hits = hits_of(lists, part.indptr.astype(np.int64), part.indices.astype(np.int32), run)
                found += float(ndcg(hits, np.diff(part.indptr), lists.shape[1]).sum())
            values[shrinkage] = found / n
        best = max(values, key=lambda shrinkage: (values[shrinkage], shrinkage))
        log.info("SegmentPopular: %d segments, shrunk by %g users; NDCG of %d held-out users %.4f, of popularity %.4f",
                 f.shape[1], best, n, values[best], values[np.inf])  # fmt: skip
        return float(best) if np.isfinite(best) else 1e30

    def segments(self) -> UserSegments:
        """The segments, built once from what was learned."""
        if "_segments_cache" not in vars(self):
            vars(self)["_segments_cache"] = UserSegments(**self.segments_[0])
        return vars(self)["_segments_cache"]

    def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
        """float32[n, 1 + segments]: 1, and 1 for each segment that a user is in."""
        return _queries(self.segments().encode(histories.features, len(histories)))

    @property
    def reads_user_columns(self) -> bool:
        return self.is_fitted and len(self.segments()) > 0

    def knows_columns(self, histories: Histories) -> np.ndarray:
        return np.diff(self.segments().encode(histories.features, len(histories)).indptr) > 0

    def column_contributions(self, history: Histories, items: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
        """Of one history: what each column, or pair of columns, adds to the scores of items; float32[k]. Without the
        mean, which is the same for everyone."""
        segments, result = self.segments(), {}
        for code in segments.encode(history.features, 1).indices.tolist():
            result[tuple(segments.names_of(code))] = self.item_vectors_[items, 1 + code]
        return result

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        raise ConfigError("SegmentPopular does not know which items are similar", remedy="use ItemKNN or Content")


def _queries(f: sparse.csr_matrix) -> np.ndarray:
    return np.hstack([np.ones((f.shape[0], 1), np.float32), f.toarray()])


def _effects(f: sparse.csr_matrix, shares: sparse.csr_matrix, shrinkage: float) -> np.ndarray:
    """float32[n_items, 1 + segments]: mean and effects of each item."""
    n, n_items = shares.shape
    result = np.zeros((n_items, 1 + f.shape[1]), dtype=np.float32)
    mean = np.asarray(shares.sum(axis=0), dtype=np.float64).ravel() / max(1, n)
    result[:, 0] = mean
    if not f.shape[1] or not np.isfinite(shrinkage):
        return result
    back = sparse.csr_matrix(f.T)
    gram = (back @ f).toarray().astype(np.float64) + shrinkage * np.eye(f.shape[1])
    sizes, totals = np.asarray(f.sum(axis=0), dtype=np.float64).ravel(), sparse.csc_matrix(back @ shares)
    for start in range(0, n_items, ITEMS_PER_BLOCK):
        part = slice(start, start + ITEMS_PER_BLOCK)
        right = totals[:, part].toarray() - np.outer(sizes, mean[part])
        result[part, 1:] = np.linalg.solve(gram, right).T
    return result
