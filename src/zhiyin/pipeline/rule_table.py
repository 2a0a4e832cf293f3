"""Slots of the `ArrayTable` that holds what the rules of a rulebook need of items; see `list_plan`, which fills it."""

from __future__ import annotations

import numpy as np

from zhiyin.core.array_table import float64_at, int_at
from zhiyin.core.parallel import kernel

# Slots of a table of rules: numbers, then int64[caps, 3] (at most, first slots or 0, strict), float64[shares] minimum
# shares, and float64[exposure] gains.
N_CAPS, N_SHARES, N_EXPOSURE, N_BOOSTS, LIMITS, MIN_SHARES, GAINS, FIRST_CAP = range(8)
# Behind them two slots a cap: int32 groups by item (-1: none), or with int64[n_items + 1] starts several an item;
# then one slot for each share and exposure target: bool[n_items], its members;
# then three a boost: bool[n_items] where it applies (empty: everywhere), float64 factors and addends by item, or one.
SLOTS_OF_CAP, SLOTS_OF_BOOST = 2, 3


@kernel
def rule_slots(n_caps, n_shares, n_exposure):
    """First slots of the conditions and of the boosts."""
    conditions = FIRST_CAP + SLOTS_OF_CAP * n_caps
    return conditions, conditions + n_shares + n_exposure


@kernel
def n_required(k, rules, condition, deficits):
    """Members of a share or an exposure target that a list of k items needs among its candidates."""
    n_caps, n_shares = int_at(rules, N_CAPS), int_at(rules, N_SHARES)
    # Caps and duplicates may leave some of the candidates out: ask for more.
    factor = 4 if n_caps > 0 else 1
    if condition < n_shares:
        return factor * np.int64(np.ceil(float64_at(rules, MIN_SHARES)[condition] * k - 1e-9))
    place = condition - n_shares
    return factor * k if place < len(deficits) and deficits[place] > 0 else 0
