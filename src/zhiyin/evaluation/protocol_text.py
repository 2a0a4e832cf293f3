"""The protocol of a comparison in sentences: its title, how it was measured, and its warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from zhiyin.core.run import Run
from zhiyin.data.splits import Split
from zhiyin.evaluation.fold_metrics import HEAD_SHARE
from zhiyin.evaluation.model_evaluation import REPEATS_REMEDY, Window
from zhiyin.models.recommender import CHUNK_BYTES

if TYPE_CHECKING:
    from zhiyin.evaluation.fold_metrics import Fold


def evaluated_users(windows: list[Window]) -> pl.Series:
    """The raw id of each row of `per_user`."""
    return pl.concat([window.train.users["id"].gather(window.users) for window in windows])


def title_text(windows: list[Window]) -> str:
    n_users, n_items = sum(map(len, windows)), windows[0].train.n_items
    return f"Comparison: {n_users:,} users judged on {n_items:,} items"


def protocol_sentences(
    splits: list[Split], windows: list[Window], folds: list[Fold], ks: list[int], rounds: int, run: Run, auc: bool
) -> list[str]:
    n_judged, n_relevant = sum(map(len, windows)), sum(len(window.items) for window in windows)
    n_skipped_users, n_seen = sum(w.n_skipped_users for w in windows), sum(w.seen for w in windows)
    n_missed = sum(int((~w.train.candidates[w.items]).sum()) for w in windows)
    candidates = " / ".join(f"{int(w.train.candidates.sum()):,}" for w in windows)
    has_folds = len(splits) > 1
    n_users = evaluated_users(windows).n_unique()
    sentences = [f"Split by {'; '.join(part.protocol for part in splits)}."]
    if has_folds:
        sentences.append(
            f"{len(splits)} folds: models are fitted afresh for each; a user judged in several counts in each, but is "
            f"one user to intervals and tests ({n_users:,} different users); coverage, Gini and popularity lift are "
            "means over folds."
        )
    sentences.append(
        f"{n_judged:,} users judged by {n_relevant:,} relevant items: distinct items whose test events are together "
        f"worth more than nothing. {n_skipped_users:,} users of the test part have none and are not judged."
    )
    sentences.append(
        f"Every list is ranked from the whole catalogue of {candidates} candidates; {n_missed / n_relevant:.1%} of the "
        "relevant items are no candidates (unknown before the test) and count as misses."
    )
    sentences.append(
        "Models are shown each user's history before the test part; "
        + (
            f"what is in it is not recommended, and {n_seen:,} relevant items that are in it do not count."
            if windows[0].exclude_seen
            else "what is in it may be recommended again."
        )
    )
    sentences.append("Ties: more popular in train first, then a seeded shuffle.")
    sentences.append(
        f"Metrics at k = {', '.join(map(str, ks))}: Recall over all of a user's relevant items; NDCG with binary gain "
        "and log2 discount; MAP over min(k, relevant); MRR to the first hit; a list that is too short ends in misses."
        + (" AUC within each user over all candidates, ties one half." if auc else "")
    )
    measured = sum(len(fold.diversity_rows) for fold in folds)
    kind = "their categories" if folds[0].by_category else "the users they share"
    sentences.append(
        f"Likeness of items (diversity) by {kind}"
        + (f", measured on a seeded sample of {measured:,} users" if measured < n_judged else "")
        + f"; miscalibration over {'categories' if folds[0].by_category else 'head, mid and tail items'}, "
        f"at k = {ks[0]}."
    )
    sentences.append(
        "Segments: new users have no event in their history; the others part at the median length, light up to it. "
        f"Head items are the fewest that hold {HEAD_SHARE:.0%} of the events in train; there only such items count."
    )
    drawn = f"95 % intervals: percentiles of {rounds:,} bootstrap draws of users" if rounds else "No intervals"
    grouping = ", each with the rows of all folds" if has_folds and rounds else ""
    sentences.append(
        f"{drawn}{grouping}. p: paired t-tests over users against the best by the main metric, with Holm's correction."
    )
    sentences.append(
        f"At most {CHUNK_BYTES >> 20} MiB of scores exist at once; {run.n_threads} threads; seed {run.seed}. Peak MB: "
        "rise of resident memory while fitting and ranking, looked at every 10 ms."
    )
    return sentences


def warning_sentences(splits: list[Split], windows: list[Window]) -> list[str]:
    sentences = list(dict.fromkeys(warning for part in splits for warning in part.warnings))
    n_relevant, n_seen = sum(len(w.items) for w in windows), sum(w.seen for w in windows)
    n_missed = sum(int((~w.train.candidates[w.items]).sum()) for w in windows)
    if n_seen > 0.3 * (n_seen + n_relevant):
        share = n_seen / (n_seen + n_relevant)
        sentences.append(
            f"{share:.0%} of what users did is repeats, which do not count; to judge them: {REPEATS_REMEDY}"
        )
    if n_missed > 0.2 * n_relevant:
        sentences.append(f"{n_missed / n_relevant:.0%} of the relevant items are no candidates: no model can find them")
    return sentences
