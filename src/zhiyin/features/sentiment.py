"""Sentiment of reviews: a classifier trained on the rated reviews of a log fills in the values of the unrated ones.

Works on a frame of events before it becomes a data set:

    events, notes = fill_values(pl.read_csv("reviews.csv"), text="review", value="rating")
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.errors import DataError, MissingExtraError, suggest
from zhiyin.core.run import Run
from zhiyin.features.sentiment_lexicon import scores
from zhiyin.features.text import Text

# Fewest rated reviews on each side of the threshold that a classifier is trained on.
MIN_REVIEWS_PER_CLASS = 20
N_FOLDS = 5
N_CALIBRATION_BINS = 20


@dataclasses.dataclass
class Sentiment:
    """Logistic regression on TF-IDF of words and pairs of words (Pang, Lee & Vaithyanathan, EMNLP 2002).

    Parameters
    ----------
    text: the learned vocabulary.
    weights: float32, one per word, then one of the lexicon's score (`sentiment_lexicon`).
    language: of the lexicon, see there.
    bias: intercept.
    threshold: ratings above it count as positive, below it as negative; those at it are not learned from.
    steps, values: float32[m], isotonic map from probability to rating, linear between the steps; fitted on out-of-fold
        probabilities.
    accuracy: out-of-fold share of rated reviews on the right side of the threshold.
    """

    text: Text
    weights: np.ndarray
    bias: float
    threshold: float
    steps: np.ndarray
    values: np.ndarray
    accuracy: float
    language: str = "auto"

    @classmethod
    def learn(
        cls,
        texts: pl.Series,
        ratings: pl.Series,
        *,
        threshold: float | None = None,
        c: float = 10.0,
        language: str = "auto",
        run: Run | None = None,
    ) -> Sentiment:
        """Learn from reviews with a rating. `threshold`: None takes the middle of the smallest and the largest rating;
        `c`: inverse strength of the L2 penalty.

        Raises DataError where fewer than 20 reviews of either side are rated, MissingExtraError without scikit-learn.
        """
        try:
            from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        except ModuleNotFoundError:
            raise MissingExtraError("scikit-learn", "text", "learning sentiment") from None
        rated = pl.DataFrame({"text": texts, "rating": ratings.cast(pl.Float64).fill_nan(None)}).drop_nulls()
        rating = rated["rating"].to_numpy()
        if threshold is None:
            threshold = float((rating.min() + rating.max()) / 2) if len(rating) else 0.0
        sided = rating != threshold
        positive = rating > threshold
        if min((positive & sided).sum(), (~positive & sided).sum()) < MIN_REVIEWS_PER_CLASS:
            raise DataError(
                f"{int((positive & sided).sum()):,} rated reviews lie above {threshold:g} and "
                f"{int((~positive & sided).sum()):,} below: too few to learn sentiment from",
                remedy=f"at least {MIN_REVIEWS_PER_CLASS} of each, or another threshold",
            )
        run = run or Run()
        by_lexicon = scores(rated["text"], language)

        def learned(rows: np.ndarray) -> tuple[Text, np.ndarray, float]:
            reviews = rated["text"].filter(pl.Series(rows))
            words = Text.learn("text", reviews, {"ngrams": "2", "min": "2"})
            model = LogisticRegression(C=c, max_iter=1000, random_state=0)
            labelled = sided[rows]
            model.fit(_inputs(words, reviews, by_lexicon[rows])[labelled], positive[rows][labelled])
            return words, model.coef_[0].astype(np.float32), float(model.intercept_[0])

        # Out-of-fold probabilities: those of training reviews would be too extreme.
        fold = run.rng(81).permutation(len(rating)) % N_FOLDS
        probabilities = np.empty(len(rating))
        for out in range(N_FOLDS):
            words, weights, bias = learned(fold != out)
            held_out = rated["text"].filter(pl.Series(fold == out))
            probabilities[fold == out] = _probability(words, weights, bias, held_out, by_lexicon[fold == out])
        accuracy = float(((probabilities > 0.5) == positive)[sided].mean())
        order = np.argsort(probabilities, kind="stable")
        parts = np.array_split(order, min(N_CALIBRATION_BINS, max(1, len(order) // 10)))
        steps = np.array([probabilities[part].mean() for part in parts], dtype=np.float32)
        values = _increasing(np.array([rating[part].mean() for part in parts]), np.array([len(p) for p in parts]))
        words, weights, bias = learned(np.ones(len(rating), dtype=bool))
        return cls(words, weights, bias, threshold, steps, values.astype(np.float32), accuracy, language)

    def probability(self, texts: pl.Series) -> np.ndarray:
        """float32[n]: probability that each review is positive; NaN without text."""
        by_lexicon = scores(texts, self.language)
        probabilities = _probability(self.text, self.weights, self.bias, texts, by_lexicon)
        return np.where(_is_blank(texts), np.nan, probabilities).astype(np.float32)

    def value(self, texts: pl.Series) -> np.ndarray:
        """float32[n]: predicted rating of each review; NaN without text."""
        return np.interp(self.probability(texts), self.steps, self.values).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """JSON values and arrays, all that was learned."""
        settings, arrays = self.text.state()
        own = {name: getattr(self, name) for name in _OWN}
        return own | {"text": settings} | {f"text.{name}": array for name, array in arrays.items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Sentiment:
        """What `state` came from."""
        arrays = {name.removeprefix("text."): value for name, value in state.items() if name.startswith("text.")}
        text = Text.restore(state["text"], arrays)
        assert isinstance(text, Text)
        return cls(text, **{name: state[name] for name in _OWN})


_OWN = ("weights", "bias", "threshold", "steps", "values", "accuracy", "language")
# How much the lexicon's score, from -1 to 1, counts beside the words of a review, whose vector has length 1.
_LEXICON_WEIGHT = 2.0


def fill_values(
    events: pl.DataFrame,
    text: str,
    value: str = "value",
    *,
    threshold: float | None = None,
    weight: str = "weight",
    run: Run | None = None,
) -> tuple[pl.DataFrame, list[str]]:
    """Values for the reviews that have a text and no rating, learned from those that have both.

    Where the frame has a column `weight`, its nulls at such rows become 2 p - 1: from -1, surely a bad review, to 1.

    Returns
    -------
    The frame with the column `value` (Float32) filled, and what was done, in sentences with counts and the accuracy on
    reviews that were not learned from.
    """
    for name in (text, value):
        if name not in events.columns:
            raise DataError(f"there is no column {name!r}", remedy=suggest(name, events.columns))
    ratings = events[value].cast(pl.Float32, strict=False).fill_nan(None)
    is_unrated = ratings.is_null() & ~pl.Series(_is_blank(events[text]))
    if not is_unrated.any():
        return events.with_columns(ratings.alias(value)), ["every review with a text has a rating"]
    rated = events.filter(ratings.is_not_null())
    model = Sentiment.learn(rated[text], rated[value], threshold=threshold, run=run)
    texts = events[text].filter(is_unrated)
    rows = is_unrated.arg_true()
    filled = ratings.scatter(rows, pl.Series(model.value(texts)))
    columns = [filled.alias(value)]
    if weight in events.columns:
        weights = events[weight].cast(pl.Float32, strict=False)
        own = pl.Series(2 * model.probability(texts) - 1)
        empty = weights.gather(rows).is_null()
        columns.append(weights.scatter(rows.filter(empty), own.filter(empty)).alias(weight))
    note = (
        f"{len(rows):,} unrated reviews valued by their text, learned from {len(rated):,} rated ones; of reviews not "
        f"learned from, {model.accuracy:.1%} fall on the right side of {model.threshold:g}"
    )
    return events.with_columns(columns), [note]


def _probability(words: Text, weights: np.ndarray, bias: float, texts: pl.Series, by_lexicon: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(_inputs(words, texts, by_lexicon) @ weights.astype(np.float64) + bias)))


def _inputs(words: Text, texts: pl.Series, by_lexicon: np.ndarray) -> sparse.csr_matrix:
    """CSR float32[n, words + 1]: TF-IDF, and the lexicon's score, 0 where it says nothing."""
    score = np.nan_to_num(by_lexicon.astype(np.float32))[:, None] * np.float32(_LEXICON_WEIGHT)
    return sparse.csr_matrix(sparse.hstack([words.matrix(texts), sparse.csr_matrix(score)], format="csr"))


def _is_blank(texts: pl.Series) -> np.ndarray:
    """bool[n]: whether a review is empty or blank."""
    return ~(texts.cast(pl.String).str.strip_chars().str.len_bytes() > 0).fill_null(False).to_numpy()


def _increasing(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest non-decreasing sequence in weighted squares: pool adjacent violators, over a few bins."""
    blocks: list[list[float]] = []  # mean, weight, how many bins
    for value, weight in zip(values, weights):
        blocks.append([float(value), float(weight), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, mass, bins = blocks.pop()
            before = blocks[-1]
            total = before[1] + mass
            blocks[-1] = [(before[0] * before[1] + mean * mass) / total, total, before[2] + bins]
    return np.repeat([block[0] for block in blocks], [int(block[2]) for block in blocks])
