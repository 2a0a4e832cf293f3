"""RatingBlend: several models of ratings, joined by ridge regression on ratings that none of them has learned from."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from zhiyin.core.atomic_files import read_json
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.params import param
from zhiyin.core.registry import specification
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.splits import split
from zhiyin.models.loading import load as load_model
from zhiyin.models.ratings.rating_model import RatingModel
from zhiyin.models.registry import parse
from zhiyin.models.saving import write as write_model

# Penalty of the weights' distance from equal ones, as a share of the number of ratings they are learned from.
RIDGE_SHARE = 1e-3


@dataclasses.dataclass
class RatingBlend(RatingModel):
    """r̂ = w_0 + Σ_m w_m r̂_m: stacked regression (Wolpert, "Stacked generalization", 1992; Breiman 1996).

    The weights are those of a ridge regression around equal ones (`stack`), on a random share of each user's ratings
    that the parts have not learned from; then the parts learn from all ratings. Weights that are given are taken as
    they are, so that `zhiyin train --goal rating` keeps the ratings of the last days for them.

    The score stays an inner product: the vectors of the parts, one behind the other.
    """

    models: str = param("biasedmf + svdpp + bayesianfm", "models with their settings, between +")
    weights: str = param("", "w_0 and the weight of each model, between spaces; empty: learned")
    share: float = param(0.1, "share of each user's ratings that weights are learned on", at_least=0.01, at_most=0.5)
    _parts = ("parts_",)

    parts_: ClassVar[dict[str, RatingModel]]
    weights_: ClassVar[np.ndarray]

    def _fit(self, data: Dataset, run: Run) -> None:
        self._learn_scale(data.histories)
        parts, weights = self._parse_models(), self._parse_weights()
        if weights is None:
            weights = self._learn_weights(parts, data, run)
        self._join({name: model.fit(data, run) for name, model in parts.items()}, weights)

    def _learn_weights(self, parts: Mapping[str, RatingModel], data: Dataset, run: Run) -> np.ndarray:
        """float64[1 + parts]; equal ones where histories are too short to hold ratings back."""
        try:
            train, held = split(data, "ratio", test=self.share, run=run)
        except DataError:
            return equal_weights(len(parts))
        rated = self.rating_scale.of_training(held.histories)
        if not len(rated.ratings):
            return equal_weights(len(parts))
        items, columns = rated.histories.items, []
        for model in parts.values():
            fitted = copy.copy(model).fit(train, run)
            columns.append(fitted.pair_scores(train.histories, rated.owner, items, None, run))
        return stack(np.column_stack(columns), rated.ratings)

    @classmethod
    def of(cls, parts: Mapping[str, RatingModel], weights: np.ndarray, run: Run | None = None) -> RatingBlend:
        """The blend of fitted models, all of the same data. weights: float64[1 + parts], the constant first."""
        first = next(iter(parts.values()))
        blend = cls(models=" + ".join(parts), weights=" ".join(f"{weight:.6g}" for weight in weights))
        for name in ("rated_", "low_", "high_", "liked_", "disliked_"):
            setattr(blend, name, getattr(first, name))
        blend.scale_ = 1.0  # type: ignore[misc]
        blend._join(parts, np.asarray(weights, dtype=np.float64))
        blend.context_ = first._context()  # type: ignore[misc]
        return blend

    def _join(self, parts: Mapping[str, RatingModel], weights: np.ndarray) -> None:
        self.scale_ = 1.0  # type: ignore[misc]
        self.parts_, self.weights_ = dict(parts), np.asarray(weights, dtype=np.float64)  # type: ignore[misc]
        self.item_vectors_ = self._joined_vectors()  # type: ignore[misc]

    def _joined_vectors(self) -> np.ndarray:
        """float32[n_items, 2 + d]: w_0, a zero, and the vectors of the parts times their weights."""
        vectors = [np.float32(w) * model.item_vectors_ for w, model in zip(self.weights_[1:], self.parts_.values())]
        constant = np.zeros((len(vectors[0]), 2), np.float32)
        constant[:, 0] = self.weights_[0]
        return np.hstack([constant, *vectors])

    @property
    def timed(self) -> bool:  # type: ignore[override]
        return any(model.timed for model in self.parts_.values())

    def _encode(self, histories: Histories, run: Run) -> np.ndarray:
        """float32[n, 2 + d]: a one, a zero, and the vectors of the parts."""
        constant = np.tile(np.array([1, 0], np.float32), (len(histories), 1))
        return np.hstack([constant, *(model.encode(histories, run) for model in self.parts_.values())])

    def _similar(self, items: np.ndarray, run: Run) -> np.ndarray:
        """The mean of the parts' cosines, by the size of their weights."""
        sizes = np.abs(self.weights_[1:]) / max(float(np.abs(self.weights_[1:]).sum()), 1e-12)
        found = np.zeros((len(items), len(self.item_vectors_)), np.float32)
        for size, model in zip(sizes, self.parts_.values()):
            found += np.float32(size) * model._similar(items, run)
        return found

    def _parse_models(self) -> dict[str, RatingModel]:
        """The models, unfitted. Raises ConfigError for one that is unknown, named twice, or predicts no ratings."""
        models: dict[str, RatingModel] = {}
        for text in filter(None, (part.strip() for part in self.models.split(" + "))):
            model = parse(text)
            if not isinstance(model, RatingModel) or isinstance(model, RatingBlend):
                raise ConfigError(f"{text!r} cannot be blended", remedy="name models of ratings: biasedmf + svdpp")
            if text in models:
                raise ConfigError(f"model {text!r} is named twice", remedy="name each once")
            models[text] = model
        if not models:
            raise ConfigError("a blend needs a model", remedy='models = "biasedmf + svdpp"')
        return models

    def _parse_weights(self) -> np.ndarray | None:
        """float64[1 + models]; None where they are to be learned."""
        if not self.weights.strip():
            return None
        try:
            weights = np.array([float(text) for text in self.weights.split()])
        except ValueError:
            weights = np.array([np.nan])
        wanted = 1 + len(self._parse_models())
        if len(weights) != wanted or not np.isfinite(weights).all():
            raise ConfigError(
                f"weights = {self.weights!r} are not {wanted} numbers", remedy="w_0 and one for each model"
            )
        return weights

    # -- on disk ------------------------------------------------------------------------------------------------------

    def _write_parts(self, folder: Path) -> None:
        super()._write_parts(folder)
        for number, model in enumerate(self.parts_.values()):
            place = folder / f"part-{number}"
            place.mkdir()
            write_model(model, place, self._context())
        (folder / "blend.json").write_text(json.dumps({"models": list(self.parts_)}, indent=1) + "\n")

    def _read_parts(self, folder: Path, mmap: bool) -> None:
        names = read_json(folder / "blend.json", "train again", names=("models",))["models"]
        parts: dict[str, Any] = {
            name: load_model(folder / f"part-{number}", mmap=mmap, parent=self._context())
            for number, name in enumerate(names)
        }
        if not all(isinstance(model, RatingModel) for model in parts.values()):
            raise DataError("a part of the blend predicts no ratings", file=folder, remedy="train again")
        self.parts_ = parts  # type: ignore[misc]
        super()._read_parts(folder, mmap)


def equal_weights(n: int) -> np.ndarray:
    """float64[1 + n]: no constant, and the mean of all."""
    return np.concatenate([[0.0], np.full(n, 1 / n)])


def stack(predictions: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    """float64[1 + k]: a constant and weights w that minimise Σ (r - w_0 - Σ_m w_m r̂_m)² + λ |w - 1/k|² over n ratings,
    λ = `RIDGE_SHARE` · n · the mean variance of the predictions; w_0 is free.

    predictions: float[n, k].
    """
    x, r = np.asarray(predictions, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    n, k = x.shape
    start = np.full(k, 1 / k)
    centred, left = x - x.mean(axis=0), r - r.mean()
    left = left - centred @ start
    penalty = RIDGE_SHARE * n * max(float(centred.var()), 1e-12)
    moved = np.linalg.solve(centred.T @ centred + penalty * np.eye(k), centred.T @ left)
    weights = start + moved
    return np.concatenate([[float(r.mean() - x.mean(axis=0) @ weights)], weights])


def specification_of_parts(models: list[RatingModel]) -> str:
    """The text of `models` that names these, with their settings."""
    return " + ".join(specification(model) for model in models)
