"""Metrics of scores: AUC and its grouped forms, log-loss, RMSE, MAE."""

from __future__ import annotations

import numpy as np

from zhiyin.core.errors import DataError
from zhiyin.core.parallel import for_chunks, kernel
from zhiyin.core.run import Run


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """AUC = P(score of a positive > score of a negative) + ½ P(equal), over all such pairs.

    NaN without both classes. From ranks, which is the Mann-Whitney statistic: Hanley & McNeil, The meaning
    and use of the area under a ROC curve, Radiology 1982.

    >>> auc(np.array([0, 1, 1]), np.array([0.2, 0.2, 0.9]))
    0.75
    """
    areas, _ = _group_areas(labels, scores, np.zeros(len(labels), dtype=np.int64))
    return float(areas[0]) if len(areas) else float("nan")


def gauc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float:
    """GAUC = Σ_g n_g AUC_g / Σ_g n_g over the groups (users, sessions) with both classes; n_g impressions.

    NaN when no group has both. Zhou et al., Deep interest network for click-through rate prediction, KDD
    2018, eq. 7.
    """
    areas, sizes = _group_areas(labels, scores, groups)
    both = ~np.isnan(areas)
    return float(np.average(areas[both], weights=sizes[both])) if both.any() else float("nan")


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """LogLoss = -mean(y ln p + (1 - y) ln(1 - p)), p clipped to [ε, 1 - ε] with ε = 2.2e-16."""
    return float(np.mean(binary_losses(labels, probabilities)))


def binary_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """-(y ln p + (1 - y) ln(1 - p)) of each row, float64[n], p clipped as in `log_loss`, which is the mean."""
    epsilon = np.finfo(np.float64).eps
    p = np.clip(np.asarray(probabilities, dtype=np.float64), epsilon, 1 - epsilon)
    return -np.where(np.asarray(labels) > 0, np.log(p), np.log1p(-p))


def platt_probabilities(scores: np.ndarray, labels: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """P(label) = 1 / (1 + exp(-(a + b score))), float64[n]; a and b for each half of the rows are fitted on the other.

    Logistic regression by Newton's method, labels smoothed as by Platt, "Probabilistic outputs for support vector
    machines", 1999: with n₊ positives and n₋ negatives, (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2).

    halves: bool[n], the half of each row.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels) > 0
    centre, spread = scores.mean() if len(scores) else 0.0, scores.std() if len(scores) else 1.0
    x = (scores - centre) / (spread or 1.0)
    out = np.empty(len(x))
    for half in (False, True):
        a, b = _logistic(x[halves != half], labels[halves != half])
        out[halves == half] = 1 / (1 + np.exp(-np.clip(a + b * x[halves == half], -30, 30)))
    return out


def _logistic(x: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Constant and slope of Platt's regression of labels on x; 0 and 0 of no rows."""
    n_positive, n_negative = int(labels.sum()), int((~labels).sum())
    target = np.where(labels, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    design, weights = np.column_stack([np.ones(len(x)), x]), np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (target - p) - 1e-6 * weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights + np.clip(step, -4, 4)
        if np.abs(step).max() < 1e-8:
            break
    return float(weights[0]), float(weights[1])


def rmse(values: np.ndarray, predictions: np.ndarray) -> float:
    """RMSE = sqrt(mean((y - ŷ)²))."""
    return float(np.sqrt(np.mean(np.square(_errors(values, predictions)))))


def mae(values: np.ndarray, predictions: np.ndarray) -> float:
    """MAE = mean |y - ŷ|."""
    return float(np.mean(np.abs(_errors(values, predictions))))


def user_auc(
    scores: np.ndarray,
    excluded_offsets: np.ndarray,
    excluded_items: np.ndarray,
    truth_offsets: np.ndarray,
    truth_items: np.ndarray,
    candidates: np.ndarray,
    run: Run | None = None,
) -> np.ndarray:
    """AUC of each user over the whole catalogue: float64[n], ties ½, NaN without a positive or a negative.

    Parameters ---------- scores: float32[n, n_items]. excluded_offsets, excluded_items: what may not be
    recommended to each user (CSR; in any order). truth_offsets, truth_items: the relevant items of each user
    (CSR). candidates: bool[n_items]; positives are the user's relevant candidates, negatives all other
    candidates, both
        without the excluded ones. Relevant items outside take no part: no score of theirs could be compared.
    """
    scores = np.ascontiguousarray(scores)
    areas = np.empty(len(scores), dtype=np.float64)
    seen = (excluded_offsets, excluded_items)
    truth = (truth_offsets, truth_items)
    for_chunks(lambda a, b: _areas(scores, *seen, *truth, candidates, a, b, areas), len(scores), run or Run())
    return areas


@kernel
def _areas(
    scores: np.ndarray,
    seen_offsets: np.ndarray,
    seen: np.ndarray,
    truth_offsets: np.ndarray,
    truth: np.ndarray,
    candidates: np.ndarray,
    start: int,
    stop: int,
    areas: np.ndarray,
) -> None:
    """Negatives packed side by side, then one vectorised count a positive: cheaper than sorting them all."""
    n_items = scores.shape[1]
    negatives = np.empty(n_items, dtype=scores.dtype)
    positives = np.empty(n_items, dtype=scores.dtype)
    free = candidates.copy()
    for u in range(start, stop):
        for at in range(seen_offsets[u], seen_offsets[u + 1]):
            free[seen[at]] = False
        n_positives = 0
        for at in range(truth_offsets[u], truth_offsets[u + 1]):
            if free[truth[at]]:
                free[truth[at]] = False
                positives[n_positives] = scores[u, truth[at]]
                n_positives += 1
        n_negatives = 0
        for item in range(n_items):
            if free[item]:
                negatives[n_negatives] = scores[u, item]
                n_negatives += 1
        twice = 0
        for p in range(n_positives):
            score = positives[p]
            # As narrow as the scores, so that the loop fills whole vector registers.
            below, equal = np.int32(0), np.int32(0)
            for other in negatives[:n_negatives]:
                below += np.int32(other < score)
                equal += np.int32(other == score)
            twice += int(2 * below + equal)
        pairs = n_positives * n_negatives
        areas[u] = twice / (2 * pairs) if pairs else np.nan
        for at in range(seen_offsets[u], seen_offsets[u + 1]):
            free[seen[at]] = candidates[seen[at]]
        for at in range(truth_offsets[u], truth_offsets[u + 1]):
            free[truth[at]] = candidates[truth[at]]


def _group_areas(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC (NaN without both classes) and size of each group, groups in ascending order."""
    labels, scores, groups = np.asarray(labels), np.asarray(scores), np.asarray(groups)
    if not len(labels) == len(scores) == len(groups):
        raise DataError(f"{len(labels)} labels, {len(scores)} scores and {len(groups)} groups do not pair up")
    if np.isnan(scores).any():
        raise DataError("a score is not a number", remedy="leave such rows out, or give them a score")
    if not len(labels):
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    order = np.lexsort((scores, groups))
    scores, groups = scores[order], groups[order]
    positive = labels[order] > 0
    new_group = np.append(True, groups[1:] != groups[:-1])
    # A block is a run of equal scores in one group: pairs within it are ties, negatives before it are below.
    new_block = new_group | np.append(True, scores[1:] != scores[:-1])
    blocks, starts = np.flatnonzero(new_block), np.flatnonzero(new_group)
    block_positives = np.add.reduceat(positive, blocks, dtype=np.int64)
    block_negatives = np.add.reduceat(~positive, blocks, dtype=np.int64)
    first_block = np.flatnonzero(new_group[blocks])
    before = np.cumsum(block_negatives) - block_negatives
    before -= np.repeat(before[first_block], np.diff(np.append(first_block, len(blocks))))
    won = np.add.reduceat(block_positives * (before + block_negatives / 2), first_block)
    sizes = np.diff(np.append(starts, len(labels)))
    positives = np.add.reduceat(positive, starts, dtype=np.int64)
    pairs = positives * (sizes - positives)
    return np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0), sizes


def _errors(values: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64) - np.asarray(predictions, dtype=np.float64)
