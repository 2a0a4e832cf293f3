"""A list mixed of two placements' lists, and whose each of its items is."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.request import Answer, Request
from zhiyin.policies.experiments.interleaving import team_draft

# What `Answer.method` says of such a list.
INTERLEAVED = "interleaved"


@dataclasses.dataclass(frozen=True)
class Interleaving:
    """How a list was mixed.

    Parameters
    ----------
    placement, version: the second placement and the version of its settings.
    teams: of each item, 0: of the first placement, 1: of the second, -1: of neither, such as a pinned one.
    """

    placement: str
    version: int
    teams: tuple[int, ...]

    @property
    def trace_head(self) -> dict[str, object]:
        """The fields of a trace's head."""
        return {"interleaved": self.placement, "interleaved_version": self.version, "teams": list(self.teams)}


def without_exploration(request: Request) -> Request:
    """A request whose list nothing but the settings of its placement decides, so that the lists can be compared."""
    return dataclasses.replace(request, policy=None, explore=0.0, features="none")


def interleave(
    answers: Answers, request: Request, first: Answer, second: Answer, visible: np.ndarray
) -> tuple[Answer, tuple[int, ...]]:
    """The lists of two placements in one, by team draft, and the team of each item; see `Interleaving`.

    The rules of the house and pins hold for the mixed list. Of one seed of the request the list is always the same.

    Parameters
    ----------
    answers: that made both lists, whose filters, boosts and variety are in them.
    request: for the first list.
    """
    codes = [answers.ids.encode(answer.items)[None].astype(np.int64) for answer in (first, second)]
    length = max(1, codes[0].size + codes[1].size)
    drafted = team_draft(codes[0], codes[1], length, np.array([request.seed], dtype=np.uint64))
    items, teams = drafted.items[0], drafted.teams[0]
    items, teams = items[items >= 0], teams[items >= 0]
    plain = dataclasses.replace(
        without_exploration(request), filter="", boosts=(), include=None, deficits=None, explain=False
    )
    answer = answers.list_in_order(items, plain, visible, INTERLEAVED)
    made = answers.ids.encode(answer.items)
    pinned = answers.ids.encode(list(request.pins.values())) if request.pins else np.zeros(0, np.int64)
    team_of = dict(zip(items.tolist(), teams.tolist())) | dict.fromkeys(pinned.tolist(), -1)
    reasons: dict[Any, Any] = {}
    for one in (second, first):
        reasons |= dict(zip(one.items, one.reasons))
    if all(item in reasons for item in answer.items):
        answer = dataclasses.replace(answer, reasons=[reasons[item] for item in answer.items])
    degraded = list(dict.fromkeys([*first.degraded, *second.degraded]))
    left_out = second.left_out | first.left_out
    answer = dataclasses.replace(answer, degraded=degraded, left_out=left_out, removed=first.removed)
    return answer, tuple(team_of.get(code, -1) for code in made.tolist())
