"""The base class of all rankers: examples in, one score per row out, higher is better.

A ranker implements `_fit` and `_raw`. Checks, calibration and saving are implemented here. The constructor only stores
hyperparameters; the names of learned attributes end in `_`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit

from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import ConfigError, DataError, NotFittedError
from zhiyin.core.params import Parameterized, check_settings, param, settings_of
from zhiyin.core.run import Run
from zhiyin.models.state_files import write_learned
from zhiyin.ranking.calibration import CALIBRATORS, Calibrator
from zhiyin.ranking.examples import Examples

FORMAT = 1
Valid = tuple[Examples, np.ndarray]


@dataclasses.dataclass
class Ranker(Parameterized):
    """Base of all rankers. See the module docstring.

    Learned state: `schema_`, the columns of the training examples; `calibrators_`, one per label where `calibrate` is
    set.
    """

    # Whether `_raw` gives log odds, which a sigmoid makes probabilities.
    _log_odds: ClassVar[bool] = True
    # Learned attributes that are neither arrays nor numbers: `_write_parts` and `_read_parts` store them.
    _parts: ClassVar[tuple[str, ...]] = ("schema_", "calibrators_")
    schema_: ClassVar[Schema]
    # One dict an epoch of training: see `core.training_log.TrainingLog`. Empty for a ranker without epochs.
    training_log_: ClassVar[Sequence[Mapping[str, Any]]] = ()
    calibrators_: ClassVar[list[Calibrator]]

    calibrate: str = param(
        "none",
        "calibration of scores to the share of positives, learned on the validation rows",
        choices=("none", "isotonic", "platt"),
    )

    # -- implemented by a ranker ----------------------------------------------------------------------------------

    def _fit(
        self, examples: Examples, labels: np.ndarray, weights: np.ndarray | None, valid: Valid | None, run: Run
    ) -> None:
        """Learn: set attributes that end in `_`. `labels`: float32[m, tasks]."""
        raise NotImplementedError

    def _raw(self, examples: Examples, run: Run) -> np.ndarray:
        """float32[m] or float32[m, tasks]: any real numbers, higher is better; log odds where `_log_odds`."""
        raise NotImplementedError

    def _contributions(self, examples: Examples, run: Run) -> np.ndarray:
        raise ConfigError(
            f"{type(self).__name__} cannot tell what each feature contributes",
            remedy="use Trees where reasons are asked for",
        )

    # -- public methods -------------------------------------------------------------------------------------------

    def fit(
        self,
        examples: Examples,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        valid: Valid | None = None,
        run: Run | None = None,
    ) -> Any:
        """Learn from rows, discarding what was learned before. Returns self.

        Parameters
        ----------
        labels: float32[m], or float32[m, tasks] for a ranker of several labels. Where probabilities are learned, labels
            are clipped to 0..1, so that grades above 1 count as positive.
        weights: float32[m], not negative, the weight of each row; None for 1.
        valid: validation rows and labels, for early stopping, model choice and calibration.

        Raises ConfigError for a hyperparameter out of range, DataError for rows that cannot be learned from.
        """
        run = run or Run()
        for name, value in check_settings(type(self), settings_of(self)).items():
            setattr(self, name, value)
        for name in [name for name in vars(self) if name.endswith("_") or name.startswith("_")]:
            delattr(self, name)
        checked_labels = _labels(labels, len(examples), self._n_tasks, type(self).__name__)
        weights = _weights(weights, len(examples))
        schema = Schema.of(examples)
        if valid is not None:
            schema.check(valid[0], type(self).__name__)
            valid = (valid[0], _labels(valid[1], len(valid[0]), self._n_tasks, type(self).__name__))
            valid = valid if len(valid[0]) else None
        if self.calibrate != "none" and valid is None:
            raise ConfigError(
                f"{type(self).__name__}(calibrate={self.calibrate!r}) needs validation rows",
                remedy="give valid=(examples, labels), of other days than the training rows",
            )
        recorded, kept = run.recorded()
        self._fit(examples, checked_labels, weights, valid, recorded)
        if kept.rows:
            self.training_log_ = kept.kept()  # type: ignore[misc]
        self.calibrators_ = []  # type: ignore[misc]
        if self.calibrate != "none" and valid is not None:
            raw = self._raw(valid[0], run).reshape(len(valid[0]), -1)
            for task in range(raw.shape[1]):
                is_known = ~np.isnan(valid[1][:, task])
                calibrator = CALIBRATORS[self.calibrate].fit(raw[is_known, task], clipped(valid[1][is_known, task]))
                self.calibrators_.append(calibrator)
        self.schema_ = schema  # type: ignore[misc]
        return self

    @property
    def is_fitted(self) -> bool:
        return "schema_" in vars(self)

    @property
    def probabilities(self) -> bool:
        """Whether scores are probabilities; calibrated ones where `calibrate` says so."""
        return self._log_odds or self.calibrate != "none"

    def score(self, examples: Examples, run: Run | None = None) -> np.ndarray:
        """float32[m]: higher is better; comparable within a request, and everywhere where they are `probabilities`.

        Raises DataError where the columns are not those of the training.
        """
        self.check(examples)
        return self.finished(self._raw(examples, run or Run()), 0)

    def contributions(self, examples: Examples, run: Run | None = None) -> np.ndarray:
        """float32[m, features]: contribution of each of `contribution_names` to the raw score of a row.

        Raises ConfigError for a ranker without contributions.
        """
        self.check(examples)
        return self._contributions(examples, run or Run())

    def contribution_names(self, examples: Examples) -> list[str]:
        """Names of the features, in the order of `contributions`: numbers, codes, bags."""
        return [*examples.number_names, *examples.code_names, *examples.bags]

    def save(self, path: Any) -> None:
        """Write the ranker to a folder, as arrays, JSON and text without code. An existing one is replaced whole."""
        self._fitted()
        target = Path(path)
        if target.exists() and not (target / "ranker.json").exists() and any(target.iterdir()):
            remedy = "save to another folder"
            raise DataError("the folder holds something that is no ranker", file=target, remedy=remedy)
        with whole_folder(target) as draft:
            state = write_learned(self, draft)
            for number, calibrator in enumerate(self.calibrators_):
                for name, array in calibrator.arrays().items():
                    np.save(draft / f"calibrator-{number}.{name}.npy", array, allow_pickle=False)
            self._write_parts(draft)
            manifest = {
                "format": FORMAT,
                "ranker": type(self).__name__,
                "settings": settings_of(self),
                "schema": dataclasses.asdict(self.schema_),
                "calibrators": [type(calibrator).__name__.lower() for calibrator in self.calibrators_],
                "state": state,
            }
            (draft / "ranker.json").write_text(json.dumps(manifest, indent=1) + "\n")

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _write_parts(self, folder: Path) -> None:
        """Write further attributes named in `_parts`; most rankers have none."""

    def _read_parts(self, folder: Path) -> None:
        """Read what `_write_parts` wrote."""

    @property
    def _n_tasks(self) -> int:
        """Number of labels per row."""
        return 1

    def finished(self, raw: np.ndarray, task: int) -> np.ndarray:
        """float32[m]: public scores of one label from its raw scores: calibrated, or probabilities from log odds."""
        if self.calibrators_:
            return self.calibrators_[task].apply(raw).astype(np.float32)
        return expit(raw) if self._log_odds else raw

    def _fitted(self) -> None:
        if not self.is_fitted:
            remedy = "call fit(examples, labels) first"
            raise NotFittedError(f"this {type(self).__name__} has not been fitted", remedy=remedy)

    def check(self, examples: Examples) -> None:
        """Raise DataError where the columns of examples are not those of the training."""
        self._fitted()
        self.schema_.check(examples, type(self).__name__)


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of the training examples. `bags` and `bag_cards`: names of the bags and their numbers of codes."""

    numbers: tuple[str, ...]
    codes: tuple[str, ...]
    cards: tuple[int, ...]
    bags: tuple[str, ...]
    bag_cards: tuple[int, ...]

    @classmethod
    def of(cls, examples: Examples) -> Schema:
        """The columns of examples. Raises DataError where the shapes of arrays and names do not fit."""
        m = len(examples)
        shapes = {
            "numbers": (examples.numbers.shape, (m, len(examples.number_names))),
            "codes": (examples.codes.shape, (m, len(examples.code_names))),
            "cards": ((len(examples.cards),), (len(examples.code_names),)),
            "histories": ((len(examples.histories),), (len(examples.offsets) - 1,)),
            "offsets": ((int(examples.offsets[-1]),), (m,)),
        }
        for name, (is_now, should) in shapes.items():
            if tuple(is_now) != should:
                raise DataError(
                    f"{name} of the examples: {list(is_now)} where {list(should)} is expected",
                    remedy="build the examples with the FeatureBuilder",
                )
        return cls(
            tuple(examples.number_names),
            tuple(examples.code_names),
            tuple(int(card) for card in examples.cards),
            tuple(examples.bags),
            tuple(int(bag[2]) for bag in examples.bags.values()),
        )

    @classmethod
    def read(cls, manifest: dict[str, Any]) -> Schema:
        """From a manifest."""
        return cls(**{field.name: tuple(manifest[field.name]) for field in dataclasses.fields(cls)})

    def check(self, examples: Examples, owner: str) -> None:
        """Raises DataError unless examples have these columns, in this order, with no more codes than in training."""
        now = Schema.of(examples)
        if now == self:
            return
        remedy = "build the examples with the feature builder that was saved with the ranker, or train the ranker again"
        for what in ("numbers", "codes", "bags"):
            expected, given = getattr(self, what), getattr(now, what)
            if expected != given:
                missing = [name for name in expected if name not in given]
                unknown = [name for name in given if name not in expected]
                difference = (
                    f"missing {missing}" if missing else f"not known {unknown}" if unknown else "in another order"
                )
                raise DataError(f"{owner}: the {what} are not those it was taught with: {difference}", remedy=remedy)
        for names, expected, given in ((self.codes, self.cards, now.cards), (self.bags, self.bag_cards, now.bag_cards)):
            for name, n_trained, n_given in zip(names, expected, given):
                if n_given > n_trained:
                    raise DataError(
                        f"{owner} was taught with {n_trained} codes, the examples have {n_given}",
                        column=name,
                        remedy=remedy,
                    )


def clipped(labels: np.ndarray) -> np.ndarray:
    """Labels clipped to 0..1; NaN, for unknown, stays."""
    return np.clip(labels, 0, 1)


def _labels(labels: np.ndarray, m: int, tasks: int, owner: str) -> np.ndarray:
    """float32[m, tasks], checked."""
    checked = np.asarray(labels, dtype=np.float32)
    checked = checked[:, None] if checked.ndim == 1 else checked
    if checked.shape != (m, tasks):
        raise DataError(
            f"{owner}: labels of shape {list(np.shape(labels))} for {m} rows of {tasks} label{'s' * (tasks > 1)}",
            remedy="one row of labels a row of examples, one column a label",
        )
    bad = ~np.isfinite(checked) if tasks == 1 else np.isinf(checked)
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        raise DataError(f"{owner}: the label of row {row} is no number", remedy="leave rows without a label out")
    return checked


def _weights(weights: np.ndarray | None, m: int) -> np.ndarray | None:
    if m == 0:
        raise DataError("there are no rows to learn from", remedy="a longer window of requests, or more candidates")
    if weights is None:
        return None
    checked = np.asarray(weights, dtype=np.float32)
    if checked.shape != (m,) or not np.isfinite(checked).all() or (checked < 0).any() or not (checked > 0).any():
        raise DataError("weights must be one number >= 0 a row, not all 0", remedy="None where all rows count alike")
    return checked
