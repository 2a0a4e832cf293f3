"""Rank fusion of several sources: reciprocal rank fusion, learned weights, or the best single source.

A blend is evaluated on windows that neither its weights nor any source was fitted on, and is used only if it beats the
best single source there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from zhiyin.core.parallel import read_only
from zhiyin.core.ranking_metrics import RANKING
from zhiyin.evaluation.significance import standard_error
from zhiyin.ranking import blend_kernels as kernels
from zhiyin.ranking.examples import Candidates

# Users of a segment below which it has no choice of its own.
MIN_SEGMENT_USERS = 50


def signals(candidates: Candidates) -> np.ndarray:
    """float32[m, 2 s]: what weights are learned over: the scores of each source between 0 (its worst in the request,
    and what it did not name) and 1; and reciprocal ranks brought to at most 1."""
    out = np.empty((len(candidates.items), 2 * len(candidates.sources)), dtype=np.float32)
    kernels.write_signals(
        read_only(candidates.offsets),
        read_only(candidates.scores),
        read_only(candidates.ranks),
        0,
        len(candidates),
        out,
    )
    return out


def learn_weights(candidates: Candidates, labels: np.ndarray, reg: float = 1e-3) -> np.ndarray:
    """float64[2 s], not negative: weights of `signals` under which relevant items come first.

    Minimises the softmax loss of lists (Cao et al., Learning to rank: from pairwise to listwise, ICML 2007) over the
    requests that have a relevant candidate; convex, so there is one answer.

    labels: float32[m], relevance of each candidate, 0 for none.
    """
    x, owners = signals(candidates).astype(np.float64), candidates.owners
    total = np.bincount(owners, weights=labels, minlength=len(candidates))
    used = (total > 0)[owners]
    if not used.any():
        return np.ones(x.shape[1])
    x, owners = x[used], owners[used]
    y = labels[used] / total[owners]
    starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
    sizes = np.diff(np.append(starts, len(owners)))
    n = len(starts)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = x @ weights
        top = np.repeat(np.maximum.reduceat(logits, starts), sizes)
        mass = np.exp(logits - top)
        whole = np.repeat(np.add.reduceat(mass, starts), sizes)
        value = float((y * (np.log(whole) + top - logits)).sum() / n + reg * weights @ weights)
        return value, x.T @ (mass / whole - y) / n + 2 * reg * weights

    solution = minimize(loss, np.ones(x.shape[1]), jac=True, method="L-BFGS-B", bounds=[(0, None)] * x.shape[1])
    weights = np.asarray(solution.x)
    return weights if weights.any() else np.ones(x.shape[1])


def order(candidates: Candidates, scores: np.ndarray) -> np.ndarray:
    """int64[m]: candidates of each request by score, best first; equal scores keep the order they came in."""
    return np.lexsort((-scores, candidates.owners))


def metric_values(
    candidates: Candidates, scores: np.ndarray, labels: np.ndarray, relevant: np.ndarray, metric: str
) -> np.ndarray:
    """float64[n]: a ranking metric ("ndcg@10") of each request's candidates ordered by score.

    relevant: int64[n], relevant items of each request, those that no source named included.
    """
    name, _, k = metric.partition("@")
    at = order(candidates, scores)
    place = np.arange(len(at)) - np.repeat(candidates.offsets[:-1], np.diff(candidates.offsets))
    first = place < int(k)
    hits = np.zeros((len(candidates), int(k)), dtype=bool)
    hits[candidates.owners[first], place[first]] = labels[at[first]] > 0
    return RANKING[name](hits, np.maximum(relevant, 1), int(k))


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen for a segment of requests, and the figures it was chosen by, none where there was no request."""

    segment: str
    method: str
    figures: dict[str, float]
    requests: int
    why: str

    def to_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def choose(
    segment: str,
    values: dict[str, np.ndarray],
    blends: Sequence[str],
    users: np.ndarray | None = None,
    default: str | None = None,
    earlier: dict[str, np.ndarray] | None = None,
) -> Choice:
    """The method to keep: the best mean; but a blend only where it beats the best single source.

    values: of each method, a metric of each request of the segment. blends: which of them are blends, from the simplest
    on. users: whose each request is; one user's requests of several windows count as one user's. default: what stays
    unless something is better by more than one standard error of the paired difference; for segments of few users.
    earlier: of single sources, the metric of requests of windows that blends have learned from. Sources have learned
    from neither, so which of them is the best one is told by both: the best of many on few requests is best by luck
    too, and no blend would stand against it.
    """
    n = len(next(iter(values.values()))) if values else 0
    figures = {name: float(np.mean(value)) for name, value in values.items() if n}
    if not n:
        method = default or next(iter(values), "")
        return Choice(segment, method, figures, 0, "nobody to judge by")
    alone = {name: float(np.concatenate([(earlier or {}).get(name, value[:0]), value]).mean())
             for name, value in values.items() if name not in blends}  # fmt: skip
    single = max(alone, key=lambda name: alone[name])
    best = max([single, *blends], key=lambda name: (figures[name], name == single))
    why = f"best of {len(values)} on {n:,} requests"
    if best == single and blends:
        why = f"no blend beats {single} on {n:,} requests"
    if default is not None and default != best:
        gain, error, people = standard_error(values[best] - values[default], users)
        if people < MIN_SEGMENT_USERS:
            return Choice(segment, default, figures, n, f"requests of {people} users are too few to tell")
        if gain <= error:
            return Choice(segment, default, figures, n, f"{best} is not clearly better on {n:,} requests")
    return Choice(segment, best, figures, n, why)


def weighted(candidates: Candidates, weights: np.ndarray) -> np.ndarray:
    """float32[m]: signals times the weights of each request, float64[n, 2 s]."""
    return _scores(candidates, np.full(len(candidates), kernels.WEIGHTED, np.int8), weights)


def scores_by(method: str, candidates: Candidates) -> np.ndarray:
    """float32[m]: scores by "rrf", or by one source alone; what that source did not name comes last, by reciprocal
    ranks."""
    code = kernels.FUSED if method == "rrf" else kernels.FIRST_SOURCE + candidates.sources.index(method)
    return _scores(candidates, np.full(len(candidates), code, np.int8), np.zeros((len(candidates), 0)))


def _scores(candidates: Candidates, methods: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float32[m]: scores by the methods of `blend_kernels`, int8[n], with weights float[n, 2 s]."""
    out = np.empty(len(candidates.items), dtype=np.float32)
    kernels.blend_requests(
        read_only(candidates.offsets), read_only(candidates.scores), read_only(candidates.ranks), methods,
        read_only(weights.astype(np.float32)), 0, len(candidates), out,
    )  # fmt: skip
    return out
