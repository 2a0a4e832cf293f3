"""Inference of LightGBM trees over flat arrays: the scores of LightGBM, bit for bit, without its overhead per call.

LightGBM builds tables, threads and checks at each call, which dominates the time for 300 rows, the usual request. The
model text that LightGBM saves is read once into arrays; scoring does not need LightGBM.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.parallel import compiled, for_chunks
from zhiyin.core.run import Run

# LightGBM's bits of `decision_type`: a node of categories; missing goes left; zero, or NaN, is what is missing.
_CATEGORICAL, _LEFT, _ZERO, _NAN = 1, 2, 4, 8
# Number of rows that are scored together, tree by tree, so that the tree stays in cache.
ROWS_PER_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Forest:
    """T trees of n inner nodes and l leaves in all. Node n + j is leaf j, which leads to itself.

    Parameters
    ----------
    roots: uint32[T], first node of each tree; depths: int32[T], the longest way from there to a leaf.
    features: uint32[n + l], column asked. thresholds: float32[n + l]; of a node of categories, which set of `bits`.
    kinds: uint8[n + l], bits as above; "missing goes left" is made so that it says what NaN does whatever the tree
        takes NaN for.
    children: uint32[n + l, 2], right and left.
    leaves: float64[l].
    starts: int32[c + 1] into bits, uint32: the categories that go left, one bit each.
    """

    roots: np.ndarray
    depths: np.ndarray
    features: np.ndarray
    thresholds: np.ndarray
    kinds: np.ndarray
    children: np.ndarray
    leaves: np.ndarray
    starts: np.ndarray
    bits: np.ndarray

    @classmethod
    def read(cls, text: str) -> Forest:
        """From the text of `Booster.model_to_string()`. Raises DataError where it cannot be read."""
        if "\nend of trees\n" not in text or "\nend of parameters\n" not in text:
            raise DataError("the text of the trees is cut off", remedy="train and save again")
        try:
            parts = [_tree(block) for block in text.split("\nTree=")[1:]]
        except (ValueError, KeyError) as error:
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
        none = np.zeros(0)
        children = joined("children", np.column_stack([itself, itself]), np.int32)
        return cls(
            roots.astype(np.uint32),
            _depths(roots, children, n),
            joined("features", np.zeros(len(itself)), np.uint32),
            _float32_below(joined("thresholds", np.zeros(len(itself)), np.float64)),
            joined("kinds", np.full(len(itself), _NAN), np.uint8),
            children.astype(np.uint32),
            joined("leaves", none, np.float64),
            np.concatenate([np.zeros(1), *(part["starts"][1:] for part in parts)]).astype(np.int32),
            joined("bits", none, np.uint32),
        )

    def score(self, x: np.ndarray, run: Run) -> np.ndarray:
        """float64[m]: the sum over all trees, in their order. x: float32[m, columns], NaN where unknown."""
        out = np.zeros(len(x), dtype=np.float64)

        def work(start: int, stop: int) -> None:
            _walk(x, start, stop, self.roots, self.depths, self.features, self.thresholds, self.kinds, self.children,
                  self.leaves, self.starts, self.bits, out)  # fmt: skip

        if len(x) <= ROWS_PER_BLOCK:
            work(0, len(x))
        else:
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
    return {
        "features": numbers("split_feature", np.int64),
        "thresholds": thresholds,
        "kinds": kinds,
        "children": np.column_stack([numbers("right_child", np.int64), numbers("left_child", np.int64)]),
        "leaves": np.array(fields["leaf_value"].split(), dtype=np.float64),
        "starts": numbers("cat_boundaries", np.int64) if "cat_boundaries" in fields else np.zeros(1, np.int64),
        "bits": numbers("cat_threshold", np.int64),
    }


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
def _walk(x, start, stop, roots, depths, features, thresholds, kinds, children, leaves, starts, bits, out):
    """Tree::NumericalDecision and Tree::CategoricalDecision of LightGBM's tree.h, a level at a time for all rows: where
    one row must wait for its next node, the others go on.

    Indices are unsigned, as signed ones need a check for negative values at each access.
    """
    n, two, width = np.uint64(len(features) - len(leaves)), np.uint64(2), np.uint64(x.shape[1])
    flat, below = x.reshape(-1), children.reshape(-1)
    places = np.empty(stop - start, np.uint32)
    for tree in range(len(roots)):
        places[:] = roots[tree]
        for _ in range(depths[tree]):
            begin = np.uint64(start) * width
            for row in range(len(places)):
                node = np.uint64(places[row])
                value, kind = flat[begin + np.uint64(features[node])], kinds[node]
                if kind & _CATEGORICAL:
                    left = False
                    if 0 <= value < 2147483648.0:  # NaN is in no set
                        code, which = np.uint32(value), np.uint32(thresholds[node])
                        word = np.uint64(starts[which]) + np.uint64(code >> np.uint32(5))
                        if word < np.uint64(starts[which + np.uint32(1)]):
                            left = (bits[word] >> (code & np.uint32(31))) & np.uint32(1) != 0
                elif kind & _ZERO and -1e-35 <= value <= 1e-35:
                    left = kind & _LEFT != 0
                else:
                    left = (value <= thresholds[node]) | ((value != value) & (kind & _LEFT != 0))
                places[row] = below[two * node + np.uint64(left)]
                begin += width
        for row in range(len(places)):
            out[start + row] += leaves[np.uint64(places[row]) - n]
