"""Items that came after the model was trained: known by their columns alone, they take part in the next list.

They get codes after those that the model knows. Where a source of the pipeline can describe items by their columns, a
new item is worth what the candidates most like it are worth to this user; where none can, new items stand behind the
candidates, the newest first. A click on a new item counts as one on the known item that is most like it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids, id_list
from zhiyin.models.content import Content
from zhiyin.pipeline.explain import Reason

if TYPE_CHECKING:
    from zhiyin.pipeline.pipeline import Pipeline

# New items that one list may choose from, and candidates that say what a new item is worth.
MOST, NEAREST = 50, 5
# Items whose known stand-in is remembered.
STAND_INS = 100_000


class MoreIds(Ids):
    """Ids of a model and, behind them, ids that it has never seen, in the order they came."""

    def __init__(self, known: Ids, more: list[str]) -> None:
        self.known, self._more = known, more
        self._at = {raw: len(known) + at for at, raw in enumerate(more)}

    def __len__(self) -> int:
        return len(self.known) + len(self._more)

    @property
    def values(self) -> pl.Series:  # type: ignore[override]
        """All ids; as texts where there are new ones."""
        if not self._more:
            return self.known.values
        return pl.concat([self.known.values.cast(pl.String), pl.Series(self._more, dtype=pl.String).rename("id")])

    def encode(self, raw: Any) -> np.ndarray:
        raw = id_list(raw)
        codes = self.known.encode(raw)
        if self._more and isinstance(raw, pl.Series):
            new = np.flatnonzero(codes < 0)
            texts = raw.gather(new).cast(pl.String)
            codes = codes.copy()
            codes[new] = texts.replace_strict(self._at, default=-1, return_dtype=pl.Int32).to_numpy()
        elif self._more:
            for at in np.flatnonzero(codes < 0).tolist():
                codes[at] = self._at.get(str(raw[at]), -1)
        return codes

    def decode(self, codes: np.ndarray) -> pl.Series:
        return self.values.gather(np.asarray(codes, dtype=np.int64))

    def raw(self, codes: np.ndarray) -> list[Any]:
        n = len(self.known)
        new = np.flatnonzero(codes >= n)
        if not len(new):
            return self.known.raw(codes)
        found = self.known.raw(np.where(codes < n, codes, 0))
        for at in new.tolist():
            found[at] = self._more[int(codes[at]) - n]
        return found


class NewItems:
    """What the new items of a catalogue are worth to someone.

    Parameters
    ----------
    frame: their columns, in the order of their codes.
    """

    def __init__(self, model: Pipeline, frame: pl.DataFrame, run: Run) -> None:
        self.n, self.m, self._run = len(model._known().item_ids), len(frame), run
        self.source, self._describer = _describer(model)
        self._known: Any = None
        self._new: Any = None
        if self._describer is not None and self.m:
            self._known, self._new = _vectors(self._describer, frame.drop("id"), run)
        self._stand_ins: dict[int, int] = {}
        self._lock = threading.Lock()

    def join(
        self, history: Histories, items: np.ndarray, scores: np.ndarray, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes int32 and scores float32 of the new items that stand beside the candidates of one history.

        items, scores: the candidates. allowed: bool[m], new items that may be shown.
        """
        rows = np.flatnonzero(allowed)[::-1]  # the newest first
        knows = self._new is not None and bool((history.weights > 0).any())
        if knows and len(rows) and (len(rows) > MOST or not len(items)):
            liking = _dense(self._new[rows] @ self._query(history)).reshape(-1)
            best = np.argsort(-liking, kind="stable")[:MOST]
            rows = rows[best]
            if not len(items):
                return (rows + self.n).astype(np.int32), liking[best]
        rows = rows[:MOST]
        if self._new is None or not len(items):
            return (rows + self.n).astype(np.int32), self._behind(scores, len(rows))
        return (rows + self.n).astype(np.int32), self._worth(rows, items, scores)

    def like(self, code: int) -> np.ndarray | None:
        """float32[n + m]: likeness of all items to a new one; None where items cannot be described."""
        if self._new is None:
            return None
        one = self._new[[code - self.n]]
        column = one.T if sparse.issparse(one) else one[0]
        found = np.concatenate([_dense(self._known @ column), _dense(self._new @ column)])
        found[code] = -np.inf
        return found

    def beside(self, items: np.ndarray, scores: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `join`, for a list that is no one's: items similar to an item."""
        rows = np.flatnonzero(allowed)[::-1][: 20 * MOST]
        if self._new is None or not len(rows) or not len(items):
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        worth = self._worth(rows, items, scores)
        best = np.argsort(-worth, kind="stable")[:MOST]
        return (rows[best] + self.n).astype(np.int32), worth[best]

    def stand_in(self, code: int) -> int:
        """Code of the known item that is most like a new one; -1 where none is."""
        found = self._stand_ins.get(code)
        if found is None:
            found = -1
            if self._new is not None:
                likeness = self.like(code)
                assert likeness is not None
                best = int(np.argmax(likeness[: self.n]))
                found = best if likeness[best] > 0 else -1
            with self._lock:
                if len(self._stand_ins) < STAND_INS:
                    self._stand_ins[code] = found
        return found

    def extended(self, known: Any) -> Any:
        """Item vectors or features of the model with rows for the new items, for variety; zeros where unknown."""
        if not self.m:
            return known
        width = known.shape[1]
        same = self._known is not None and self._known is known
        if sparse.issparse(known):
            more = self._new if same else sparse.csr_matrix((self.m, width), dtype=known.dtype)
            return sparse.vstack([known, more], format="csr")
        return np.vstack([known, self._new if same else np.zeros((self.m, width), known.dtype)])

    def reason(self, item: Any, method: str, rules: list[str]) -> Reason:
        """Why a new item stands in a list."""
        return Reason(item, "new" if self._new is None else method, {"new": {"rank": 1, "score": 0.0}}, rules=rules)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _query(self, history: Histories) -> Any:
        if isinstance(self._describer, Content):
            return self._describer.profiles(history).T
        return self._describer.encode(history, self._run)[0]

    def _worth(self, rows: np.ndarray, items: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """float32: mean score of the nearest candidates, each by its likeness; behind them all where none is alike."""
        old, new = self._known[items], self._new[rows]
        likeness = _dense(new @ old.T).reshape(len(rows), len(items))
        if not sparse.issparse(new):
            lengths = np.linalg.norm(new, axis=1)[:, None] * np.linalg.norm(old, axis=1)[None, :]
            likeness = likeness / np.maximum(lengths, 1e-12)
        likeness = np.maximum(likeness, 0)
        few = min(NEAREST, len(items))
        near = np.argpartition(-likeness, few - 1, axis=1)[:, :few]
        weight = np.take_along_axis(likeness, near, axis=1)
        total = weight.sum(axis=1)
        worth = (weight * scores[near]).sum(axis=1) / np.maximum(total, 1e-12)
        behind = self._behind(scores, len(rows))
        return np.where(total > 0, worth, behind).astype(np.float32)

    @staticmethod
    def _behind(scores: np.ndarray, count: int) -> np.ndarray:
        low = float(scores.min()) if len(scores) else 0.0
        return (low - np.arange(1, count + 1) / (count + 1) * max(1.0, abs(low)) * 1e-3).astype(np.float32)


def _describer(model: Pipeline) -> tuple[str, Any]:
    """The first source that can describe an item it has never seen."""
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
    found = product.toarray() if sparse.issparse(product) else np.asarray(product)
    return (found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found).astype(np.float32)
