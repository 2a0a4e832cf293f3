"""The conformance suite of rankers: learning a planted signal, scores, saving, columns, labels and calibration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError, DataError, NotFittedError
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.ranking.calibration import expected_calibration_error
from zhiyin.ranking.examples import Examples
from zhiyin.ranking.loading import load
from zhiyin.ranking.ranker import Ranker
from zhiyin.ranking.registry import parse

SIDES, ITEMS, GENRES = 30, 40, 6


def planted(seed: int, requests: int = 500, each: int = 12) -> tuple[Examples, np.ndarray, np.ndarray]:
    """Rows whose chance of a click is known: from a number, two categories and their meeting, a bag, and whether the
    history holds items of the same half of the catalogue. Returns examples, labels and the true chances."""
    rng = np.random.default_rng(seed)
    m = requests * each
    owners = np.repeat(np.arange(requests), each)
    items = rng.integers(0, ITEMS, m).astype(np.int32)
    side = rng.integers(0, SIDES, requests)[owners].astype(np.int32)
    number = rng.normal(size=m).astype(np.float32)
    number[rng.random(m) < 0.1] = np.nan
    sizes = rng.integers(0, 4, m)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    genres = rng.integers(0, GENRES, starts[-1]).astype(np.int32)
    half = rng.integers(0, 2, requests)
    lengths = rng.integers(0, 6, requests)
    history_items = (2 * rng.integers(0, ITEMS // 2, lengths.sum()) + np.repeat(half, lengths)).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    logit = (
        -1.0
        + 1.2 * np.nan_to_num(number)
        + np.where((side % 2) == (items // 2 % 2), 1.0, -1.0)
        + np.bincount(np.repeat(np.arange(m), sizes), np.where(genres == 2, 1.0, 0.0), minlength=m)
        + np.where(lengths[owners] > 0, np.where(items % 2 == half[owners], 1.0, -1.0), 0.0)
    )
    chance = 1 / (1 + np.exp(-logit))
    labels = (rng.random(m) < chance).astype(np.float32)
    examples = Examples(
        np.arange(0, m + 1, each, dtype=np.int64),
        items,
        number[:, None],
        ("number",),
        np.stack([side + 1, items + 1], axis=1).astype(np.int32),
        ("side", "item"),
        (SIDES + 1, ITEMS + 1),
        Histories.of(offsets, history_items),
        {"genres": (starts, genres, GENRES)},
    )
    return examples, labels, chance


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The chance that a positive row is above a negative one; ties count half."""
    positive, negative = scores[labels > 0.5], scores[labels <= 0.5]
    both = np.sort(negative)
    below, upto = np.searchsorted(both, positive, "left"), np.searchsorted(both, positive, "right")
    return float((below + upto).mean() / 2 / len(negative))


class RankerConformance:
    """Tests of a ranker on planted examples; a subclass sets `text`.

    text: specification of the ranker, such as "fm:factors=4".
    least: share of the distance between the AUC of chance and that of the true probabilities that it must reach.
    """

    text: str
    least: float = 0.8

    @classmethod
    def make(cls, **settings: Any) -> Ranker:
        ranker = parse(cls.text)
        return dataclasses.replace(ranker, **settings)

    @classmethod
    def labels(cls, marks: np.ndarray) -> np.ndarray:
        return marks

    @pytest.fixture(scope="class")
    @classmethod
    def taught(cls) -> Ranker:
        examples, labels, _ = planted(1)
        held, truth, _ = planted(2, 150)
        return cls.make().fit(examples, cls.labels(labels), valid=(held, cls.labels(truth)), run=Run(seed=3, threads=2))

    def test_learns_what_was_planted(self, taught: Ranker) -> None:
        examples, labels, chance = planted(9, 300)
        best, achieved = auc(labels, chance), auc(labels, taught.score(examples))
        assert (achieved - 0.5) / (best - 0.5) > self.least

    def test_scores_are_finite_floats_a_row(self, taught: Ranker) -> None:
        examples, _, _ = planted(4, 20)
        scores = taught.score(examples)
        assert scores.shape == (len(examples),)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()
        assert not taught.probabilities or ((scores >= 0) & (scores <= 1)).all()

    def test_rows_do_not_hang_on_each_other(self, taught: Ranker) -> None:
        examples, _, _ = planted(4, 30)
        whole = taught.score(examples)
        some = np.array([3, 17, 4], dtype=np.int64)
        rows = np.concatenate([np.arange(examples.offsets[r], examples.offsets[r + 1]) for r in some])
        assert np.allclose(taught.score(examples.take(some)), whole[rows], rtol=1e-4, atol=1e-5)

    def test_the_same_seed_learns_the_same(self, taught: Ranker) -> None:
        examples, labels, _ = planted(1)
        held, truth, _ = planted(2, 150)
        again = self.make().fit(examples, self.labels(labels), valid=(held, self.labels(truth)), run=Run(seed=3))
        assert np.array_equal(again.score(held), taught.score(held))

    def test_saved_and_loaded_it_says_the_same(self, taught: Ranker, tmp_path: Path) -> None:
        examples, _, _ = planted(4, 30)
        taught.save(tmp_path / "ranker")
        loaded = load(tmp_path / "ranker")
        assert type(loaded) is type(taught)
        assert np.array_equal(loaded.score(examples), taught.score(examples))
        (tmp_path / "ranker" / "ranker.json").write_text("{")
        with pytest.raises(DataError):
            load(tmp_path / "ranker")

    def test_codes_and_values_never_met_are_answered(self, taught: Ranker) -> None:
        examples, _, _ = planted(4, 30)
        strange = dataclasses.replace(
            examples,
            numbers=np.full_like(examples.numbers, np.nan),
            codes=np.zeros_like(examples.codes),
            histories=Histories.of(np.zeros(31, np.int64), np.zeros(0, np.int32)),
            bags={"genres": (np.zeros(len(examples) + 1, np.int64), np.zeros(0, np.int32), GENRES)},
        )
        assert np.isfinite(taught.score(strange)).all()

    def test_other_columns_are_refused(self, taught: Ranker) -> None:
        examples, _, _ = planted(4, 30)
        with pytest.raises(DataError, match="number"):
            taught.score(dataclasses.replace(examples, number_names=("numbers",)))

    def test_not_fitted(self) -> None:
        with pytest.raises(NotFittedError):
            self.make().score(planted(4, 3)[0])

    def test_labels_that_cannot_be(self) -> None:
        examples, labels, _ = planted(4, 30)
        with pytest.raises(DataError):
            self.make().fit(examples, self.labels(labels)[:-1])
        bad = self.labels(labels).copy()
        bad[...] = np.inf
        with pytest.raises(DataError):
            self.make().fit(examples, bad)

    def test_parameters_as_scikit_learn_reads_and_sets_them(self) -> None:
        ranker = self.make()
        params = ranker.get_params()
        assert type(ranker)().set_params(**params) == ranker
        with pytest.raises(ConfigError, match="no hyperparameter 'unheard_of'"):
            ranker.set_params(unheard_of=1)
        copy = pytest.importorskip("sklearn.base").clone(ranker)
        assert copy is not ranker
        assert copy == ranker

    @pytest.mark.parametrize("how", ["isotonic", "platt"])
    def test_calibrated_chances_are_right_on_average(self, how: str) -> None:
        ranker = self.make(calibrate=how)
        examples, labels, _ = planted(1)
        with pytest.raises(ConfigError, match="validation"):
            ranker.fit(examples, self.labels(labels))
        valid_examples, truth, _ = planted(2, 400)
        ranker.fit(examples, self.labels(labels), valid=(valid_examples, self.labels(truth)), run=Run(seed=3))
        test_examples, _, chance = planted(9, 600)
        assert expected_calibration_error(chance, self.chances(ranker, test_examples)) < 0.03

    def chances(self, ranker: Ranker, examples: Examples) -> np.ndarray:
        return ranker.score(examples)
