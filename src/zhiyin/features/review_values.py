"""What a review is worth as the value of an event, by its text: the same where a log is read and where an event comes.

Without rated reviews the lexicon judges (`sentiment_lexicon`); from MIN_RATED on a classifier that was learned from
them does (`sentiment`), over their words and the lexicon's score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError, MissingExtraError
from zhiyin.core.run import Run
from zhiyin.data.project_config.data_sections import ReviewsSection
from zhiyin.features.sentiment import Sentiment
from zhiyin.features.sentiment_lexicon import scores

# Rated reviews from which on a classifier is learned from them.
MIN_RATED = 500
# Values of the worst and the best review, where neither settings nor ratings of the log say: a bad one is a dislike.
WORST, BEST = -1.0, 1.0


@dataclasses.dataclass
class ReviewValues:
    """The map from texts to values.

    Parameters
    ----------
    language: "en", "zh", or "auto" by the writing of each text; of the lexicon.
    worst, best: values of the worst and of the best review.
    model: the classifier, whose values are ratings of the log; None: the lexicon alone.
    """

    language: str = "auto"
    worst: float = WORST
    best: float = BEST
    model: Sentiment | None = None

    @classmethod
    def of(cls, settings: ReviewsSection) -> ReviewValues:
        """By the lexicon, on the scale of the settings."""
        worst = WORST if settings.worst is None else settings.worst
        best = BEST if settings.best is None else settings.best
        return cls(settings.language, worst, best)

    def values(self, texts: pl.Series) -> np.ndarray:
        """float32[n]: the value of each review; NaN for one that says nothing."""
        if not len(texts):
            return np.zeros(0, dtype=np.float32)
        judged = scores(texts, self.language)
        by_lexicon = self.worst + (judged + 1) / 2 * (self.best - self.worst)
        if self.model is None:
            return by_lexicon.astype(np.float32)
        return self.model.value(texts)

    def state(self) -> dict[str, Any]:
        """JSON values and arrays, all that was learned."""
        own = {"language": self.language, "worst": self.worst, "best": self.best}
        return own if self.model is None else own | {f"model.{k}": value for k, value in self.model.state().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ReviewValues:
        """What `state` came from."""
        model = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        return cls(state["language"], state["worst"], state["best"], Sentiment.from_state(model) if model else None)


class ReviewReader:
    """Fills in values while a log is read: see `zhiyin.read(reviews=...)`.

    Parameters
    ----------
    column: the column of the log that holds the texts.
    """

    def __init__(self, settings: ReviewsSection, run: Run | None = None) -> None:
        if settings.column is None:
            raise DataError("no column of reviews is named", remedy='[features.reviews] column = "review"')
        self.column, self.settings, self.run = settings.column, settings, run

    def fill(self, events: pl.DataFrame) -> tuple[pl.DataFrame, list[str], dict[str, Any]]:
        """The events without their `text`, values filled in where there was none; what was done, in sentences; and the
        state of the `ReviewValues` that did it."""
        texts = events["text"]
        has_ratings = "value" in events.columns
        given = (
            events["value"].cast(pl.Float32)
            if has_ratings
            else pl.repeat(None, len(events), dtype=pl.Float32, eager=True)
        )
        given = given.fill_nan(None)
        reviews = texts.is_not_null() & (texts.str.strip_chars().str.len_bytes() > 0)
        rated = given.is_not_null() & reviews
        values, notes = self._learned(texts.filter(rated), given.filter(rated))
        rows = (reviews & given.is_null()).arg_true()
        found = values.values(texts.gather(rows))
        n_silent = int(np.isnan(found).sum())
        filled = (
            given.scatter(rows, pl.Series(found).fill_nan(None)).alias("value") if len(rows) else given.alias("value")
        )
        notes.append(
            f"{len(rows):,} reviews in {self.column} have no rating; {len(rows) - n_silent:,} were given a value from "
            f"{values.worst:g} to {values.best:g} by their text" + (f", {n_silent:,} say nothing" if n_silent else "")
        )
        return events.drop("text").with_columns(filled), notes, values.state()

    def _learned(self, texts: pl.Series, ratings: pl.Series) -> tuple[ReviewValues, list[str]]:
        """By a classifier where there are enough rated reviews, else by the lexicon, with the reason."""
        values = ReviewValues.of(self.settings)
        if len(ratings):
            low, high = float(ratings.min()), float(ratings.max())  # type: ignore[arg-type]
            if low < high:
                values.worst = low if self.settings.worst is None else values.worst
                values.best = high if self.settings.best is None else values.best
        if len(ratings) < MIN_RATED:
            return values, [f"{len(ratings):,} reviews are rated, and {MIN_RATED} are needed to learn from them: words "
                            "of a lexicon decide"]  # fmt: skip
        try:
            values.model = Sentiment.learn(texts, ratings, language=self.settings.language, run=self.run)
        except (DataError, MissingExtraError) as error:
            return values, [
                f"nothing was learned from {len(ratings):,} rated reviews, words of a lexicon decide: {error}"
            ]
        return values, [f"learned from {len(ratings):,} rated reviews; of those kept back {values.model.accuracy:.1%} "
                        f"fall on the right side of {values.model.threshold:g}"]  # fmt: skip


def review_reader(settings: ReviewsSection, run: Run | None = None) -> ReviewReader | None:
    """The reader of the settings; None where they name no column."""
    return None if settings.column is None else ReviewReader(settings, run)
