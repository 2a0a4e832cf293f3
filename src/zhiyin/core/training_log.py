"""What a training reported of each epoch, kept with the model as JSON: `model.training_log_`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

# Rows kept of one fit; of more, an even choice with the last among them.
MAX_ROWS = 2_000
# Keys of a row that are no curve: what it is a row of, and how the training ended.
NO_CURVES = frozenset({"model", "epoch", "of", "seconds", "events_per_second", "best_epoch", "stopped"})


@dataclasses.dataclass
class TrainingLog:
    """Collects the reports of `Run.report`: a callback that keeps them.

    Parameters
    ----------
    rows: one dict an epoch: "model", "epoch" from 1, "of" epochs at most, "seconds" of training so far, and where the
        model knows them "loss", "valid_loss", metrics by name such as "ndcg@10", "learning_rate", "events_per_second",
        "best_epoch" and, where training ended early, "stopped" with the reason. What is not finite is None.
    """

    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def __call__(self, news: Mapping[str, Any]) -> None:
        """Keep one report."""
        self.rows.append({name: plain(value) for name, value in news.items()})

    def end(self, **values: Any) -> None:
        """Add values to the last row, such as why training ended."""
        if self.rows:
            self.rows[-1] |= {name: plain(value) for name, value in values.items()}

    def kept(self) -> list[dict[str, Any]]:
        """The rows, MAX_ROWS at most."""
        n = len(self.rows)
        if n <= MAX_ROWS:
            return self.rows
        return [self.rows[round(place * (n - 1) / (MAX_ROWS - 1))] for place in range(MAX_ROWS)]


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers of Python, None for what is not finite, text for all else."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


def metric_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that rows have besides losses and the learning rate, in the order they first appear.

    >>> metric_names([{"model": "SASRec", "epoch": 1, "loss": 7.1, "valid_loss": 7.3, "ndcg@10": 0.04}])
    ['ndcg@10']
    """
    named = NO_CURVES | {"loss", "valid_loss", "learning_rate"}
    numbers = (name for row in rows for name, value in row.items() if name not in named and _is_number(value))
    return list(dict.fromkeys(numbers))


def how_it_ended(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How each training of a log ended, in a sentence each: why it stopped, and which epoch is the best.

    >>> row = {"model": "SASRec", "epoch": 20, "of": 50, "ndcg@10": 0.04, "best_epoch": 15}
    >>> how_it_ended([{**row, "epoch": 15, "ndcg@10": 0.05}, {**row, "stopped": "no better for 5 epochs"}])
    ['SASRec: stopped at epoch 20: no better for 5 epochs, best 15 (ndcg@10 0.05)']
    """
    sentences = []
    for name in dict.fromkeys(row["model"] for row in rows if "model" in row):
        own = [row for row in rows if row.get("model") == name]
        last, best = own[-1], own[-1].get("best_epoch")
        if last.get("stopped"):
            how = f"stopped at epoch {last['epoch']}: {last['stopped']}"
        elif last["epoch"] == 1 == last.get("of"):
            continue  # what is solved at once has no epochs to speak of
        else:
            how = f"all {last['epoch']} epochs" if last["epoch"] == last.get("of") else f"{last['epoch']} epochs"
        if best is not None:
            figures = next((figure_texts(row) for row in reversed(own) if row["epoch"] == best), [])
            how += f", best {best}" + (f" ({', '.join(figures)})" if figures else "")
        else:
            how += ", no validation part: the last one counts"
        sentences.append(f"{name}: {how}")
    return sentences


def figure_texts(row: Mapping[str, Any]) -> list[str]:
    """The metrics of an epoch as texts, such as "ndcg@10 0.0431"; without any, its validation loss."""
    names = metric_names([row]) or [name for name in ("valid_loss",) if row.get(name) is not None]
    return [f"{name.replace('_', ' ')} {row[name]:.4g}" for name in names]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
