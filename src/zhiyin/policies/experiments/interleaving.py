"""Team-draft interleaving: two rankings in one list, and which of them the clicks prefer.

Radlinski, Kurup & Joachims (CIKM 2008). In each round both teams add their best item that is not in the list yet; who
goes first is drawn. A user sees one list, so far fewer impressions tell rankings apart than an A/B test needs.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.hashing import GOLDEN, mix
from zhiyin.core.parallel import kernel
from zhiyin.core.params import list_length
from zhiyin.policies.probabilities import stream_state

_TEAM_STREAM = np.uint64(4)


@dataclasses.dataclass(frozen=True, eq=False)
class Interleaved:
    """Lists of n requests.

    Parameters
    ----------
    items: int64[n, k], -1 behind the last.
    teams: int8[n, k], whose each item is: 0 or 1; -1 behind the last.
    """

    items: np.ndarray
    teams: np.ndarray


def team_draft(first: np.ndarray, second: np.ndarray, k: int, seeds: np.ndarray) -> Interleaved:
    """Interleave the rankings of two systems.

    Parameters
    ----------
    first, second: int64[n, l], items of each request, best first; -1 behind the last. The widths may differ.
    k: length of the lists.
    seeds: uint64[n], the same seed draws the same.
    """
    one, two = (np.ascontiguousarray(part, dtype=np.int64) for part in (first, second))
    seeds = np.ascontiguousarray(seeds, dtype=np.uint64)
    if one.ndim != 2 or two.ndim != 2 or not len(one) == len(two) == len(seeds):
        raise DataError("rankings and seeds do not fit", remedy="one row of items of each, and one seed, a request")
    k = list_length(k)
    items = np.full((len(one), k), -1, dtype=np.int64)
    teams = np.full((len(one), k), -1, dtype=np.int8)
    _draft(one, two, seeds, items, teams)
    return Interleaved(items, teams)


@dataclasses.dataclass(frozen=True)
class Preference:
    """Which system the clicks prefer.

    Parameters
    ----------
    first_wins, second_wins, ties: lists, or users, by whose items got more clicks; those without a click are ties.
    preference: (second_wins - first_wins) / (number of lists with a winner), in [-1, 1]; 0 where there are none.
    p_value: two-sided sign test over the lists with a winner.
    low, high: interval of the preference (Clopper-Pearson).
    """

    first_wins: int
    second_wins: int
    ties: int
    preference: float
    p_value: float
    low: float = -1.0
    high: float = 1.0


def preference(teams: np.ndarray, clicks: np.ndarray) -> Preference:
    """Credit each click to the team of its item. teams: int8[n, k] (see `Interleaved`). clicks: bool[n, k]."""
    if teams.shape != clicks.shape:
        raise DataError("teams and clicks are of different shapes", remedy="one mark a place of a list")
    won = ((teams == 1) & clicks).sum(axis=1) - ((teams == 0) & clicks).sum(axis=1)
    return preference_of_credits(won)


def preference_of_credits(won: np.ndarray, level: float = 0.95) -> Preference:
    """The preference of independent units.

    Parameters
    ----------
    won: float or int[n], credit of the second team less that of the first, of a list or of all lists of a user.
    level: confidence of the interval.
    """
    from scipy import stats

    first_wins, second_wins = int((won < 0).sum()), int((won > 0).sum())
    decided = first_wins + second_wins
    p_value = float(stats.binomtest(second_wins, decided).pvalue) if decided else 1.0
    share = (second_wins - first_wins) / decided if decided else 0.0
    alpha = 1 - level
    low = float(stats.beta.ppf(alpha / 2, second_wins, first_wins + 1)) if second_wins else 0.0
    high = float(stats.beta.ppf(1 - alpha / 2, second_wins + 1, first_wins)) if first_wins else 1.0
    ties = len(won) - decided
    return Preference(first_wins, second_wins, ties, share, p_value, 2 * low - 1, 2 * high - 1)


@kernel
def _draft(first, second, seeds, items, teams):
    k = items.shape[1]
    for r in range(len(seeds)):
        state = stream_state(seeds[r], _TEAM_STREAM)
        at, length = np.zeros(2, dtype=np.int64), 0
        while length < k:
            state += GOLDEN
            leader = np.int64(mix(state) >> np.uint64(63))
            before = length
            for turn in range(2):
                team = leader if turn == 0 else 1 - leader
                ranking = first[r] if team == 0 else second[r]
                while at[team] < len(ranking) and ranking[at[team]] >= 0:
                    item, taken = ranking[at[team]], False
                    for place in range(length):
                        taken |= items[r, place] == item
                    if not taken:
                        break
                    at[team] += 1
                if length < k and at[team] < len(ranking) and ranking[at[team]] >= 0:
                    items[r, length], teams[r, length] = ranking[at[team]], team
                    length += 1
            if length == before:
                break
