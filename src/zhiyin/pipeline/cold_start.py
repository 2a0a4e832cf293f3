"""Cold-start items: items that were added after the model was trained are scored by their columns alone.

Their codes follow those that the model knows. Where a source of the pipeline can describe items by their columns, the
score of a new item is the mean of the scores of the most similar candidates; otherwise new items come behind the
candidates, the newest first. An event of a new item counts as one of the most similar item that the model knows.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.parallel import kernel
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.data.id_table import id_text
from zhiyin.data.ids import Ids, id_list
from zhiyin.models.content import Content
from zhiyin.pipeline.explanations import Reason

if TYPE_CHECKING:
    from zhiyin.pipeline.pipeline import Pipeline

# New items among the candidates of one list; most similar candidates that give the score of a new item.
MAX_NEW_ITEMS, N_NEAREST = 50, 5
# New items whose most similar known item is cached.
MAX_CACHED_NEAREST = 100_000


class MoreIds(Ids):
    """The ids of a model, followed by new ids in the order they were added."""

    def __init__(self, trained: Ids, more: list[str]) -> None:
        self.known, self._more = trained, more
        self._at = {raw: len(trained) + at for at, raw in enumerate(more)}

    def __len__(self) -> int:
        return len(self.known) + len(self._more)

    @property
    def values(self) -> pl.Series:  # type: ignore[override]
        """All ids; as texts where there are new ones."""
        if not self._more:
            return self.known.values
        return pl.concat([self.known.values.cast(pl.String), pl.Series(self._more, dtype=pl.String).rename("id")])

    def encode(self, raw: Any) -> np.ndarray:
        values = raw if type(raw) is list else id_list(raw)
        codes = self.known.encode(values)
        if not self._more or not len(codes) or codes.min() >= 0:
            return codes
        new = np.flatnonzero(codes < 0)
        if isinstance(values, pl.Series) and values.dtype == pl.String:
            codes = codes.copy()  # that of a long column is read-only
            codes[new] = values.gather(new).replace_strict(self._at, default=-1, return_dtype=pl.Int32).to_numpy()
            return codes
        some = values.gather(new).to_list() if isinstance(values, pl.Series) else [values[at] for at in new.tolist()]
        codes = codes.copy()
        codes[new] = [-1 if text is None else self._at.get(text, -1) for text in map(id_text, some)]
        return codes

    def decode(self, codes: np.ndarray) -> pl.Series:
        return self.values.gather(np.asarray(codes, dtype=np.int64))

    def raw(self, codes: np.ndarray) -> list[Any]:
        n = len(self.known)
        new = np.flatnonzero(codes >= n)
        if not len(new):
            return self.known.raw(codes)
        raw_ids = self.known.raw(np.where(codes < n, codes, 0))
        for at in new.tolist():
            raw_ids[at] = self._more[int(codes[at]) - n]
        return raw_ids


class NewItems:
    """Scores of the new items of a catalogue.

    Parameters
    ----------
    frame: their columns, in the order of their codes.
    """

    def __init__(self, model: Pipeline, frame: pl.DataFrame, run: Run) -> None:
        self.n, self.m, self._run = len(model._context().item_ids), len(frame), run
        self.source, self._describer = _describer(model)
        self._known: Any = None
        self._new: Any = None
        if self._describer is not None and self.m:
            self._known, self._new = _vectors(self._describer, frame.drop("id"), run)
        self._nearest: dict[int, int] = {}
        self._lock = threading.Lock()

    def score_candidates(
        self,
        histories: Histories,
        offsets: np.ndarray,
        items: np.ndarray,
        scores: np.ndarray,
        allowed: np.ndarray,
        removed: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """New items to add to the candidates of n histories, with scores: at most MAX_NEW_ITEMS each.

        Parameters
        ----------
        offsets, items, scores: int64[n + 1], int32[m] and float32[m], the candidates of each history.
        allowed: bool, new items that may be shown. removed: owners and item codes that a history must not get.

        Returns
        -------
        owners int64, ascending, codes int32 and scores float32.
        """
        n = len(histories)
        rows = np.flatnonzero(allowed)[::-1]  # the newest first
        free = np.ones((n, len(rows)), dtype=bool)
        if removed is not None and len(removed[1]):
            place = np.full(self.m, -1, dtype=np.int64)
            place[rows] = np.arange(len(rows))
            at = place[removed[1] - self.n]
            free[removed[0][at >= 0], at[at >= 0]] = False
        sizes, left = np.diff(offsets), free.sum(axis=1)
        ranks_by_profile = np.zeros(n, dtype=bool)
        if self._new is not None:
            ranks_by_profile = (histories.positives > 0) & (left > 0) & ((left > MAX_NEW_ITEMS) | (sizes == 0))
        order = np.full((n, min(MAX_NEW_ITEMS, len(rows))), -1, dtype=np.int64)  # places in `rows`
        liking = np.zeros(order.shape, dtype=np.float32)
        if not ranks_by_profile.all() and len(rows):
            first = np.argsort(~free, axis=1, kind="stable")[:, : order.shape[1]]
            order[:] = np.where(np.take_along_axis(free, first, axis=1), first, -1)
        if ranks_by_profile.any():
            which = np.flatnonzero(ranks_by_profile)
            likes = self._profile_scores(rows, histories.take(which) if len(which) < n else histories)
            likes[~free[which]] = -np.inf
            best = np.argsort(-likes, axis=1, kind="stable")[:, : order.shape[1]]
            liking[which] = np.take_along_axis(likes, best, axis=1)
            order[which] = np.where(np.isfinite(liking[which]), best, -1)
        chosen = np.where(order >= 0, rows[order] if len(rows) else -1, -1)
        new_scores = self._similarity_scores(chosen, np.asarray(offsets, np.int64), items, scores)
        alone = ranks_by_profile & (sizes == 0)
        new_scores[alone] = liking[alone]
        real = chosen >= 0
        return np.nonzero(real)[0], (chosen[real] + self.n).astype(np.int32), new_scores[real]

    def similarity_row(self, code: int) -> np.ndarray | None:
        """float32[n + m]: similarity of all items to a new one; None where no source describes items."""
        if self._new is None:
            return None
        one = self._new[[code - self.n]]
        column = one.T if sparse.issparse(one) else one[0]
        similarity = np.concatenate([_dense(self._known @ column), _dense(self._new @ column)])
        similarity[code] = -np.inf
        return similarity

    def similar_new_items(
        self, items: np.ndarray, scores: np.ndarray, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """New items and their scores, as of `score_candidates`, for the list of items similar to an item."""
        rows = np.flatnonzero(allowed)[::-1][: 20 * MAX_NEW_ITEMS]
        if self._new is None or not len(rows) or not len(items):
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        new_scores = self._similarity_scores(rows[None, :], np.array([0, len(items)]), items, scores)[0]
        best = np.argsort(-new_scores, kind="stable")[:MAX_NEW_ITEMS]
        return (rows[best] + self.n).astype(np.int32), new_scores[best]

    def nearest_known_item(self, code: int) -> int:
        """Code of the known item most similar to a new one; -1 where none is."""
        nearest = self._nearest.get(code)
        if nearest is None:
            nearest = -1
            if self._new is not None:
                likeness = self.similarity_row(code)
                assert likeness is not None
                best = int(np.argmax(likeness[: self.n]))
                nearest = best if likeness[best] > 0 else -1
            with self._lock:
                if len(self._nearest) < MAX_CACHED_NEAREST:
                    self._nearest[code] = nearest
        return nearest

    def nearest_known_items(self, codes: np.ndarray) -> np.ndarray:
        """int32: known codes as they are; for a new item that of `nearest_known_item`."""
        result = np.asarray(codes, dtype=np.int32)
        if not self.m or not (result >= self.n).any():
            return result
        result = result.copy()
        for position in np.flatnonzero(result >= self.n).tolist():
            result[position] = self.nearest_known_item(int(result[position]))
        return result

    def extended(self, trained: Any) -> Any:
        """Item vectors or features of the model with rows for the new items, for variety; zeros where unknown."""
        if not self.m:
            return trained
        width = trained.shape[1]
        same = self._known is not None and self._known is trained
        if sparse.issparse(trained):
            more = self._new if same else sparse.csr_matrix((self.m, width), dtype=trained.dtype)
            return sparse.vstack([trained, more], format="csr")
        return np.vstack([trained, self._new if same else np.zeros((self.m, width), trained.dtype)])

    def reason(self, item: Any, method: str, rules: list[str]) -> Reason:
        """The reason of a new item in a list."""
        return Reason(item, "new" if self._new is None else method, {"new": {"rank": 1, "score": 0.0}}, rules=rules)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _profile_scores(self, rows: np.ndarray, histories: Histories) -> np.ndarray:
        """float32[n, r]: scores of some new items by the profile of each history."""
        if isinstance(self._describer, Content):
            product = self._describer.profiles(histories) @ self._new[rows].T
        else:
            product = self._describer.encode(histories, self._run) @ self._new[rows].T
        dense = product.toarray() if sparse.issparse(product) else np.asarray(product)
        return dense.reshape(len(histories), len(rows)).astype(np.float32)

    def _similarity_scores(
        self, rows: np.ndarray, offsets: np.ndarray, items: np.ndarray, scores: np.ndarray
    ) -> np.ndarray:
        """float32[n, r]: of new items, the mean score of the N_NEAREST candidates, each by its likeness; where none is
        alike, behind all candidates. rows: int64[n, r], new items of each request, -1 behind them."""
        new_scores = np.zeros(rows.shape, dtype=np.float32)
        totals = np.zeros(rows.shape, dtype=np.float32)
        scores = np.asarray(scores, dtype=np.float32)
        if self._new is not None and rows.size:
            if sparse.issparse(self._new):
                old, new = self._known, self._new
                arrays = (new.indptr, new.indices, new.data, old.indptr, old.indices, old.data, np.zeros(new.shape[1]))
                _similarity_scores_sparse(rows, offsets, items, scores, *arrays, new_scores, totals)
            else:
                _similarity_scores_dense(rows, offsets, items, scores, self._new, self._known, new_scores, totals)
        sizes = np.diff(offsets)
        low = np.zeros(len(rows), dtype=np.float32)
        filled = np.flatnonzero(sizes)
        if len(filled):
            low[filled] = np.minimum.reduceat(scores, offsets[filled])
        counts = np.maximum((rows >= 0).sum(axis=1), 0)[:, None]
        fall = np.arange(1, rows.shape[1] + 1) / (counts + 1)
        below = low[:, None] - fall * np.maximum(1.0, np.abs(low))[:, None] * 1e-3
        return np.where(totals > 0, new_scores, below).astype(np.float32)


@kernel
def _nearest_mean(values, begin, end, scores):
    """Mean score of the N_NEAREST values above 0, weighted by them, and their sum. values: of rows begin to end."""
    best, at = np.zeros(N_NEAREST), np.zeros(N_NEAREST, dtype=np.int64)
    for row in range(begin, end):
        value, it = values[row - begin], row
        if value <= best[N_NEAREST - 1]:
            continue
        for place in range(N_NEAREST):
            if value > best[place]:
                best[place], value = value, best[place]
                at[place], it = it, at[place]
    total, weighted = 0.0, 0.0
    for place in range(N_NEAREST):
        if best[place] > 0:
            total += best[place]
            weighted += best[place] * scores[at[place]]
    return weighted / max(total, 1e-12), total


@kernel
def _similarity_scores_sparse(
    rows,
    offsets,
    items,
    scores,
    new_starts,
    new_words,
    new_data,
    old_starts,
    old_words,
    old_data,
    spread,
    out,
    totals,
):
    for request in range(len(rows)):
        begin, end = offsets[request], offsets[request + 1]
        values = np.empty(end - begin)
        for place in range(rows.shape[1]):
            new = rows[request, place]
            if new < 0:
                break
            for entry in range(new_starts[new], new_starts[new + 1]):
                spread[new_words[entry]] = new_data[entry]
            for row in range(begin, end):
                total = 0.0
                for entry in range(old_starts[items[row]], old_starts[items[row] + 1]):
                    total += spread[old_words[entry]] * old_data[entry]
                values[row - begin] = total
            for entry in range(new_starts[new], new_starts[new + 1]):
                spread[new_words[entry]] = 0.0
            out[request, place], totals[request, place] = _nearest_mean(values, begin, end, scores)


@kernel
def _similarity_scores_dense(rows, offsets, items, scores, new_vectors, old_vectors, out, totals):
    d = new_vectors.shape[1]
    for request in range(len(rows)):
        begin, end = offsets[request], offsets[request + 1]
        values, lengths = np.empty(end - begin), np.empty(end - begin)
        for row in range(begin, end):
            square = 0.0
            for j in range(d):
                square += old_vectors[items[row], j] * old_vectors[items[row], j]
            lengths[row - begin] = np.sqrt(square)
        for place in range(rows.shape[1]):
            new = rows[request, place]
            if new < 0:
                break
            square = 0.0
            for j in range(d):
                square += new_vectors[new, j] * new_vectors[new, j]
            length = np.sqrt(square)
            for row in range(begin, end):
                total = 0.0
                for j in range(d):
                    total += new_vectors[new, j] * old_vectors[items[row], j]
                values[row - begin] = total / max(length * lengths[row - begin], 1e-12)
            out[request, place], totals[request, place] = _nearest_mean(values, begin, end, scores)


def _describer(model: Pipeline) -> tuple[str, Any]:
    """The first source that can score new items by their columns."""
    for name, source in model.sources_.items():
        if isinstance(source, Content) or hasattr(source, "item_vectors_for"):
            return name, source
    return "", None


def _vectors(describer: Any, frame: pl.DataFrame, run: Run) -> tuple[Any, Any]:
    if isinstance(describer, Content):
        return describer.items_, describer.vectors_for(frame)
    return describer.item_vectors_, describer.item_vectors_for(frame, run)


def _dense(product: Any) -> np.ndarray:
    """float32 of a product that may be sparse, one dimension where it is one column."""
    result = product.toarray() if sparse.issparse(product) else np.asarray(product)
    return (result[:, 0] if result.ndim == 2 and result.shape[1] == 1 else result).astype(np.float32)
