"""Training of the ranker on windows, on as many requests as there is time for."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from zhiyin.core.run import Run, log
from zhiyin.pipeline.time_budget import OutOfTime, TimeBudget, spelled
from zhiyin.pipeline.window_candidates import WindowCandidates
from zhiyin.ranking.examples import join, rows_of
from zhiyin.ranking.feature_builder import FeatureBuilder

if TYPE_CHECKING:
    from zhiyin.ranking.ranker import Ranker

# Requests below which a ranker would learn noise; candidates above which it would learn little more.
MIN_RANKER_REQUESTS, MAX_RANKER_CANDIDATES = 50, 600_000
# Candidates that the time of a training is measured on, where there are far more.
PROBE_CANDIDATES = 20_000
# Seconds that must be free for a ranker: its package alone takes a second to load, and its features are compiled code.
MIN_RANKER_SECONDS = 5.0
# Share of the time that is free which a ranker is planned to take.
PLANNED_SHARE = 0.7


def train_ranker(
    ranker: Ranker, windows: list[WindowCandidates], run: Run, like: FeatureBuilder, most: int = MAX_RANKER_CANDIDATES
) -> Ranker | None:
    """Fit the ranker on the requests that have a right candidate, those of a fifth of the users kept for stopping
    early; None where there are too few to learn from.

    like: whose columns the features of all windows are. most: candidates that it learns from.
    """
    picked = _picked(windows, most, run)
    n = sum(map(len, picked))
    if n < MIN_RANKER_REQUESTS:
        log.info("pipeline: %d requests with a right candidate are too few for a ranker", n)
        return None
    examples, labels, users = [], [], []
    for a, some in zip(windows, picked):
        if not len(some):
            continue
        examples.append(a.builder(run, like).build(a.window.histories.take(some), a.candidates.take(some)))
        labels.append(a.labels[rows_of(a.candidates.offsets, some)[1]])
        users.append(a.window.users[some])
    whole, marks = join(examples), np.concatenate(labels)
    kept_out = validation_users(np.concatenate(users), 0.2, run)
    taught, held = np.flatnonzero(~kept_out), np.flatnonzero(kept_out)
    fitted = copy.deepcopy(ranker)
    fitted.fit(
        whole.take(taught),
        marks[rows_of(whole.offsets, taught)[1]],
        valid=(whole.take(held), marks[rows_of(whole.offsets, held)[1]]),
        run=run,
    )
    return fitted


def _picked(windows: list[WindowCandidates], most: int, run: Run) -> list[np.ndarray]:
    """Of each window the requests that are learned from, int64."""
    picked = []
    for a in windows:
        some = np.flatnonzero(np.bincount(a.candidates.owners, weights=a.labels, minlength=len(a.candidates)) > 0)
        room = most // (len(windows) * max(1, len(a.candidates.items) // max(1, len(a.candidates))))
        picked.append(np.sort(run.rng(63).choice(some, room, replace=False)) if len(some) > room else some)
    return picked


def validation_users(users: np.ndarray, share: float, run: Run) -> np.ndarray:
    """bool[n]: requests of about this share of the users, drawn at random, all requests of a user together.

    users: int64[n], whose each request is.
    """
    everyone, of = np.unique(users, return_inverse=True)
    out = run.rng(62).permutation(len(everyone)) < max(1, round(share * len(everyone)))
    return out[of] if len(everyone) > 1 else np.zeros(len(users), dtype=bool)


def affordable_candidates(
    ranker: Ranker, learned: list[WindowCandidates], n_judged: int, room: float, budget: TimeBudget, run: Run
) -> int:
    """Candidates that the ranker may learn from, so that it is trained twice and scores those it is judged by within
    the time that is free; 0 where that would be too few.

    Parameters
    ----------
    learned: the windows of the first training.
    n_judged: candidates that it is judged by.
    room: seconds.
    """
    if budget.bounded and room < MIN_RANKER_SECONDS:
        budget.decide(f"no ranker is learned: {spelled(room)} are free for it, less than {spelled(MIN_RANKER_SECONDS)}")
        return 0
    if not budget.bounded or sum(len(a.candidates.items) for a in learned) <= PROBE_CANDIDATES:
        return MAX_RANKER_CANDIDATES
    room *= PLANNED_SHARE
    newest = learned[-1:]
    few = np.arange(min(2, len(newest[0].window)))
    like = newest[0].builder(run)  # once for the compiler
    like.build(newest[0].window.histories.take(few), newest[0].candidates.take(few))
    with budget.timed() as features:
        like = newest[0].builder(run)
    with budget.timed() as probe:
        try:
            trained = train_ranker(ranker, newest, budget.limited(run, room), like, PROBE_CANDIDATES)
        except OutOfTime:
            trained = None
    if trained is None:
        # Too few requests there are told by all windows; a training that was cut short is far too slow.
        few_requests = probe.seconds < room
        if not few_requests:
            budget.decide(f"no ranker is learned: a first one was not done after {spelled(room)}")
        return MAX_RANKER_CANDIDATES if few_requests else 0
    read = sum(
        len(rows_of(a.candidates.offsets, some)[1]) for a, some in zip(newest, _picked(newest, PROBE_CANDIDATES, run))
    )
    fixed = 3 * len(learned) * features.seconds
    each = max(probe.seconds - features.seconds, 1e-9) / max(1, read)
    most = int(min((room - probe.seconds - fixed) / each - n_judged, 2 * MAX_RANKER_CANDIDATES) / 2)
    size = max(1, len(newest[0].candidates.items) // max(1, len(newest[0].candidates)))
    if most < MIN_RANKER_REQUESTS * size * len(learned):
        needed = fixed + each * (n_judged + 2 * MIN_RANKER_REQUESTS * size * len(learned))
        budget.decide(f"no ranker is learned: it would take {spelled(needed)}, {spelled(room)} are free for it")
        return 0
    available = sum(len(a.candidates.items) for a in learned)
    if most < min(MAX_RANKER_CANDIDATES, available):
        budget.decide(f"the ranker learns from {most:,} candidates, which {spelled(room)} are enough for")
    return min(most, MAX_RANKER_CANDIDATES)
