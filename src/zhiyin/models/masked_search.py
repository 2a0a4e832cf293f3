"""Exact search for the k items of largest inner product among those that pass a mask; reads no other vectors."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from zhiyin.core.bounded_heap import LOWER_CODE_FIRST, push, sort_best_first
from zhiyin.core.errors import DataError
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run
from zhiyin.models.norm_pruned_search import norm_pruned_top_k

# Up to this share of passing items, a mask holds their codes instead of one bool per item.
SPARSE_SHARE = 1 / 32
# From this number of passing items on, a first pass over compact vectors is faster.
MIN_COMPACT_ITEMS = 16_384
# Number of results of `Mask.within` that a mask caches.
MAX_CACHED_MASKS = 8
# Number of vectors quantized at once.
ROWS_PER_BLOCK = 65_536
# Kernel argument for: scores are plain inner products.
NO_SCALES = np.zeros(0, dtype=np.float32)
# Kernel arguments for: no list of places; all items pass.
NO_PLACES, NO_BITS = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=bool)


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """The set of items that pass a filter, out of n. Constructed with `Mask.of` or `Mask.of_rows`."""

    n: int
    count: int
    _bits: np.ndarray | None
    _rows: np.ndarray | None
    # Cached results of `within` by id of the array, with the array; None stands for this mask itself.
    _within: dict[int, tuple[np.ndarray, Mask | None]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, bits: np.ndarray) -> Mask:
        """From bool[n]."""
        count = int(np.count_nonzero(bits))
        if count <= SPARSE_SHARE * len(bits):
            return cls(len(bits), count, None, np.flatnonzero(bits).astype(np.int32))
        return cls(len(bits), count, np.ascontiguousarray(bits), None)

    @classmethod
    def of_rows(cls, rows: np.ndarray, n: int) -> Mask:
        """From the distinct codes of passing items, in any order."""
        return cls(n, len(rows), None, np.sort(rows).astype(np.int32))

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """int32[count]: codes of passing items, ascending."""
        if self._rows is not None:
            return self._rows
        assert self._bits is not None
        return np.flatnonzero(self._bits).astype(np.int32)

    @functools.cached_property
    def bits(self) -> np.ndarray:
        """bool[n]: whether each item passes."""
        if self._bits is not None:
            return self._bits
        bits = np.zeros(self.n, dtype=bool)
        bits[self._rows] = True
        return bits

    def contains(self, items: np.ndarray) -> np.ndarray:
        """bool[m]: whether each of m items passes."""
        if self._bits is not None:
            return self._bits[items]
        rows = self.rows
        if not len(rows):
            return np.zeros(len(items), dtype=bool)
        at = np.minimum(np.searchsorted(rows, items), len(rows) - 1)
        return rows[at] == items

    @property
    def is_sparse(self) -> bool:
        """Whether so few items pass that a loop over their codes is faster than one over all items."""
        return self._bits is None

    def __and__(self, other: Mask) -> Mask:
        smaller, larger = (self, other) if self.count <= other.count else (other, self)
        if smaller._bits is None:
            rows = smaller.rows
            common = rows[larger.contains(rows)]
            return Mask(self.n, len(common), None, common)
        return Mask.of(self.bits & other.bits)

    def within(self, bits: np.ndarray) -> Mask:
        """The intersection with bool[n]; cached by array, which must not change afterwards."""
        cached = self._within.get(id(bits))
        if cached is None or cached[0] is not bits:
            joint = Mask.of(self.bits & bits)
            if len(self._within) >= MAX_CACHED_MASKS:
                self._within.clear()
            cached = self._within[id(bits)] = (bits, None if joint.count == self.count else joint)
        return cached[1] or self

    @property
    def nbytes(self) -> int:
        """Upper bound of the bytes held, including `rows` and `bits` that are not yet computed."""
        return self.n + 4 * self.count


@dataclasses.dataclass(frozen=True, eq=False)
class Compact:
    """Item vectors quantized to int8, for a first pass that reads a quarter of the memory.

    The quantization error is at most half a step, which bounds the error of a score: items whose upper bound reaches
    the k-th best lower bound are scored again in float32, so the result is exact. Vectors are ordered by length, the
    longest first: the search ends at the first vector too short to reach the k best.

    Parameters
    ----------
    codes: int8[n, d]; the vector at place p is about codes[p] * steps[p].
    steps: float32[n]; NaN for vectors with numbers that are not finite.
    order: int32[n], the item at each place.
    lengths: float32[n], the length of the vector at each place, descending.
    """

    codes: np.ndarray
    steps: np.ndarray
    order: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, item_vectors: np.ndarray) -> Compact:
        """From float32[n, d]."""
        codes = np.zeros(item_vectors.shape, dtype=np.int8)
        steps = np.zeros(len(item_vectors), dtype=np.float32)
        lengths = np.concatenate(
            [
                np.linalg.norm(item_vectors[start : start + ROWS_PER_BLOCK], axis=1)
                for start in range(0, len(codes), ROWS_PER_BLOCK)
            ]
            or [steps]
        ).astype(np.float32)
        order = np.argsort(-lengths, kind="stable").astype(np.int32)
        for start in range(0, len(codes), ROWS_PER_BLOCK):
            part = np.asarray(item_vectors[order[start : start + ROWS_PER_BLOCK]], dtype=np.float32)
            largest = np.abs(part).max(axis=1, initial=0.0)
            sane = np.isfinite(largest)
            step = np.where(sane, largest / 127, np.nan).astype(np.float32)
            steps[start : start + len(part)] = step
            with np.errstate(all="ignore"):
                scaled = np.rint(part / np.where(step > 0, step, 1)[:, None]).clip(-127, 127)
            codes[start : start + len(part)] = np.where(sane[:, None], scaled, 0)
        return cls(codes, steps, order, lengths[order])

    @functools.cached_property
    def places(self) -> np.ndarray:
        """int32[n]: the place of each item."""
        places = np.empty(len(self.order), dtype=np.int32)
        places[self.order] = np.arange(len(self.order), dtype=np.int32)
        return places

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.steps.nbytes + 3 * self.order.nbytes


def top_k_masked(
    item_vectors: np.ndarray,
    queries: np.ndarray,
    mask: Mask | np.ndarray,
    k: int,
    *,
    priority: np.ndarray | None = None,
    exclude: tuple[np.ndarray, np.ndarray] | None = None,
    compact: Compact | None = None,
    scale: np.ndarray | None = None,
    run: Run | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k items of largest inner product among those that pass; exact.

    Only vectors of passing items are read.

    Parameters
    ----------
    item_vectors: float32[n, d].
    queries: float32[b, d].
    mask: a `Mask` or bool[n].
    priority: int32[n]; of equal scores the item of higher priority comes first. None: the lower code.
    exclude: offsets int64[b + 1] and item codes that each query must not get.
    compact: `Compact.of(item_vectors)`; makes single queries over many passing items faster.
    scale: float32[n], not negative, factor of the inner products of each item; None for none.

    Returns
    -------
    items int32[b, k] and scores float32[b, k], best first; -1 and minus infinity once nothing is left.
    """
    run = run or Run(threads=1)
    vectors = np.ascontiguousarray(item_vectors, dtype=np.float32)
    queries = np.ascontiguousarray(np.atleast_2d(queries), dtype=np.float32)
    mask = mask if isinstance(mask, Mask) else Mask.of(np.asarray(mask, dtype=bool))
    if mask.n != len(vectors) or queries.shape[1] != vectors.shape[1]:
        raise DataError(
            f"mask of {mask.n}, vectors {vectors.shape} and queries {queries.shape} do not belong together",
            remedy="make the filter of the catalogue that the vectors were trained on",
        )
    b = len(queries)
    items = np.full((b, max(k, 0)), -1, dtype=np.int32)
    scores = np.full((b, max(k, 0)), -np.inf, dtype=np.float32)
    if k < 1 or not mask.count or not b:
        return items, scores
    if priority is None:
        priority = LOWER_CODE_FIRST
    offsets, codes = _sorted_within(exclude, b)
    scales = NO_SCALES if scale is None else np.ascontiguousarray(scale, dtype=np.float32)

    if b < 4 and compact is not None and mask.count >= MIN_COMPACT_ITEMS:
        # A dense mask is tested at each place; a sparse one gives the places of its items.
        rows = NO_PLACES if mask._bits is not None else compact.places[mask.rows]
        parts = (compact.codes, compact.steps, compact.order, compact.lengths)
        bits = NO_BITS if mask._bits is None or mask.count == mask.n else mask.bits
        _search_compact(parts, vectors, scales, queries, bits, rows, priority, offsets, codes, items, scores)
        return items, scores
    rows = mask.rows

    def each(start: int, stop: int) -> None:
        _search(vectors, scales, queries, start, stop, rows, priority, offsets, codes, items, scores)

    if b < 4:
        for_chunks(each, b, run, chunk=1)
    else:
        norm_pruned_top_k(
            vectors, None if scale is None else scales, queries, rows, priority, offsets, codes, items, scores, run
        )
    return items, scores


def _sorted_within(exclude: tuple[np.ndarray, np.ndarray] | None, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and excluded codes, the codes sorted within each query."""
    if exclude is None:
        return np.zeros(b + 1, np.int64), np.zeros(0, np.int32)
    offsets, codes = exclude
    if b == 1:
        return np.asarray(offsets, np.int64), np.sort(codes).astype(np.int32)
    owner = np.repeat(np.arange(b), np.diff(offsets))
    return np.asarray(offsets, np.int64), np.asarray(codes)[np.lexsort((codes, owner))].astype(np.int32)


@kernel
def _score(vector, query, scales, item):
    """The inner product, times the item's scale if there are scales."""
    score = np.float32(0)
    for j in range(len(query)):
        score += vector[j] * query[j]
    return score * scales[item] if len(scales) else score


@kernel
def _search(vectors, scales, queries, start, stop, rows, priority, offsets, codes, items, scores):
    """One query at a time over the passing rows; memory bandwidth limits the speed."""
    k = items.shape[1]
    for q in range(start, stop):
        query, heap_item, heap_score = queries[q], items[q], scores[q]
        size, out, end = 0, offsets[q], offsets[q + 1]
        bar = np.float32(-np.inf)
        for at in range(len(rows)):
            item = rows[at]
            score = _score(vectors[item], query, scales, item)
            if not score >= bar or score == -np.inf:
                continue
            while out < end and codes[out] < item:
                out += 1
            if out < end and codes[out] == item:
                continue
            size = push(score, item, size, heap_score, heap_item, priority)
            if size == k:
                bar = heap_score[0]
        sort_best_first(heap_score, heap_item, size, priority)


@kernel
def _search_compact(parts, vectors, scales, queries, bits, places, priority, offsets, codes, items, scores):
    """As `_search`, in two passes: bounds from int8 codes, then float32 scores of the items that may be among the best.

    `bar` is the k-th best lower bound of a score; an item whose upper bound is below it is skipped.

    places: places to visit; empty for all places, of which those of items in `bits` (empty for all) count.
    """
    codes_by_place, steps, order, lengths = parts
    d, k = vectors.shape[1], items.shape[1]
    lower_bounds, no_items = np.empty(k, dtype=np.float32), np.zeros(k, dtype=np.int32)
    everywhere, all_pass = len(places) == 0, len(bits) == 0
    n_places = len(order) if everywhere else len(places)
    candidates, upper = np.empty(n_places, dtype=np.int32), np.empty(n_places, dtype=np.float32)
    for q in range(len(queries)):
        query, heap_item, heap_score = queries[q], items[q], scores[q]
        length, square = np.float32(0), np.float32(0)
        for j in range(d):
            length += abs(query[j])
            square += query[j] * query[j]
        # Half a step of quantization error; the rest bounds the rounding of float32 sums, here and in the full score.
        off = length * np.float32(0.5 + 127e-6 * (4 + d / 8))
        reach = np.sqrt(square) * np.float32(1 + 1e-5 * (8 + d / 8))
        n_bounds, n, begin, end = 0, 0, offsets[q], offsets[q + 1]
        bar = np.float32(-np.inf)
        for at in range(n_places):
            place = at if everywhere else places[at]
            item = order[place]
            if not all_pass and everywhere and not bits[item]:
                continue
            scale = scales[item] if len(scales) else np.float32(1)
            if reach * lengths[place] * scale < bar:
                if everywhere and not len(scales):
                    break  # the remaining vectors are shorter still
                continue
            score = np.float32(0)
            vector = codes_by_place[place]
            for j in range(d):
                score += np.float32(vector[j]) * query[j]
            step = steps[place] * scale
            high = step * (score + off)
            if high < bar:
                continue
            out = begin + np.searchsorted(codes[begin:end], item)
            if out < end and codes[out] == item:
                continue
            candidates[n], upper[n] = item, high
            n += 1
            low = step * (score - off)
            if not low > bar:  # NaN too
                continue
            n_bounds = push(low, 0, n_bounds, lower_bounds, no_items, LOWER_CODE_FIRST)
            if n_bounds == k:
                bar = lower_bounds[0]
        size = 0
        for at in range(n):
            if upper[at] < bar:
                continue
            item = candidates[at]
            score = _score(vectors[item], query, scales, item)
            if score > -np.inf:
                size = push(score, item, size, heap_score, heap_item, priority)
        sort_best_first(heap_score, heap_item, size, priority)
