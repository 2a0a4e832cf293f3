"""Vowpal Wabbit's decision logs (dsjson): one JSON object a line, as Azure Personalizer and the rl-client wrote them.

Contextual bandits have `_label_cost`, `_label_probability`, `_label_Action`, `a` and `p`; lists (CCB and slates) have
`_outcomes`. A reward is minus the cost. Lines that log no decision (observations, checkpoints), and decisions that were
deferred and never activated (`_skipLearn`), are left out and counted.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.policies.off_policy.logged_decisions import FloatArray, LoggedDecisions
from zhiyin.policies.off_policy.logged_slates import LoggedSlates

_OUTCOME = pl.Struct({"_label_cost": pl.Float64, "_a": pl.List(pl.Int64), "_p": pl.List(pl.Float64)})
_SCHEMA: dict[str, Any] = {
    "_label_cost": pl.Float64, "_label_probability": pl.Float64, "_label_Action": pl.Int64, "_labelIndex": pl.Int64,
    "a": pl.List(pl.Int64), "p": pl.List(pl.Float64), "pdrop": pl.Float64, "_skipLearn": pl.Boolean,
    "EventId": pl.String, "_outcomes": pl.List(_OUTCOME),
}  # fmt: skip
# How far the probability of the chosen action and its entry in `p` may differ: they are printed with few digits.
_PRINTED = 1e-3
_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class DsjsonBatch:
    """Decisions of one block of a log.

    Parameters
    ----------
    rewards, propensities, pass_probabilities: float64[n]; the last are 1 - pdrop.
    chosen: int64[n], position of the chosen action among the actions of its request, from 0.
    offsets: int64[n + 1]; the actions of request i are offsets[i] to offsets[i + 1] of `actions` and `probabilities`.
    actions: int64[m], positions of actions in their request, from 0, in the logged order.
    probabilities: float64[m], the logging policy's probabilities of them.
    event_ids: n texts, None where a line has none.
    lines: int64[n], line of the file, from 1.
    """

    rewards: FloatArray
    propensities: FloatArray
    pass_probabilities: FloatArray
    chosen: np.ndarray
    offsets: np.ndarray
    actions: np.ndarray
    probabilities: FloatArray
    event_ids: Sequence[str | None]
    lines: np.ndarray

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def n_actions(self) -> np.ndarray:
        """int64[n]: number of actions of each request."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class DsjsonSlots:
    """Slots of the lists of one block of a log, one after the other.

    Parameters
    ----------
    n_actions: int64[m], actions that the slot could get, given the slots before it.
    share_of_best: float64[m], 1 where the slot's action is the one that the log draws there most often, a part of it
        where several are, and 0 otherwise.
    """

    n_actions: np.ndarray
    share_of_best: FloatArray


Target = Callable[[DsjsonBatch], FloatArray]
SlotTarget = Callable[[DsjsonSlots], FloatArray]


def uniform_target(batch: DsjsonBatch) -> FloatArray:
    """The policy that chooses all actions equally often: probabilities of the chosen ones, float64[n]."""
    return 1.0 / batch.n_actions


def first_action_target(batch: DsjsonBatch) -> FloatArray:
    """The policy that always takes the first action of the request, Personalizer's baseline: float64[n]."""
    return (batch.chosen == 0).astype(np.float64)


@dataclass
class DsjsonLog:
    """A dsjson log on disk, plain or gzip; it is read in blocks, whose size bounds the memory.

    Parameters
    ----------
    path: the file.
    block_bytes: bytes of text that are parsed at a time.
    n_skipped, n_not_learned: lines of the last reading that log no decision; decisions never activated.
    """

    path: Path
    block_bytes: int = _BLOCK_BYTES
    n_skipped: int = field(default=0, init=False)
    n_not_learned: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        if not self.path.is_file():
            raise DataError("there is no such file", file=self.path, remedy="give the path of a dsjson log")

    def batches(self) -> Iterator[DsjsonBatch]:
        """The decisions of contextual bandits, block by block. Raises DataError naming file and line."""
        for frame in self._frames():
            decisions = frame.filter(pl.col("_label_cost").is_not_null() & pl.col("_outcomes").is_null())
            self.n_skipped += frame.height - decisions.height
            activated = self._activated(decisions)
            if activated.height:
                yield self._batch(activated)

    def decisions(self, target: Target) -> DsjsonDecisions:
        """The log for `evaluate_off_policy`. target: gives the target policy's probability of each chosen action."""
        return DsjsonDecisions(self, target)

    def slates(self, target: SlotTarget | None = None) -> LoggedSlates:
        """The lists of a CCB or slates log. Those shorter than the longest are filled up with reward 0 and probability
        1.

        target: gives the target policy's probabilities of the slots' actions, given the logged ones before; None: the
            logging policy is its own target.
        """
        rewards, propensities, targets = [], [], []
        for frame in self._frames():
            lists = frame.filter(pl.col("_outcomes").list.len() > 0)
            self.n_skipped += frame.height - lists.height
            activated = self._activated(lists)
            if activated.height:
                reward, propensity, probability = self._slots(activated, target)
                rewards.append(reward)
                propensities.append(propensity)
                targets.append(probability)
        if not rewards:
            raise DataError("no line has _outcomes", file=self.path, remedy="read contextual bandits by batches()")
        width = max(part.shape[1] for part in rewards)
        reward = np.concatenate([_widened(part, width, 0.0) for part in rewards])
        propensity = np.concatenate([_widened(part, width, 1.0) for part in propensities])
        probability = np.concatenate([_widened(part, width, 1.0) for part in targets])
        return LoggedSlates(reward, propensity, probability)

    # -- blocks -------------------------------------------------------------------------------------------------------

    def _frames(self) -> Iterator[pl.DataFrame]:
        """The parsed lines of each block, with their number in the file."""
        self.n_skipped = self.n_not_learned = 0
        line = 1
        with _opened(self.path) as file:
            while block := file.read(self.block_bytes):
                block += file.readline()
                yield self._parsed(block, line)
                line += block.count(b"\n")

    def _activated(self, decisions: pl.DataFrame) -> pl.DataFrame:
        """Decisions without those that were deferred and never activated, which are counted."""
        activated = decisions.filter(~pl.col("_skipLearn").fill_null(False))
        self.n_not_learned += decisions.height - activated.height
        return activated

    def _parsed(self, block: bytes, first_line: int) -> pl.DataFrame:
        numbers = _line_numbers(block, first_line)
        if not len(numbers):
            return pl.DataFrame(schema={**_SCHEMA, "line": pl.Int64})
        try:
            frame = pl.read_ndjson(io.BytesIO(block), schema=_SCHEMA)
        except pl.exceptions.PolarsError as error:
            self._raise_unreadable(block, first_line, str(error))
        if frame.height != len(numbers):
            self._raise_unreadable(block, first_line, f"{len(numbers)} lines gave {frame.height} objects")
        return frame.with_columns(pl.Series("line", numbers))

    def _raise_unreadable(self, block: bytes, first_line: int, reason: str) -> NoReturn:
        for line, text in enumerate(block.split(b"\n"), first_line):
            if not text.strip():
                continue
            try:
                value = json.loads(text)
                if not isinstance(value, dict):
                    raise ValueError("it is no object")
                pl.read_ndjson(io.BytesIO(text), schema=_SCHEMA)
            except (ValueError, pl.exceptions.PolarsError) as error:
                raise DataError(
                    f"the line cannot be read: {error}", file=self.path, row=line, remedy="give one JSON object a line"
                ) from None
        raise DataError(f"the log cannot be read: {reason}", file=self.path, remedy="give one JSON object a line")

    # -- contextual bandits -------------------------------------------------------------------------------------------

    def _batch(self, frame: pl.DataFrame) -> DsjsonBatch:
        propensity = pl.col("_label_probability")
        self._check(frame, "_label_cost", pl.col("_label_cost").is_finite(), "costs are numbers")
        self._check(frame, "_label_probability", (propensity > 0) & (propensity <= 1),
                    "log the probability that the action was drawn with, above 0 and at most 1")  # fmt: skip
        self._check(frame, "a", pl.col("a").list.len() > 0, "log the actions of the request, numbered from 1")
        same_length = pl.col("p").list.len() == pl.col("a").list.len()
        self._check(frame, "p", same_length, "log one probability for each action of a")
        frame = frame.with_columns(
            pl.coalesce(pl.col("_label_Action"), pl.col("_labelIndex") + 1, pl.col("a").list.first()).alias("action")
        )
        self._check(
            frame, "_label_Action", pl.col("a").list.contains(pl.col("action")), "the chosen action is one of a"
        )
        dropped = pl.col("pdrop").fill_null(0.0)
        self._check(frame.with_columns(dropped), "pdrop", (dropped >= 0) & (dropped < 1), "pdrop is below 1")

        lengths = frame["a"].list.len().to_numpy().astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        actions = frame["a"].explode().to_numpy().astype(np.int64) - 1
        probabilities = frame["p"].explode().to_numpy().astype(np.float64)
        chosen, propensities = frame["action"].to_numpy().astype(np.int64) - 1, frame["_label_probability"].to_numpy()
        of_chosen = probabilities[actions == np.repeat(chosen, lengths)]
        if len(of_chosen) != len(chosen):
            repeated = np.add.reduceat((actions == np.repeat(chosen, lengths)).astype(int), offsets[:-1]) != 1
            self._raise(frame, int(np.argmax(repeated)), "a", "the chosen action stands in a more than once",
                        "log each action once")  # fmt: skip
        wrong = np.abs(of_chosen - propensities) > _PRINTED
        if wrong.any():
            row = int(np.argmax(wrong))
            message = (
                f"the chosen action has probability {of_chosen[row]:g} in p and {propensities[row]:g} in the label"
            )
            self._raise(frame, row, "_label_probability", message, "log the probability that was drawn from")
        return DsjsonBatch(
            -frame["_label_cost"].to_numpy(), propensities, 1.0 - frame["pdrop"].fill_null(0.0).to_numpy(), chosen,
            offsets, actions, probabilities, frame["EventId"].to_list(), frame["line"].to_numpy(),
        )  # fmt: skip

    def _check(self, frame: pl.DataFrame, column: str, condition: pl.Expr, remedy: str) -> None:
        good = frame.select(condition.fill_null(False).alias("good"))["good"]
        if not good.all():
            row = int(good.arg_min() or 0)
            value = frame[column][row]
            shown = "nothing" if value is None else value.to_list() if isinstance(value, pl.Series) else value
            self._raise(frame, row, column, f"the value cannot be: {shown}", remedy)

    def _raise(self, frame: pl.DataFrame, row: int, column: str, message: str, remedy: str) -> NoReturn:
        raise DataError(message, file=self.path, row=int(frame["line"][row]), column=column, remedy=remedy)

    # -- lists --------------------------------------------------------------------------------------------------------

    def _slots(self, frame: pl.DataFrame, target: SlotTarget | None) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Rewards, propensities and target probabilities float64[n, n_slots] of lists; a cost of the whole list goes to
        its last slot."""
        frame = frame.with_row_index("row")
        slots = frame.select("row", "line", "_outcomes", pl.col("_label_cost").alias("whole_cost")).explode("_outcomes")
        slots = slots.unnest("_outcomes").with_columns(
            pl.int_range(pl.len()).over("row").alias("slot"), pl.col("_p").list.first().alias("propensity")
        )
        is_last = pl.col("slot") == pl.len().over("row") - 1
        cost = pl.coalesce(pl.col("_label_cost"), pl.when(is_last).then(pl.col("whole_cost")).otherwise(0.0))
        slots = slots.with_columns(cost.alias("cost"))
        self._check(slots, "cost", pl.col("cost").is_finite(), "every slot, or the list, has a _label_cost")
        self._check(slots, "_p", (pl.col("propensity") > 0) & (pl.col("propensity") <= 1),
                    "the first of _p is the probability that the slot's action was drawn with")  # fmt: skip
        row, slot = slots["row"].to_numpy().astype(np.int64), slots["slot"].to_numpy().astype(np.int64)
        rewards = np.zeros((frame.height, int(slot.max()) + 1))
        propensities = np.ones_like(rewards)
        rewards[row, slot] = -slots["cost"].to_numpy()
        propensities[row, slot] = slots["propensity"].to_numpy()
        if target is None:
            return rewards, propensities, propensities
        best = pl.col("_p").list.max()
        n_best = pl.col("_p").list.eval(pl.element() == pl.element().max()).list.sum()
        share = pl.when(pl.col("propensity") == best).then(1.0 / n_best).otherwise(0.0)
        columns = slots.select(pl.col("_p").list.len().cast(pl.Int64).alias("n"), share.alias("share"))
        probabilities = np.ones_like(rewards)
        probabilities[row, slot] = target(DsjsonSlots(columns["n"].to_numpy(), columns["share"].to_numpy()))
        return rewards, propensities, probabilities


@dataclass(frozen=True)
class DsjsonDecisions:
    """The batches of a log as decisions; can be iterated again, as `evaluate_off_policy` does."""

    log: DsjsonLog
    target: Target

    def __iter__(self) -> Iterator[LoggedDecisions]:
        for batch in self.log.batches():
            yield LoggedDecisions(
                batch.rewards, batch.propensities, self.target(batch), pass_probabilities=batch.pass_probabilities
            )


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path, "rb")) if is_gzip else path.open("rb")


def _line_numbers(block: bytes, first_line: int) -> np.ndarray:
    """int64: number in the file of every line that is not blank."""
    lines = block.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    return np.array([line for line, text in enumerate(lines, first_line) if text.strip()], dtype=np.int64)


def _widened(values: FloatArray, width: int, fill: float) -> FloatArray:
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=fill)
