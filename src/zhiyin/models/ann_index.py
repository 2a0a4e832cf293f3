"""An approximate nearest-neighbour index (inverted file) over the item vectors of a large catalogue.

Items are clustered into lists by k-means. A query visits the lists in the order of their estimated best score until
enough items that pass its filter are collected; these are searched exactly (`models.masked_search`). The number of
items to collect is tuned when the index is built, so that recall@100 reaches `TARGET_RECALL` with and without filters.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np

from zhiyin.core.atomic_files import read_json
from zhiyin.core.parallel import kernel
from zhiyin.core.run import Run, log
from zhiyin.models.list_search import items_of_lists
from zhiyin.models.masked_search import Compact, Mask, top_k_masked

FORMAT = 2
_ARRAYS, _VALUES = ("offsets", "members", "means", "spreads"), ("above", "wanted", "filtered", "recall")
_COMPACT = ("codes", "steps", "order", "lengths")
# Catalogues up to this size have no index: an exhaustive search takes a millisecond, hardly more than the index.
MIN_INDEXED_ITEMS = 100_000
# Where at most so many items pass the filter, all of them are searched without the index.
MAX_EXHAUSTIVE_ITEMS = 32_768
# The tuning must reach recall@TUNED_K of TARGET_RECALL on queries that it has not seen.
TUNED_K, TARGET_RECALL = 100, 0.985
# Number of queries to tune with, and as many again to check with.
TUNING_QUERIES = 128
# Filters that the tuning uses besides none: a random FILTER_SHARE of the items, and N_LOCAL_FILTERS times the same
# share of the items nearest to a random item. Items of a category are clustered like that, the hardest case.
FILTER_SHARE, N_LOCAL_FILTERS = 0.1, 4
# Values of `Index.above` that are tried; the tuning chooses the best of them.
SPREAD_FACTORS = (0.0, 1.0, 2.0, 3.0)
# Size of the k-means sample in items per centroid, and number of k-means iterations.
ITEMS_PER_CENTROID, N_SWEEPS = 50, 8
# Number of vectors compared with all centroids at once.
VECTORS_PER_BLOCK = 4_096


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Clusters ("lists") of items for one measure: inner product, or cosine where `scale` is given.

    Parameters
    ----------
    offsets: int64[c + 1], where each list begins in `members`.
    members: int32[n]; list l holds the items members[offsets[l]:offsets[l + 1]], ascending.
    means: float32[c, d], the mean vector of each list.
    spreads: float32[c], the standard deviation of each list's vectors along one dimension.
    above: the best score of a list is estimated as the score of its mean plus `above` times spread times query length.
    wanted: number of items to collect for the best 100 without a filter.
    filtered: number of passing items to collect for the best 100 with a filter.
    recall: recall@100 by filter: {"none": .99, "by chance": .999, "near 1": .985, ...}, see `FILTER_SHARE`.
    """

    offsets: np.ndarray
    members: np.ndarray
    means: np.ndarray
    spreads: np.ndarray
    above: float
    wanted: int
    filtered: int
    recall: dict[str, float]

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        queries: np.ndarray,
        compact: Compact,
        *,
        scale: np.ndarray | None = None,
        lists: int = 0,
        recall: float = TARGET_RECALL,
        run: Run | None = None,
        label: str = "",
    ) -> Index:
        """Cluster the item vectors and tune the number of items to collect.

        Parameters
        ----------
        vectors: float32[n, d], the item vectors.
        queries: float32[q, d]; half of them tune, the other half check that `recall` is reached.
        compact: `Compact.of(vectors)`.
        scale: float32[n], factor of the inner products of each item; None for none.
        lists: number of lists; 0 for 2 √n.
        recall: recall@100 to reach.
        label: name of the index in the log message.
        """
        run = run or Run()
        started = time.perf_counter()
        c = lists or max(1, round(2 * len(vectors) ** 0.5))
        centroids = _centroids(vectors, scale, min(c, len(vectors)), run)
        offsets, members, means, spreads = _lists(vectors, scale, centroids)
        index = cls(offsets, members, means, spreads, 0.0, 1, 1, {})
        index = index._tuned(vectors, np.asarray(queries, dtype=np.float32), compact, scale, recall, run)
        recall_text = ", ".join(f"{name}: {value:.4f}" for name, value in index.recall.items())
        log.info(
            "index%s of %d items in %d lists, made in %.0f s; it looks at %d, under a filter at %d; recall@%d %s",
            label and f" ({label})", len(vectors), len(offsets) - 1, time.perf_counter() - started, index.wanted,
            index.filtered, TUNED_K, recall_text,
        )  # fmt: skip
        return index

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + self.members.nbytes + self.means.nbytes + self.spreads.nbytes

    def is_faster(self, mask: Mask, k: int) -> bool:
        """Whether this index is faster than a search of all items that pass."""
        return bool(index_is_faster(mask.count, self._wanted(mask, k), MAX_EXHAUSTIVE_ITEMS))

    def search(
        self,
        vectors: np.ndarray,
        queries: np.ndarray,
        mask: Mask,
        k: int,
        *,
        priority: np.ndarray | None = None,
        exclude: tuple[np.ndarray, np.ndarray] | None = None,
        compact: Compact | None = None,
        scale: np.ndarray | None = None,
        run: Run | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Approximate `top_k_masked`. Items that do not pass are never returned; k items are, where k pass."""
        queries = np.ascontiguousarray(np.atleast_2d(queries), dtype=np.float32)
        items = np.full((len(queries), k), -1, dtype=np.int32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        bits = mask.bits if mask.count < mask.n else np.zeros(0, dtype=bool)
        offsets, codes = (np.zeros(len(queries) + 1, np.int64), np.zeros(0, np.int32)) if exclude is None else exclude
        for row, query in enumerate(queries):
            excluded = np.asarray(codes[offsets[row] : offsets[row + 1]])
            visited = Mask.of_rows(self.candidates(query, bits, self._wanted(mask, k) + len(excluded)), mask.n)
            items[row], scores[row] = (
                block[0]
                for block in top_k_masked(
                    vectors, query, visited, k, priority=priority, exclude=(np.array([0, len(excluded)]), excluded),
                    compact=compact, scale=scale, run=run,
                )
            )  # fmt: skip
        return items, scores

    def candidates(self, query: np.ndarray, bits: np.ndarray, wanted: int) -> np.ndarray:
        """int32[m]: at least `wanted` items, where there are so many, of the lists of highest `promise`.

        bits: bool[n], items that pass the filter; empty for all.
        """
        query, all_pass = np.ascontiguousarray(query, dtype=np.float32), len(bits) == 0
        lists = (self.offsets, self.members, self.means, self.spreads)
        return items_of_lists(query, *lists, float(self.above), bits, all_pass, wanted)

    def promise(self, queries: np.ndarray) -> np.ndarray:
        """float32[q, c]: estimate of the best score in each list."""
        length = np.linalg.norm(queries, axis=1)[:, None].astype(np.float32)
        return queries @ self.means.T + np.float32(self.above) * length * self.spreads

    def _wanted(self, mask: Mask, k: int) -> int:
        """Number of items to collect for the best k: the tuned number for each hundred, rounded up."""
        return int(wanted_items(self.wanted if mask.count == mask.n else self.filtered, k))

    # -- tuning -----------------------------------------------------------------------------------------------------

    def _tuned(
        self, vectors: np.ndarray, queries: np.ndarray, compact: Compact, scale: np.ndarray | None, recall: float,
        run: Run,
    ) -> Index:  # fmt: skip
        """A copy with `above`, `wanted`, `filtered` and `recall` tuned on the queries."""
        n, rng = len(vectors), run.rng(31)
        queries = queries[rng.permutation(len(queries))[: 2 * TUNING_QUERIES]]
        half = -(-len(queries) // 2)
        tune, check = queries[:half], queries[half:] if len(queries) > 1 else queries
        filters = _filters(vectors, scale, rng)
        masks = [Mask.of(bits) for bits in filters.values()]
        best_of_tune, best_of_check = (
            [top_k_masked(vectors, part, mask, TUNED_K, scale=scale, run=run)[0] for mask in masks]
            for part in (tune, check)
        )
        list_of_item = np.empty(n, dtype=np.int32)
        list_of_item[self.members] = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        goal = recall + (1 - recall) / 3
        tuned_indexes = []
        for above in SPREAD_FACTORS:
            candidate = dataclasses.replace(self, above=above)
            order = np.argsort(-candidate.promise(tune), axis=1, kind="stable")
            needed = [
                _items_needed(order, list_of_item, bits, best, goal)
                for bits, best in zip(filters.values(), best_of_tune)
            ]
            tuned_indexes.append(dataclasses.replace(candidate, wanted=needed[0], filtered=max(needed)))
        index = min(tuned_indexes, key=lambda index: index.filtered)
        while True:
            recalls = [index._recall(vectors, check, *pair, compact, scale) for pair in zip(masks, best_of_check)]
            if min(recalls) >= recall or (index.filtered >= n and (recalls[0] >= recall or index.wanted >= n)):
                break
            wanted, filtered = (min(n, 1 + number * 5 // 4) for number in (index.wanted, index.filtered))
            if recalls[0] >= recall:
                wanted = index.wanted
            index = dataclasses.replace(index, wanted=wanted, filtered=filtered)
        return dataclasses.replace(index, recall={name: round(float(r), 4) for name, r in zip(filters, recalls)})

    def _recall(
        self, vectors: np.ndarray, queries: np.ndarray, mask: Mask, best: np.ndarray, compact: Compact,
        scale: np.ndarray | None,
    ) -> float:  # fmt: skip
        """Recall of the exact `best` items."""
        lists, _ = self.search(vectors, queries, mask, best.shape[1], compact=compact, scale=scale)
        hit = sum(len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(lists, best))
        return hit / max(1, int((best >= 0).sum()))


def _scaled(vectors: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors if scale is None else vectors * scale[:, None].astype(np.float32)


def _centroids(vectors: np.ndarray, scale: np.ndarray | None, c: int, run: Run) -> np.ndarray:
    """float32[c, d], by k-means over a sample. An empty cluster gets an item of the sample as its centroid."""
    rng = run.rng(30)
    rows = np.sort(rng.choice(len(vectors), min(len(vectors), ITEMS_PER_CENTROID * c), replace=False))
    sample = _scaled(vectors[rows], None if scale is None else scale[rows])
    sample = sample[np.isfinite(sample).all(axis=1)]
    if not len(sample):
        return np.zeros((1, vectors.shape[1]), dtype=np.float32)
    centroids = sample[rng.choice(len(sample), min(c, len(sample)), replace=False)].copy()
    with run.bar("Index", N_SWEEPS) as advance:
        for _ in range(N_SWEEPS):
            nearest = _nearest(sample, centroids)
            sums, counts = np.zeros(centroids.shape, dtype=np.float64), np.bincount(nearest, minlength=len(centroids))
            _add(sample, nearest, sums)
            empty = counts == 0
            centroids = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
            centroids[empty] = sample[rng.choice(len(sample), int(empty.sum()))]
            advance(1)
    return centroids


def _nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """int32[n]: the nearest centroid of each vector; 0 for vectors with NaN."""
    nearest = np.empty(len(vectors), dtype=np.int32)
    turned = np.ascontiguousarray(centroids.T)
    half = np.float32(0.5) * (centroids * centroids).sum(axis=1)
    for start in range(0, len(vectors), VECTORS_PER_BLOCK):
        closeness = vectors[start : start + VECTORS_PER_BLOCK] @ turned
        closeness -= half
        nearest[start : start + VECTORS_PER_BLOCK] = closeness.argmax(axis=1)
    return nearest


def _lists(
    vectors: np.ndarray, scale: np.ndarray | None, centroids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`offsets`, `members`, `means` and `spreads` of the lists around centroids; see `Index`."""
    n, (c, d) = len(vectors), centroids.shape
    nearest = np.empty(n, dtype=np.int32)
    sums, squares = np.zeros((c, d), dtype=np.float64), np.zeros(c, dtype=np.float64)
    with np.errstate(all="ignore"):
        for start in range(0, n, VECTORS_PER_BLOCK):
            part = _scaled(
                vectors[start : start + VECTORS_PER_BLOCK],
                None if scale is None else scale[start : start + VECTORS_PER_BLOCK],
            )
            own = nearest[start : start + VECTORS_PER_BLOCK] = _nearest(part, centroids)
            part = np.where(np.isfinite(part).all(axis=1)[:, None], part, 0)
            _add(part, own, sums)
            squares += np.bincount(own, weights=np.square(part, dtype=np.float64).sum(axis=1), minlength=c)
    counts = np.bincount(nearest, minlength=c)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    members = np.argsort(nearest, kind="stable").astype(np.int32)
    means = sums / np.maximum(counts, 1)[:, None]
    around = np.maximum(squares / np.maximum(counts, 1) - (means * means).sum(axis=1), 0)
    return offsets, members, means.astype(np.float32), np.sqrt(around / d).astype(np.float32)


def _filters(vectors: np.ndarray, scale: np.ndarray | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """bool[n], the items that pass each filter of the tuning; keys as in `Index.recall`."""
    n = len(vectors)
    filters = {"none": np.ones(n, dtype=bool), "by chance": rng.random(n) < FILTER_SHARE}
    lengths = 1 / np.maximum(np.linalg.norm(vectors, axis=1), 1e-12) if scale is None else scale
    for number in range(N_LOCAL_FILTERS):
        near = np.nan_to_num((vectors @ vectors[rng.integers(n)]) * lengths)
        filters[f"near {number + 1}"] = near >= np.quantile(near, 1 - FILTER_SHARE)
    return filters


def _items_needed(order: np.ndarray, list_of_item: np.ndarray, mask: np.ndarray, best: np.ndarray, goal: float) -> int:
    """Number of passing items to collect so that a search visits the lists of a share `goal` of the best items.

    Parameters
    ----------
    order: int[q, c], lists in the order in which each query visits them.
    list_of_item: int32[n].
    mask: bool[n], items that pass.
    best: int32[q, k], the exact best items of each query; -1 for none.
    """
    c = order.shape[1]
    sizes = np.bincount(list_of_item[mask], minlength=c)
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(c), order.shape), axis=1)
    ordered = sizes[order]
    before = np.cumsum(ordered, axis=1) - ordered  # number of passing items collected when a list is reached
    row, column = np.nonzero(best >= 0)
    if not len(row):
        return 1
    return 1 + int(np.quantile(before[row, place[row, list_of_item[best[row, column]]]], goal, method="higher"))


def write(folder: Path, compact: Compact, indices: dict[str, Index]) -> None:
    """Write arrays and `index.json` into an existing folder."""
    arrays = {name: getattr(compact, name) for name in _COMPACT}
    arrays |= {f"{name}.{part}": getattr(index, part) for name, index in indices.items() for part in _ARRAYS}
    for name, array in arrays.items():
        np.save(folder / f"index.{name}.npy", array, allow_pickle=False)
    values = {name: {part: getattr(index, part) for part in _VALUES} for name, index in indices.items()}
    (folder / "index.json").write_text(json.dumps({"format": FORMAT, "indices": values}, indent=1) + "\n")


def read(folder: Path, shape: tuple[int, ...], mmap: bool) -> tuple[Compact | None, dict[str, Index]] | None:
    """Read what `write` wrote; None where there is no index.

    Raises ValueError for an unknown format and for an index of other vectors. Indexes of format 1 have their compact
    vectors in another order: None stands for them, and the caller computes them again.
    """
    if not (folder / "index.json").exists():
        return None
    manifest = read_json(folder / "index.json", "train and save again", names=("format", "indices"))
    if manifest["format"] not in (1, FORMAT):
        raise ValueError(f"the index is of format {manifest['format']}")

    def array(name: str) -> np.ndarray:
        loaded = np.load(folder / f"index.{name}.npy", mmap_mode="r" if mmap else None, allow_pickle=False)
        return loaded.view(np.ndarray) if isinstance(loaded, np.memmap) else loaded

    compact, indices = None if manifest["format"] == 1 else Compact(*map(array, _COMPACT)), {}
    for name, values in manifest["indices"].items():
        offsets, members, means, spreads = (array(f"{name}.{part}") for part in _ARRAYS)
        indices[name] = Index(offsets, members, means, spreads, *(values[part] for part in _VALUES))
        if len(indices[name].members) != shape[0] or indices[name].means.shape[1] != shape[1]:
            raise ValueError("the index is of other vectors")
    if compact is not None and compact.codes.shape != shape:
        raise ValueError("the index is of other vectors")
    return compact, indices


@kernel
def _add(vectors, owners, sums):
    """sums[owners[i]] += vectors[i] for each i."""
    for at in range(len(vectors)):
        for j in range(vectors.shape[1]):
            sums[owners[at], j] += vectors[at, j]


@kernel
def wanted_items(tuned, k):
    """Number of items to collect for the best k: the tuned number for each hundred, rounded up."""
    return max(k, tuned * ((k + TUNED_K - 1) // TUNED_K))


@kernel
def index_is_faster(count, wanted, max_exhaustive):
    """Whether collecting items of an index is faster than a search of all `count` that pass."""
    return count > max(max_exhaustive, 2 * wanted)
