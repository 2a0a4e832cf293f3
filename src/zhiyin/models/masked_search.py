"""Exact search for the k items of largest inner product among those that pass a mask; reads no other vectors."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from zhiyin.core.array_table import ArrayTable
from zhiyin.core.bounded_heap import LOWER_CODE_FIRST
from zhiyin.core.errors import DataError
from zhiyin.core.run import Run
from zhiyin.models.compact_search import NO_LIMIT, search_compact, search_rows
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
# Kernel argument for: rows that are not read.
NO_ROWS = np.zeros(0, dtype=np.int32)
# Slots of `Mask.words`: bool[n]; int32[count], the codes, of a mask that is sparse or has less than MIN_COMPACT_ITEMS;
# whether it is sparse, count and n.
MASK_BITS, MASK_ROWS, MASK_SPARSE, MASK_COUNT, MASK_N = range(5)


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

    @functools.cached_property
    def _table(self) -> ArrayTable:
        table = ArrayTable(5)
        table.put(MASK_BITS, self.bits, np.bool_)
        table.put(MASK_ROWS, self.rows if self.is_sparse or self.count < MIN_COMPACT_ITEMS else NO_ROWS, np.int32)
        table.put_int(MASK_SPARSE, self.is_sparse)
        table.put_int(MASK_COUNT, self.count)
        table.put_int(MASK_N, self.n)
        return table

    @property
    def words(self) -> np.ndarray:
        """int64: the mask as kernels read it, at the slots MASK_BITS ...; valid for as long as the mask lives."""
        return self._table.words

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

    rows = mask.rows if mask.is_sparse or b >= 4 or compact is None or mask.count < MIN_COMPACT_ITEMS else NO_ROWS
    if b >= 4:
        norm_pruned_top_k(
            vectors, None if scale is None else scales, queries, rows, priority, offsets, codes, items, scores, run
        )
        return items, scores
    for row in range(b):
        excluded = codes[offsets[row] : offsets[row + 1]]
        if compact is None or mask.count < MIN_COMPACT_ITEMS:
            search_rows(vectors, scales, queries[row], rows, len(rows), excluded, priority, items[row], scores[row])
            continue
        # A dense mask is tested at each place; a sparse one gives the places of its items.
        search_compact(
            compact.codes, compact.steps, compact.order, compact.lengths, vectors, scales, queries[row], mask.bits,
            mask.is_sparse or mask.count == mask.n, rows, compact.places, not mask.is_sparse, NO_LIMIT, excluded,
            priority, items[row], scores[row],
        )  # fmt: skip
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
