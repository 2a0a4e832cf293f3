"""Trees: gradient boosted trees (LightGBM) over numbers with missing values and categories; the default ranker."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from zhiyin.core.errors import DataError, MissingExtraError
from zhiyin.core.params import param
from zhiyin.core.run import Run, log
from zhiyin.ranking.examples import Examples, bag_flags
from zhiyin.ranking.lightgbm_inference import Forest
from zhiyin.ranking.ranker import Ranker, Valid, clipped

# LightGBM parameters that apply to the binning of a data set.
_OF_TABLES = ("min_data_in_leaf", "num_threads", "force_row_wise", "deterministic", "verbosity")
# Cells per thread: with fewer, synchronisation of LightGBM's threads costs more than they save.
CELLS_PER_THREAD = 16_000_000
# Largest number of codes that float32 represents exactly.
MAX_CODES = 1 << 24
# LightGBM's limit of rows per request; and limits of grades, so that gains stay in range.
MAX_ROWS_PER_REQUEST, MAX_GRADE, MAX_LEVELS = 10_000, 30.0, 32


@dataclasses.dataclass
class Trees(Ranker):
    """Gradient boosted trees of LightGBM (Ke et al., NeurIPS 2017).

    "lambdarank" learns the order within requests (LambdaMART: Burges, From RankNet to LambdaRank to LambdaMART, 2010):
    grades may be any numbers, the gain of grade g is 2^g - 2^lowest. "binary" learns the probability of a label.

    | difference from the paper | why |
    |---|---|
    | grades may be fractions: their levels are ranked, each with its own gain | events are worth 0.5 as well as 1 |
    | a bag becomes a column for each of its `bag_columns` most frequent codes | trees split on one column at a time |
    | scoring is a walk over flat arrays, equal to LightGBM's bit for bit | LightGBM's own call costs 1.5 ms |

    Learned state: `text_`, the trees as LightGBM writes them; `forest_`; `bag_codes_`, the columns of each bag.
    """

    _parts: ClassVar[tuple[str, ...]] = (*Ranker._parts, "text_", "forest_")
    text_: ClassVar[str]
    forest_: ClassVar[Forest]
    bag_codes_: ClassVar[dict[str, np.ndarray]]

    objective: str = param(
        "lambdarank",
        "objective: the order within requests, or the probability of a positive",
        choices=("lambdarank", "binary"),
    )
    trees: int = param(500, "largest number of trees", at_least=1, tune=(50, 1000), log=True)
    leaves: int = param(31, "leaves of a tree", at_least=2, at_most=4096, tune=(7, 127), log=True)
    learning_rate: float = param(
        0.05, "learning rate: share of each tree that is added", at_least=1e-6, tune=(0.01, 0.3), log=True
    )
    min_leaf: int = param(20, "fewest rows of a leaf", at_least=1, tune=(5, 500), log=True)
    reg: float = param(1.0, "L2 penalty on leaf values", at_least=0, tune=(0.01, 100), log=True)
    columns: float = param(0.8, "share of the columns that each tree uses", at_least=0.01, at_most=1, tune=(0.3, 1))
    rows: float = param(0.8, "share of the rows that each tree is trained on", at_least=0.01, at_most=1, tune=(0.3, 1))
    patience: int = param(30, "trees without a better validation metric before training stops; 0: never", at_least=0)
    cutoff: int = param(10, "list length of the validation metric", at_least=1)
    bag_columns: int = param(64, "largest number of columns made of one multi-valued column", at_least=0, at_most=4096)

    @property
    def _log_odds(self) -> bool:  # type: ignore[override]
        return self.objective == "binary"

    # -- learning ---------------------------------------------------------------------------------------------------

    def _fit(
        self, examples: Examples, labels: np.ndarray, weights: np.ndarray | None, valid: Valid | None, run: Run
    ) -> None:
        lightgbm = _lightgbm()
        for name, card in zip(examples.code_names, examples.cards):
            if card > MAX_CODES:
                remedy = "hash it to fewer codes, or use a network, which has a vector a code"
                raise DataError(f"{card} categories are too many for trees", column=name, remedy=remedy)
        self.bag_codes_ = {name: self._frequent(bag) for name, bag in examples.bags.items()}  # type: ignore[misc]
        if not self._names(examples):
            raise DataError("the examples have no column that trees could ask", remedy="add numbers or categories")
        target, valid_target = labels[:, 0], None if valid is None else valid[1][:, 0]
        cells = len(examples.items) * len(self._names(examples))
        options = self._options(run, min(run.n_threads, 1 + cells // CELLS_PER_THREAD))
        if self.objective == "lambdarank":
            target, valid_target, options["label_gain"] = _levels(target, valid_target)
        else:
            target, valid_target = clipped(target), None if valid_target is None else clipped(valid_target)
        table = self._dataset(lightgbm, examples, target, weights, options)
        sets, callbacks = [], [_reports(run, self.trees, self.learning_rate)]
        if valid is not None and valid_target is not None:
            sets = [self._dataset(lightgbm, valid[0], valid_target, None, options, table)]
            if self.patience:
                callbacks.append(lightgbm.early_stopping(self.patience, verbose=False))
            if self.objective == "binary":  # the log-loss of the training rows costs little, their NDCG does not
                sets.append(table)
        booster = lightgbm.train(options, table, self.trees, valid_sets=sets, callbacks=callbacks)
        best = booster.best_iteration if sets and self.patience else 0
        if best:
            early = booster.current_iteration() < self.trees
            run.record_end(best_epoch=best, **({"stopped": f"no better for {self.patience} trees"} if early else {}))
        self.text_ = booster.model_to_string(num_iteration=best or booster.current_iteration())  # type: ignore[misc]
        self.forest_ = Forest.read(self.text_)  # type: ignore[misc]

    def _options(self, run: Run, threads: int) -> dict[str, Any]:
        """LightGBM's parameters."""
        return {
            "objective": self.objective,
            "metric": ["ndcg" if self.objective == "lambdarank" else "binary_logloss"],
            "eval_at": [self.cutoff],
            "lambdarank_truncation_level": max(30, self.cutoff + 3),
            "num_leaves": self.leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": self.min_leaf,
            "lambda_l2": self.reg,
            "feature_fraction": self.columns,
            "bagging_fraction": self.rows,
            "bagging_freq": 1 if self.rows < 1 else 0,
            # Categories of few rows: as the documentation advises for many codes.
            "min_data_per_group": self.min_leaf,
            "seed": run.seed,
            "num_threads": threads,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }

    def _dataset(
        self,
        lightgbm: Any,
        examples: Examples,
        target: np.ndarray,
        weights: np.ndarray | None,
        options: dict[str, Any],
        reference: Any = None,
    ) -> Any:
        sizes = np.diff(examples.offsets)
        ranked = self.objective == "lambdarank"
        if ranked and sizes.max(initial=0) > MAX_ROWS_PER_REQUEST:
            raise DataError(
                f"a request has {sizes.max()} candidates, lambdarank takes {MAX_ROWS_PER_REQUEST}",
                remedy="fewer candidates a source, or objective = binary",
            )
        first = len(examples.number_names)
        return lightgbm.Dataset(
            self.table(examples),
            target,
            reference=reference,
            weight=weights,
            group=sizes[sizes > 0] if ranked else None,
            categorical_feature=list(range(first, first + len(examples.code_names))),
            params={name: value for name, value in options.items() if name in _OF_TABLES},
        )

    def _frequent(self, bag: tuple[np.ndarray, np.ndarray, int]) -> np.ndarray:
        """int64: the codes of a bag that become columns, the most frequent ones, ascending."""
        counts = np.bincount(bag[1], minlength=bag[2])
        best = np.argsort(-counts, kind="stable")[: self.bag_columns]
        return np.sort(best[counts[best] > 0])

    # -- answering --------------------------------------------------------------------------------------------------

    def table(self, examples: Examples) -> np.ndarray:
        """float32[m, columns]: input of the trees: numbers, codes, one 0/1 column for each frequent code of a bag; as
        `FeatureBuilder.layout_of_trees`, each column contiguous."""
        parts = [examples.numbers, examples.codes]
        parts += [bag_flags(examples.bags[name], codes) for name, codes in self.bag_codes_.items()]
        columns = np.empty((sum(part.shape[1] for part in parts), len(examples)), dtype=np.float32)
        at = 0
        for part in parts:
            columns[at : at + part.shape[1]] = part.T
            at += part.shape[1]
        return columns.T

    def _names(self, examples: Examples) -> list[int]:
        """For each column of `table`, which feature of `contribution_names` it belongs to."""
        single = len(examples.number_names) + len(examples.code_names)
        of_bags = [[single + at] * len(codes) for at, codes in enumerate(self.bag_codes_.values())]
        return [*range(single), *(at for bag in of_bags for at in bag)]

    def _raw(self, examples: Examples, run: Run) -> np.ndarray:
        return self.forest_.score(self.table(examples), run).astype(np.float32)

    def _contributions(self, examples: Examples, run: Run) -> np.ndarray:
        """Shapley values of the trees (Lundberg et al., Consistent individualized feature attribution, 2018); those of
        a bag's columns summed. Their sum and the mean score make the raw score."""
        booster = vars(self).get("_booster")
        if booster is None:
            booster = self._booster = _lightgbm().Booster(model_str=self.text_)
        totals = np.zeros((len(examples), len(self.contribution_names(examples))), dtype=np.float32)
        if len(examples):
            shares = booster.predict(self.table(examples), pred_contrib=True, num_threads=run.n_threads)
            np.add.at(totals.T, self._names(examples), shares[:, :-1].T)
        return totals

    # -- on disk ----------------------------------------------------------------------------------------------------

    def _write_parts(self, folder: Path) -> None:
        (folder / "trees.txt").write_text(self.text_)

    def _read_parts(self, folder: Path) -> None:
        file = folder / "trees.txt"
        self.text_ = file.read_text()  # type: ignore[misc]
        try:
            self.forest_ = Forest.read(self.text_)  # type: ignore[misc]
        except DataError as error:
            raise DataError(error.message, file=file, remedy=error.remedy) from None


def _levels(target: np.ndarray, valid_target: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, list[float]]:
    """Grades as whole numbers, those of training and validation alike, and the gain of each: 2^grade - 2^lowest.

    More than MAX_LEVELS grades are cut into as many, by quantiles of the distinct ones.
    """
    grades = np.unique(target if valid_target is None else np.concatenate([target, valid_target]))
    if len(grades) > MAX_LEVELS:
        grades = grades[np.unique(np.linspace(0, len(grades) - 1, MAX_LEVELS).round().astype(np.int64))]
    powers = 2.0 ** np.clip(grades.astype(np.float64), -MAX_GRADE, MAX_GRADE)

    def place(values: np.ndarray) -> np.ndarray:
        return np.searchsorted(grades, values, side="right") - 1

    return place(target), None if valid_target is None else place(valid_target), (powers - powers[0]).tolist()


def _reports(run: Run, of: int, learning_rate: float) -> Any:
    """A LightGBM callback that reports each tree as an epoch."""
    started = time.perf_counter()

    def tell(state: Any) -> None:
        news: dict[str, float] = {}
        for part, metric, value, *_ in state.evaluation_result_list or ():
            if metric == "binary_logloss":
                news["loss" if part == "training" else "valid_loss"] = float(value)
            elif part != "training":
                news[metric] = float(value)
        seconds = time.perf_counter() - started
        run.report(
            model="Trees", epoch=state.iteration + 1, of=of, **news, learning_rate=learning_rate, seconds=seconds
        )

    return tell


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError:
        raise MissingExtraError("lightgbm", "rank", "Trees") from None
    lightgbm.register_logger(_quiet)
    return lightgbm


# LightGBM's warnings are of its own parameters, which are set here and not by the caller.
_quiet = logging.getLogger(f"{log.name}.lightgbm")
_quiet.setLevel(logging.ERROR)
