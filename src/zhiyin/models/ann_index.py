"""An index over the item vectors of a large catalogue: most items are never looked at, and few of the best are missed.

Items are put into lists by k-means. A query goes through the lists from the most promising on, until so many items that
pass its filter have come up; those are searched as exactly as any others (`models.masked_search`). How many that must
be is found when the index is built: so many that of the best hundred at most one or two are missed, with a filter or
without.
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
from zhiyin.models.masked_search import Compact, Mask, top_k_masked

FORMAT = 2
_ARRAYS, _VALUES = ("offsets", "members", "means", "spreads"), ("above", "wanted", "filtered", "recall")
_COMPACT = ("codes", "steps", "order", "lengths")
# Catalogues up to this size are searched whole: that takes a millisecond, and an index takes nearly as long.
MIN_INDEXED_ITEMS = 100_000
# Passing items up to which all of them are searched, index or not.
MAX_EXHAUSTIVE_ITEMS = 32_768
# What the lists are tuned for: the best TUNED_K found to this share, of queries that the tuning has not seen.
TUNED_K, TARGET_RECALL = 100, 0.985
# Queries to tune by, and as many again to check with.
TUNING_QUERIES = 128
# The filters of the tuning, beside none: this share of the items by chance, and so many times the same share nearest to
# some item. Items of a category lie together like that; no filter is harder for lists.
FILTER_SHARE, N_LOCAL_FILTERS = 0.1, 4
# Spreads of a list that its best are taken to lie above its mean; the best of these is kept.
SPREAD_FACTORS = (0.0, 1.0, 2.0, 3.0)
# Items a centroid that the lists are learned from, and sweeps over them.
ITEMS_PER_CENTROID, N_SWEEPS = 50, 8
# Vectors compared with all centroids at once.
VECTORS_PER_BLOCK = 4_096


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Lists of items that lie close together, for one measure: inner product, or cosine where `scale` is given.

    Parameters
    ----------
    offsets: int64[c + 1] and members int32[n]: list l holds the items members[offsets[l]:offsets[l + 1]], ascending.
    means: float32[c, d] of the vectors of each list. spreads: float32[c], how far they lie from it in one direction.
    above: how many spreads above the score of its mean the best of a list is looked for.
    wanted: items to look at for the best 100. filtered: items to look at, all passing, where a filter lets some pass.
    recall: of the best 100, by filter: {"none": .99, "by chance": .999, "near 1": .985, ...}, see `FILTER_SHARE`.
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
        """Learn the lists of float32[n, d], and how many items to look at from queries float32[q, d].

        scale: float32[n], what each inner product is multiplied by; None for none. lists: how many; 0: 2 √n. Half of
        the queries tune, the other half tell whether `recall` is reached.
        """
        run = run or Run()
        begun = time.perf_counter()
        c = lists or max(1, round(2 * len(vectors) ** 0.5))
        centroids = _centroids(vectors, scale, min(c, len(vectors)), run)
        offsets, members, means, spreads = _lists(vectors, scale, centroids)
        index = cls(offsets, members, means, spreads, 0.0, 1, 1, {})
        index = index._tuned(vectors, np.asarray(queries, dtype=np.float32), compact, scale, recall, run)
        recall_text = ", ".join(f"{name}: {value:.4f}" for name, value in index.recall.items())
        log.info(
            "index%s of %d items in %d lists, made in %.0f s; it looks at %d, under a filter at %d; recall@%d %s",
            label and f" ({label})", len(vectors), len(offsets) - 1, time.perf_counter() - begun, index.wanted,
            index.filtered, TUNED_K, recall_text,
        )  # fmt: skip
        return index

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + self.members.nbytes + self.means.nbytes + self.spreads.nbytes

    def is_faster(self, mask: Mask, k: int) -> bool:
        """Whether to ask this index for the best k, or rather to search all that pass."""
        return mask.count > max(MAX_EXHAUSTIVE_ITEMS, 2 * self._wanted(mask, k))

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
        """As `top_k_masked`, but misses few. What does not pass is never returned, and k items are where k pass."""
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
        """int32[m]: so many items or more of the lists that promise most, all passing `bits` (bool[n]; empty: all)."""
        order = np.argsort(-self.promise(query[None])[0], kind="stable")
        return _gathered(order, self.offsets, self.members, bits, wanted)

    def promise(self, queries: np.ndarray) -> np.ndarray:
        """float32[q, c]: about what the best of each list may score."""
        length = np.linalg.norm(queries, axis=1)[:, None].astype(np.float32)
        return queries @ self.means.T + np.float32(self.above) * length * self.spreads

    def _wanted(self, mask: Mask, k: int) -> int:
        """Items to look at for the best k: so many for each hundred begun."""
        return max(k, (self.wanted if mask.count == mask.n else self.filtered) * -(-k // TUNED_K))

    # -- tuning -----------------------------------------------------------------------------------------------------

    def _tuned(
        self, vectors: np.ndarray, queries: np.ndarray, compact: Compact, scale: np.ndarray | None, recall: float,
        run: Run,
    ) -> Index:  # fmt: skip
        """With `above`, `wanted` and `recall` as the queries say."""
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
                _needed(order, list_of_item, bits, best, goal) for bits, best in zip(filters.values(), best_of_tune)
            ]
            tuned_indexes.append(dataclasses.replace(candidate, wanted=needed[0], filtered=max(needed)))
        index = min(tuned_indexes, key=lambda tuned_indexes: tuned_indexes.filtered)
        while True:
            recalls = [index._found(vectors, check, *pair, compact, scale) for pair in zip(masks, best_of_check)]
            if min(recalls) >= recall or (index.filtered >= n and (recalls[0] >= recall or index.wanted >= n)):
                break
            wanted, filtered = (min(n, 1 + number * 5 // 4) for number in (index.wanted, index.filtered))
            if recalls[0] >= recall:
                wanted = index.wanted
            index = dataclasses.replace(index, wanted=wanted, filtered=filtered)
        return dataclasses.replace(index, recall={name: round(float(r), 4) for name, r in zip(filters, recalls)})

    def _found(
        self, vectors: np.ndarray, queries: np.ndarray, mask: Mask, best: np.ndarray, compact: Compact,
        scale: np.ndarray | None,
    ) -> float:  # fmt: skip
        """The share of the best that a search finds."""
        lists, _ = self.search(vectors, queries, mask, best.shape[1], compact=compact, scale=scale)
        hit = sum(len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(lists, best))
        return hit / max(1, int((best >= 0).sum()))


def _scaled(vectors: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors if scale is None else vectors * scale[:, None].astype(np.float32)


def _centroids(vectors: np.ndarray, scale: np.ndarray | None, c: int, run: Run) -> np.ndarray:
    """float32[c, d], by k-means over a sample. A list that runs empty takes an item of the sample instead."""
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
    """int32[n]: the nearest centroid of each vector; of what is no number, the first."""
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
    """offsets, members, means and spreads of the lists around centroids."""
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
    """bool[n] of what passes each filter of the tuning, by what `recall` says of it."""
    n = len(vectors)
    filters = {"none": np.ones(n, dtype=bool), "by chance": rng.random(n) < FILTER_SHARE}
    lengths = 1 / np.maximum(np.linalg.norm(vectors, axis=1), 1e-12) if scale is None else scale
    for number in range(N_LOCAL_FILTERS):
        near = np.nan_to_num((vectors @ vectors[rng.integers(n)]) * lengths)
        filters[f"near {number + 1}"] = near >= np.quantile(near, 1 - FILTER_SHARE)
    return filters


def _needed(order: np.ndarray, list_of_item: np.ndarray, mask: np.ndarray, best: np.ndarray, goal: float) -> int:
    """How many passing items must have come up before a search ends, for it to meet that share of the best.

    order: int[q, c], lists as each query goes through them. of: int32[n], the list of each item.
    """
    c = order.shape[1]
    sizes = np.bincount(list_of_item[mask], minlength=c)
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(c), order.shape), axis=1)
    ordered = sizes[order]
    before = np.cumsum(ordered, axis=1) - ordered  # when a list is come to, so many passed
    row, column = np.nonzero(best >= 0)
    if not len(row):
        return 1
    return 1 + int(np.quantile(before[row, place[row, list_of_item[best[row, column]]]], goal, method="higher"))


def write(folder: Path, compact: Compact, indices: dict[str, Index]) -> None:
    """Into an existing folder: arrays, and `index.json` with the recall that was found."""
    arrays = {name: getattr(compact, name) for name in _COMPACT}
    arrays |= {f"{name}.{part}": getattr(index, part) for name, index in indices.items() for part in _ARRAYS}
    for name, array in arrays.items():
        np.save(folder / f"index.{name}.npy", array, allow_pickle=False)
    values = {name: {part: getattr(index, part) for part in _VALUES} for name, index in indices.items()}
    (folder / "index.json").write_text(json.dumps({"format": FORMAT, "indices": values}, indent=1) + "\n")


def read(folder: Path, shape: tuple[int, ...], mmap: bool) -> tuple[Compact | None, dict[str, Index]] | None:
    """What `write` wrote, mapped; None where there is no index. Raises ValueError for one of other vectors.

    Format 1 had compact vectors in another order: they are to be made anew."""
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
    """sums[owner] += vector."""
    for at in range(len(vectors)):
        for j in range(vectors.shape[1]):
            sums[owners[at], j] += vectors[at, j]


@kernel
def _gathered(order, offsets, members, bits, wanted):
    """Members of the lists in order that pass, until so many have come up; lists are taken whole."""
    all_pass, count, last = len(bits) == 0, 0, 0
    passing = np.empty(len(members), dtype=np.int32)
    for last in range(len(order)):
        for at in range(offsets[order[last]], offsets[order[last] + 1]):
            item = members[at]
            if all_pass or bits[item]:
                passing[count] = item
                count += 1
        if count >= wanted:
            break
    return passing[:count].copy()
