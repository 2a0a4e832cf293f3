"""Base of the rating models that learn factors by stochastic gradient descent: settings, epochs, folding in."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.models.ratings.rating_model import RatingModel, fold


@dataclasses.dataclass
class SGDRatingModel(RatingModel):
    """A rating model of biases and factors, learned by stochastic gradient descent whose step shrinks linearly to a
    tenth."""

    factors: int = param(32, "length of the vectors", at_least=1, at_most=1024, tune=(8, 128), log=True)
    epochs: int = param(30, "passes over the ratings", at_least=1, tune=(10, 60))
    rate: float = param(0.02, "step size", at_least=0, tune=(0.002, 0.05), log=True)
    reg: float = param(0.14, "L2 penalty on the vectors, for each rating", at_least=0, tune=(0.01, 0.3), log=True)
    reg_bias: float = param(0.02, "L2 penalty on the biases, for each rating", at_least=0, tune=(0.002, 0.2), log=True)
    fold_reg: float = param(
        1.0, "penalties of fold-in as a multiple of those of training", at_least=0.01, tune=(0.5, 4.0)
    )

    @property
    def _error_limit(self) -> np.float32:
        """The largest error that a step is made of: twice the range of the ratings, so that steps are bounded."""
        return np.float32(2 * (self.high_ - self.low_) / self.scale_ + 1e-3)

    def _train(self, sweep: Callable[[np.float32], float], n_ratings: int, run: Run) -> None:
        """All epochs. `sweep` makes one pass with a step length and returns the sum of squared errors."""
        name, started = type(self).__name__, time.perf_counter()
        with run.bar(name, self.epochs) as advance:
            for epoch in range(self.epochs):
                rate = self.rate * (1 - 0.9 * epoch / self.epochs)
                loss = sweep(np.float32(rate)) / n_ratings
                advance(1)
                seconds, rmse = time.perf_counter() - started, self.scale_ * max(0.0, loss) ** 0.5
                run.report(model=name, epoch=epoch + 1, of=self.epochs, loss=loss, rmse=rmse, learning_rate=rate,
                           seconds=seconds)  # fmt: skip

    def _start_vectors(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        """float32[rows, factors]: vectors before training."""
        return 0.1 * rng.standard_normal((rows, self.factors), dtype=np.float32)

    def _fold_bias_and_factors(
        self, histories: Histories, targets: np.ndarray, vectors: np.ndarray, run: Run
    ) -> np.ndarray:
        """float32[n, 1 + factors]: bias and factors of each user, solved exactly against fixed items.

        Parameters
        ----------
        targets: float32[m], ratings without what items alone explain.
        vectors: float32[m, 1 + factors], a one and the item's factors, of each event.
        """
        penalty = np.full(1 + self.factors, self.fold_reg * self.reg, dtype=np.float32)
        penalty[0] = self.fold_reg * self.reg_bias
        return fold(histories, targets, np.ascontiguousarray(vectors), np.maximum(penalty, 1e-4), True, run)


def with_constant(columns: np.ndarray) -> np.ndarray:
    """float32[n, 1 + d]: columns behind a column of ones."""
    return np.hstack([np.ones((len(columns), 1), np.float32), columns])
