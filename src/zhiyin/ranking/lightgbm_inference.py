"""Inference of LightGBM trees over flat arrays: the scores of LightGBM, bit for bit, without its overhead per call.

LightGBM builds tables, threads and checks at each call, which dominates the time for 300 rows, the usual request. The
model text that LightGBM saves is read once into arrays; scoring does not need LightGBM.

A tree of few leaves is not walked: each of its nodes is compared with all rows at once, and takes from the rows that go
right the leaves on its left; the first leaf that remains is the one of the walk (QuickScorer: Lucchese et al., SIGIR
2015, here without sorted nodes, over rows in vectors).
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from zhiyin.core.array_table import ArrayTable, float32_at, float64_at, int32_at, int64_at, uint8_at, uint32_at
from zhiyin.core.bits import trailing_zeros
from zhiyin.core.errors import DataError
from zhiyin.core.parallel import compiled, for_chunks, read_only
from zhiyin.core.run import Run

# LightGBM's bits of `decision_type`: a node of categories; missing goes left; zero, or NaN, is what is missing.
_CATEGORICAL, _LEFT, _ZERO, _NAN = 1, 2, 4, 8
_ALL_LEAVES = np.uint32(0xFFFFFFFF)
# Number of rows that are scored together, tree by tree, so that the tree stays in cache.
ROWS_PER_BLOCK = 512
# Trees of more leaves are walked.
MAX_BITS = 32
# Trees whose leaves are added in one loop.
TREES_PER_LOOP = 4
# Slots of `Forest.table`, in the order of the fields.
(
    ROOTS, DEPTHS, FEATURES, THRESHOLDS, KINDS, MASKS, CHILDREN, LEAVES, NODE_STARTS, LEAF_STARTS, SET_STARTS, SET_BITS,
    N_SLOTS,
) = range(13)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Forest:
    """T trees of n inner nodes and l leaves in all. Node n + j is leaf j, which leads to itself.

    The nodes of a tree stand one after another, a parent before its children; its leaves too, from left to right.

    Parameters
    ----------
    roots: uint32[T], first node of each tree. depths: int32[T], the longest way from there to a leaf.
    features: uint32[n + l], column asked. thresholds: float32[n + l]; of a node of categories, which set of `set_bits`.
    kinds: uint8[n + l], bits as above; "missing goes left" is made so that it says what NaN does whatever the tree
        takes NaN for.
    masks: uint32[n + l], of a node of a tree of at most MAX_BITS leaves, one bit a leaf: all but those on its left.
    children: uint32[n + l, 2], right and left.
    leaves: float64[l].
    node_starts, leaf_starts: int64[T + 1], inner nodes and leaves of each tree.
    set_starts: int32[c + 1] into set_bits, uint32: the categories that go left, one bit each.
    """

    roots: np.ndarray
    depths: np.ndarray
    features: np.ndarray
    thresholds: np.ndarray
    kinds: np.ndarray
    masks: np.ndarray
    children: np.ndarray
    leaves: np.ndarray
    node_starts: np.ndarray
    leaf_starts: np.ndarray
    set_starts: np.ndarray
    set_bits: np.ndarray

    @classmethod
    def read(cls, text: str) -> Forest:
        """From the text of `Booster.model_to_string()`. Raises DataError where it cannot be read."""
        if "\nend of trees\n" not in text or "\nend of parameters\n" not in text:
            raise DataError("the text of the trees is cut off", remedy="train and save again")
        try:
            parts = [_tree(block) for block in text.split("\nTree=")[1:]]
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(f"the text of the trees cannot be read ({error})", remedy="train and save again") from None
        n_nodes = np.array([len(part["features"]) for part in parts], dtype=np.int64)
        n_leaves = np.array([len(part["leaves"]) for part in parts], dtype=np.int64)
        n_sets = np.array([len(part["starts"]) - 1 for part in parts], dtype=np.int64)
        nodes, leaves, sets = (np.cumsum(n) - n for n in (n_nodes, n_leaves, n_sets))
        n, n_bits = int(n_nodes.sum()), 0
        for at, part in enumerate(parts):
            below = part["children"]
            part["children"] = np.where(below >= 0, below + nodes[at], n + leaves[at] + ~below)
            part["thresholds"] = part["thresholds"] + sets[at] * ((part["kinds"] & _CATEGORICAL) > 0)
            part["starts"] = part["starts"] + n_bits
            n_bits += len(part["bits"])

        def joined(name: str, of_leaves: np.ndarray, dtype: type) -> np.ndarray:
            return np.concatenate([*(part[name] for part in parts), of_leaves]).astype(dtype)

        roots = np.where(n_nodes > 0, nodes, n + leaves).astype(np.int32)
        itself = n + np.arange(n_leaves.sum())
        ends = [np.append(starts, int(number.sum())) for starts, number in ((nodes, n_nodes), (leaves, n_leaves))]
        none = np.zeros(0)
        children = joined("children", np.column_stack([itself, itself]), np.int32)
        return cls(
            roots.astype(np.uint32),
            _depths(roots, children, n),
            joined("features", np.zeros(len(itself)), np.uint32),
            _float32_below(joined("thresholds", np.zeros(len(itself)), np.float64)),
            joined("kinds", np.full(len(itself), _NAN), np.uint8),
            joined("masks", np.zeros(len(itself)), np.uint32),
            children.astype(np.uint32),
            joined("leaves", none, np.float64),
            ends[0].astype(np.int64),
            ends[1].astype(np.int64),
            np.concatenate([np.zeros(1), *(part["starts"][1:] for part in parts)]).astype(np.int32),
            joined("bits", none, np.uint32),
        )

    @functools.cached_property
    def table(self) -> ArrayTable:
        """The arrays at the slots of this module, for kernels."""
        table = ArrayTable(N_SLOTS)
        for slot, field in enumerate(dataclasses.fields(self)):
            array = getattr(self, field.name)
            table.put(slot, array.ravel(), array.dtype)
        return table

    def score(self, x: np.ndarray, run: Run) -> np.ndarray:
        """float64[m]: the sum over all trees, in their order. x: float32[m, columns], NaN where unknown; one whose
        columns are contiguous is not copied."""
        out, columns = np.zeros(len(x), dtype=np.float64), read_only(x.T)

        def work(start: int, stop: int) -> None:
            add_trees(self.table.words, columns, start, out[start:stop])

        for_chunks(work, len(x), run, chunk=ROWS_PER_BLOCK)
        return out


def _tree(block: str) -> dict[str, np.ndarray]:
    """The arrays of one tree of LightGBM's text format, version 4."""
    fields = dict(line.split("=", 1) for line in block.split("\n\n", 1)[0].splitlines()[1:] if "=" in line)
    if fields.get("is_linear", "0") != "0":
        raise ValueError("trees with linear leaves are not known")

    def numbers(name: str, dtype: type) -> np.ndarray:
        return np.array(fields.get(name, "").split(), dtype=dtype)

    kinds, thresholds = numbers("decision_type", np.int64), numbers("threshold", np.float64)
    # Where NaN is no missing value of its own it is taken for zero, which may be the missing one.
    as_zero = (kinds & (_CATEGORICAL | _ZERO | _NAN)) == 0
    kinds = np.where(as_zero, (kinds & ~_LEFT) | np.where(thresholds >= 0, _LEFT, 0), kinds)
    children = np.column_stack([numbers("right_child", np.int64), numbers("left_child", np.int64)])
    leaves = np.array(fields["leaf_value"].split(), dtype=np.float64)
    places, masks = _leaves_in_order(children, len(leaves))
    in_order = np.empty_like(leaves)
    in_order[places] = leaves
    return {
        "features": numbers("split_feature", np.int64),
        "thresholds": thresholds,
        "kinds": kinds,
        "masks": masks,
        "children": np.where(children >= 0, children, ~places[np.where(children >= 0, 0, ~children)]),
        "leaves": in_order,
        "starts": numbers("cat_boundaries", np.int64) if "cat_boundaries" in fields else np.zeros(1, np.int64),
        "bits": numbers("cat_threshold", np.int64),
    }


def _leaves_in_order(children: np.ndarray, n_leaves: int) -> tuple[np.ndarray, np.ndarray]:
    """int64[leaves]: the place of each leaf from left to right; and int64[nodes], `Forest.masks`.

    children: int64[nodes, 2], right and left: nodes behind their parent, or leaves j as ~j.
    """
    n = len(children)
    below, first = [1] * n, [0] * n
    places, masks = np.zeros(n_leaves, dtype=np.int64), np.zeros(n, dtype=np.int64)
    pairs = children.tolist()
    for node in range(n - 1, -1, -1):
        below[node] = sum(below[child] if child >= 0 else 1 for child in pairs[node])
    for node, (right, left) in enumerate(pairs):
        n_left = below[left] if left >= 0 else 1
        for child, start in ((left, first[node]), (right, first[node] + n_left)):
            if child >= 0:
                first[child] = start
            else:
                places[~child] = start
        if n_leaves <= MAX_BITS:
            masks[node] = int(_ALL_LEAVES) & ~(((1 << n_left) - 1) << first[node])
    return places, masks


def _depths(roots: np.ndarray, children: np.ndarray, n: int) -> np.ndarray:
    """int32[T]: the longest way of each tree from its root to a leaf."""
    depths = np.zeros(len(roots), dtype=np.int32)
    trees = np.flatnonzero(roots < n)
    level = roots[trees]
    while len(level):
        depths[np.unique(trees)] += 1
        below = children[level]
        inner = below < n
        trees, level = np.repeat(trees, 2)[inner.ravel()], below[inner]
    return depths


def _float32_below(thresholds: np.ndarray) -> np.ndarray:
    """The largest float32 that is not above each: float32 numbers compare with it as with the float64."""
    rounded = thresholds.astype(np.float32)
    above = rounded.astype(np.float64) > thresholds
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded


# Not `kernel`: sums must not be reordered, or the last bit would not be LightGBM's.
@compiled
def add_trees(words, columns, first, out):
    """Add the leaves of all trees, in their order, to the rows from `first` on.

    words: of `Forest.table`. columns: float32[columns, m], NaN where unknown. out: float64[rows], at most as many as
    ROWS_PER_BLOCK stay in cache.
    """
    leaves, leaf_starts = float64_at(words, LEAVES), int64_at(words, LEAF_STARTS)
    n_trees, n = len(leaf_starts) - 1, len(out)
    bits = np.empty((TREES_PER_LOOP, n), dtype=np.uint32)
    bits_0, bits_1, bits_2, bits_3 = bits[0], bits[1], bits[2], bits[3]
    tree = 0
    while tree < n_trees:
        together = min(TREES_PER_LOOP, n_trees - tree)
        for number in range(together):
            if leaf_starts[tree + number + 1] - leaf_starts[tree + number] > MAX_BITS:
                together = number
                break
            _leaf_bits(words, columns, first, tree + number, bits[number])
        if together == TREES_PER_LOOP:
            first_0, first_1 = np.uint64(leaf_starts[tree]), np.uint64(leaf_starts[tree + 1])
            first_2, first_3 = np.uint64(leaf_starts[tree + 2]), np.uint64(leaf_starts[tree + 3])
            for row in range(n):
                total = out[row]
                total += leaves[first_0 + np.uint64(trailing_zeros(bits_0[row]))]
                total += leaves[first_1 + np.uint64(trailing_zeros(bits_1[row]))]
                total += leaves[first_2 + np.uint64(trailing_zeros(bits_2[row]))]
                total += leaves[first_3 + np.uint64(trailing_zeros(bits_3[row]))]
                out[row] = total
        else:
            for number in range(together):
                first_leaf, bits_of = np.uint64(leaf_starts[tree + number]), bits[number]
                for row in range(n):
                    out[row] += leaves[first_leaf + np.uint64(trailing_zeros(bits_of[row]))]
        tree += together
        if tree < n_trees and leaf_starts[tree + 1] - leaf_starts[tree] > MAX_BITS:
            _walk(words, columns, first, tree, bits_0, out)
            tree += 1


@compiled
def _leaf_bits(words, columns, first, tree, bits):
    """The leaves of a tree that each row may reach, uint32[rows]; the lowest bit is the one that it reaches."""
    features, thresholds = uint32_at(words, FEATURES), float32_at(words, THRESHOLDS)
    kinds, masks, node_starts = uint8_at(words, KINDS), uint32_at(words, MASKS), int64_at(words, NODE_STARTS)
    bits[:] = _ALL_LEAVES
    for node in range(node_starts[tree], node_starts[tree + 1]):
        values = columns[features[node]][first : first + len(bits)]
        kind, threshold, mask = kinds[node], thresholds[node], masks[node]
        if kind & (_CATEGORICAL | _ZERO):
            set_starts, set_bits = int32_at(words, SET_STARTS), uint32_at(words, SET_BITS)
            for row in range(len(bits)):
                if not _goes_left(values[row], kind, threshold, set_starts, set_bits):
                    bits[row] &= mask
        elif kind & _LEFT:
            for row in range(len(bits)):
                bits[row] &= mask if values[row] > threshold else _ALL_LEAVES
        else:
            for row in range(len(bits)):
                bits[row] &= _ALL_LEAVES if values[row] <= threshold else mask


@compiled
def _goes_left(value, kind, threshold, set_starts, set_bits):
    """Tree::NumericalDecision and Tree::CategoricalDecision of LightGBM's tree.h."""
    if kind & _CATEGORICAL:
        if not 0 <= value < 2147483648.0:  # NaN is in no set
            return False
        code, which = np.uint32(value), np.uint32(threshold)
        word = np.uint64(set_starts[which]) + np.uint64(code >> np.uint32(5))
        if word >= np.uint64(set_starts[which + np.uint32(1)]):
            return False
        return (set_bits[word] >> (code & np.uint32(31))) & np.uint32(1) != 0
    if kind & _ZERO and -1e-35 <= value <= 1e-35:
        return kind & _LEFT != 0
    return (value <= threshold) | ((value != value) & (kind & _LEFT != 0))


@compiled
def _walk(words, columns, first, tree, places, out):
    """Add the leaves of one tree, a level at a time for all rows: where one row must wait for its next node, the others
    go on. places: uint32[rows], working memory.

    Indices are unsigned, as signed ones need a check for negative values at each access.
    """
    features, thresholds = uint32_at(words, FEATURES), float32_at(words, THRESHOLDS)
    kinds, below, leaves = uint8_at(words, KINDS), uint32_at(words, CHILDREN), float64_at(words, LEAVES)
    set_starts, set_bits = int32_at(words, SET_STARTS), uint32_at(words, SET_BITS)
    n, two, m = np.uint64(len(features) - len(leaves)), np.uint64(2), np.uint64(columns.shape[1])
    flat = columns.reshape(-1)
    places[:] = uint32_at(words, ROOTS)[tree]
    for _ in range(int32_at(words, DEPTHS)[tree]):
        for row in range(len(places)):
            node = np.uint64(places[row])
            value = flat[np.uint64(features[node]) * m + np.uint64(first + row)]
            left = _goes_left(value, kinds[node], thresholds[node], set_starts, set_bits)
            places[row] = below[two * node + np.uint64(left)]
    for row in range(len(places)):
        out[row] += leaves[np.uint64(places[row]) - n]
