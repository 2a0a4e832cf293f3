"""Features of actions that a caller brings: named numbers of an action, its context and its slot as one short vector.

φ(action, context, slot) has FEATURES numbers in four blocks:

- `bias`: 1.
- `action`: Σ g(x) σ(name) / √(dims · n) over the n named numbers of the action, its id among them as "id=...".
- `context`: likewise over those of context and slot; it explains rewards, but chooses between no actions.
- `interaction`: √dims · A ∘ C, the elementwise product of such sums of the action, and of context, slot and a constant.
  A product of two random signs is a random sign, so each pair of an action's and a context's feature has a vector of
  signs of its own, without the pairs being enumerated.

σ(name) ∈ {-1, 1}^dims are bits of a keyed BLAKE2b hash of the name: signed feature hashing with a dense projection
(Weinberger et al., ICML 2009; Achlioptas, JCSS 2003). Vectors of different names are nearly orthogonal and, up to dims
of them, linearly independent, where hashing to a single place makes two names one. g(x) = asinh(x) / asinh(1) leaves 0
and 1 as they are and compresses large numbers. Division by √n bounds the length of φ however many features there are.
The same names and numbers give the same φ in any process and version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import sparse

NamedNumbers = Mapping[str, float]
# Dimensions of the blocks.
ACTION, CONTEXT, INTERACTION = 48, 15, 64
FEATURES = 1 + ACTION + CONTEXT + INTERACTION
NAMES: tuple[str, ...] = (
    "bias",
    *(f"action[{i}]" for i in range(ACTION)),
    *(f"context[{i}]" for i in range(CONTEXT)),
    *(f"interaction[{i}]" for i in range(INTERACTION)),
)
# What the numbers mean: a change of the encoding is a change of this text, and what was learned before does not fit.
LAYOUT = hashlib.blake2b("\n".join(("actions 1", *NAMES)).encode(), digest_size=8).hexdigest()
_ACTION_KEY, _CONTEXT_KEY = b"zhiyin action features", b"zhiyin context features"
# Bits of a hash: those of the first block, then from here on those of the interaction.
_INTERACTION_BITS = 64
ID, POSITION, _CONSTANT = "id=", "position", ""


class ActionFeatures:
    """Features of the m actions of one decision, by slot.

    Parameters
    ----------
    ids: of the actions; each is a feature too.
    actions: named numbers of each action.
    context: named numbers of the context.
    slots: ids and named numbers of the slots; none where the decision has one slot without a name.

    >>> features = ActionFeatures(["a", "b"], [{"price": 3.0}, {}], {"device=phone": 1.0})
    >>> features.of_slot(0).shape
    (2, 128)
    """

    def __init__(
        self,
        ids: Sequence[str],
        actions: Sequence[NamedNumbers],
        context: NamedNumbers,
        slots: Sequence[tuple[str, NamedNumbers]] = (),
    ) -> None:
        named = [{ID + id: 1.0} | dict(numbers) for id, numbers in zip(ids, actions, strict=True)]
        self._actions, self._of_interaction = _projections(named, _ACTION_KEY, ACTION)
        base = {_CONSTANT: 1.0} | dict(context)
        contexts = [base | _of_slot(place, id, numbers) for place, (id, numbers) in enumerate(slots)] or [base]
        self._contexts, self._of_context = _projections(contexts, _CONTEXT_KEY, CONTEXT)

    def __len__(self) -> int:
        return len(self._actions)

    def of_slot(self, slot: int) -> np.ndarray:
        """float64[m, FEATURES] of all actions in a slot, from 0."""
        m = len(self._actions)
        features = np.empty((m, FEATURES))
        features[:, 0] = 1.0
        features[:, 1 : 1 + ACTION] = self._actions
        features[:, 1 + ACTION : 1 + ACTION + CONTEXT] = self._contexts[slot]
        features[:, -INTERACTION:] = np.sqrt(INTERACTION) * self._of_interaction * self._of_context[slot]
        return features


def _of_slot(place: int, id: str, numbers: NamedNumbers) -> dict[str, float]:
    """Named numbers of a slot, under names that no context has."""
    named = {f"slot {name}": number for name, number in numbers.items()}
    return {f"slot {ID}{id}": 1.0, f"slot {POSITION}": 1.0 / (place + 1)} | named


def _projections(rows: Sequence[NamedNumbers], key: bytes, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Projections of n rows of named numbers to `dims` and to INTERACTION dimensions, float64[n, dims]."""
    columns: dict[str, int] = {}
    indices = [columns.setdefault(name, len(columns)) for row in rows for name in row]
    sizes = np.array([len(row) for row in rows])
    numbers = np.array([number for row in rows for number in row.values()], dtype=np.float64)
    weights = np.arcsinh(numbers) / np.arcsinh(1.0) / np.sqrt(np.repeat(sizes, sizes))
    ends = np.concatenate([[0], np.cumsum(sizes)])
    sums = sparse.csr_matrix((weights, indices, ends), shape=(len(rows), len(columns))) @ _signs(columns, key)
    first, second = sums[:, :dims], sums[:, _INTERACTION_BITS : _INTERACTION_BITS + INTERACTION]
    return first / np.sqrt(dims), second / np.sqrt(INTERACTION)


def _signs(names: Iterable[str], key: bytes) -> np.ndarray:
    """float64[n, 128] of -1 and 1: the bits of 128-bit hashes of n names."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=16, key=key).digest() for name in names)
    bits = np.unpackbits(np.frombuffer(digests, dtype=np.uint8).reshape(-1, 16), axis=1)
    return 2.0 * bits - 1.0
