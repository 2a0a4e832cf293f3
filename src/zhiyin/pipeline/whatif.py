"""What another configuration would have earned: logged lists with its probabilities of them, and the answer.

A list counts by how much more often the other configuration would have made it: with the product over slots of its
probabilities of the logged items, each given the items above, divided by those they were drawn with. Pure: it knows
nothing of the store or of how the probabilities are found (`service.whatif`).

Lists that were made without a draw (by the baseline as a control, in mode shadow, with a spent budget) say nothing of a
configuration that would have made other lists. Lists made for one such reason are used if it would have made every one
of them just so, and left out otherwise: a choice that does not depend on what was drawn.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zhiyin.core.errors import ConfigError
from zhiyin.core.html_table import html_table
from zhiyin.pipeline.decision_record import DecisionInfo
from zhiyin.policies.off_policy import (
    LoggedSlates,
    OffPolicyResult,
    Refusal,
    evaluate_slates,
)
from zhiyin.policies.off_policy.refusal import (
    MAX_MEAN_WEIGHT_ERRORS,
    MAX_UNLOGGED_MASS,
    MIN_EFFECTIVE_SIZE,
    WANTED_EFFECTIVE_SIZE,
    WANTED_POSITIVES,
    round_up,
)

# What lists that a policy has drawn are called among the reasons for which lists were made.
DRAWN = "drawn"
# Estimators in the order in which the verdict takes them: of lists, then of single decisions.
READ_FIRST = ("rips", "cascade_dr", "sips", "dr", "snips", "ips")
# The exploration that remedies propose, and the rounding that a probability of 1 may carry.
PROPOSED_SHARE, ROUNDING = 0.1, 1e-9


@dataclasses.dataclass(frozen=True)
class LoggedList:
    """A list of the log with the other configuration's probabilities of it; k slots.

    Parameters
    ----------
    rewards: float64[k], of each slot; a slot that was not shown has 0.
    propensities: float64[k], in (0, 1]: as logged, of each slot's item given those above; 1 where nothing was drawn.
    target_probabilities: float64[k], in [0, 1]: the other configuration's, given the same items above.
    made_for: DRAWN, or why the list was made without a draw, such as "control".
    user: whose list it is; None: a stranger's. Lists of one user count as one observation.
    predicted_chosen, predicted_target: float64[k], expected rewards by a model that has not seen the list: of the
        logged items, and under the other configuration's choice in the slot after the items above. None: no model.
    share: the probability with which the list was to differ from the greedy one, where that is known.
    n_choices: items that could be drawn in a slot, at most.
    unlogged: float64[k], the other configuration's probability, given the items above, of items that could not be drawn
        into the slot. None: unknown.
    squared_weights: float64[k], mean square of the slot's weight over what could be drawn into it; None: unknown.
    """

    rewards: np.ndarray
    propensities: np.ndarray
    target_probabilities: np.ndarray
    made_for: str = DRAWN
    user: str | None = None
    predicted_chosen: np.ndarray | None = None
    predicted_target: np.ndarray | None = None
    share: float | None = None
    n_choices: int = 1
    unlogged: np.ndarray | None = None
    squared_weights: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class SlotSupport:
    """How well the log supports the items that the other configuration has from the first slot to this one.

    Parameters
    ----------
    slot: from 1.
    mean_weight, mean_weight_error: of the products up to the slot, and the standard error. 1 where the log can show
        all that the configuration would.
    effective_size: lists of the configuration's own that the log is worth up to this slot.
    logged_reward: of the slot, per list.
    unlogged: the share of the configuration's lists that have, down to the slot, an item which could not be drawn
        there: what the mean weight lacks to 1. None: unknown.
    """

    slot: int
    mean_weight: float
    mean_weight_error: float
    effective_size: float
    logged_reward: float
    unlogged: float | None = None

    @property
    def expected_weight(self) -> float:
        """What the mean weight is but for chance."""
        return 1 - (self.unlogged or 0.0)

    @property
    def has_right_weight(self) -> bool:
        """Whether chance explains how far the mean weight is from what it must be."""
        deviation = abs(self.mean_weight - self.expected_weight)
        return deviation <= MAX_MEAN_WEIGHT_ERRORS * self.mean_weight_error + 1e-6

    @property
    def is_supported(self) -> bool:
        return not self.lack

    @property
    def lack(self) -> str:
        """What the slot lacks, in a word or two; "": nothing."""
        if self.mean_weight == 0:
            return "never shown"
        if (self.unlogged or 0.0) > MAX_UNLOGGED_MASS:
            return f"{self.unlogged:.1%} cannot be shown"
        if not self.has_right_weight:
            return "mean weight is not 1"
        return "" if self.effective_size >= MIN_EFFECTIVE_SIZE else "few lists"


@dataclasses.dataclass(frozen=True)
class WhatIfResult:
    """What a configuration would have earned per list; shows itself as a table in notebooks.

    Parameters
    ----------
    target: the configuration in words.
    placement: whose lists were read; "": those of a file.
    evaluation: estimates with intervals, and their differences to what the log earned; support; warnings.
    refusal: why the log cannot answer, and what to log; None where it can. There are no estimates then.
    slots: support by slot, of the lists that were used.
    used: lists by why they were made.
    left_out: lists that were not used, by the reason in words.
    first_time, last_time: of the lists that were used, microseconds UTC; 0: unknown.
    remarks: what a reader must know beside, a sentence each.
    unit: what the log has one row of: "list" or "decision".
    """

    target: str
    placement: str
    evaluation: OffPolicyResult | None
    refusal: Refusal | None
    slots: tuple[SlotSupport, ...] = ()
    used: Mapping[str, int] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    first_time: int = 0
    last_time: int = 0
    remarks: tuple[str, ...] = ()
    unit: str = "list"

    def __getitem__(self, estimator: str) -> Any:
        """The estimate by an estimator's name. Raises ConfigError where there is none."""
        if self.refusal is not None or self.evaluation is None:
            reasons = "" if self.refusal is None else "; ".join(self.refusal.reasons)
            raise ConfigError(f"the log cannot answer: {reasons}", remedy="read `refusal`")
        return self.evaluation[estimator]

    @property
    def n_lists(self) -> int:
        """Lists that were used."""
        return sum(self.used.values())

    @property
    def logged_value(self) -> float | None:
        """What the log's own configuration earned per list, of the lists that were used; None: there are none."""
        return None if self.evaluation is None else self.evaluation.support.mean_reward

    def to_dict(self) -> dict[str, Any]:
        """The result as what JSON can hold."""
        parts = {} if self.evaluation is None else self.evaluation.to_dict()
        return {
            "target": self.target,
            "placement": self.placement,
            "lists": self.n_lists,
            "logged_value": self.logged_value,
            "verdict": self.verdict(),
            "estimates": parts.get("estimates", []) if self.refusal is None else [],
            "refusal": None if self.refusal is None else dataclasses.asdict(self.refusal),
            "slots": [dataclasses.asdict(slot) | {"is_supported": slot.is_supported} for slot in self.slots],
            "support": parts.get("support"),
            "confidence": parts.get("confidence"),
            "warnings": [*parts.get("warnings", []), *self.remarks],
            "used": dict(self.used),
            "left_out": dict(self.left_out),
            "first_time": self.first_time or None,
            "last_time": self.last_time or None,
        }

    def rows(self) -> list[list[Any]]:
        """One row per estimate under `HEADER`: estimator, value, low, high, difference, low, high, method."""
        if self.refusal is not None or self.evaluation is None:
            return []
        return [
            [one.title, one.value, one.low, one.high, one.difference, one.difference_low, one.difference_high,
             one.interval]
            for one in self.evaluation.estimates
        ]  # fmt: skip

    def verdict(self) -> str:
        """In a sentence whether the configuration earns more, by the first of READ_FIRST that there is."""
        if self.refusal is not None or self.evaluation is None or not self.evaluation.estimates:
            return "The log cannot say."
        by_name = {one.estimator: one for one in self.evaluation.estimates}
        names = [name for name in READ_FIRST if name in by_name]
        best = by_name[names[0]] if names else self.evaluation.estimates[0]
        if best.difference_low == best.difference_high == 0:
            return f"It would have made the {self.unit}s of the log just so."
        logged = self.logged_value or 0.0
        relative = f" ({best.difference / logged:+.1%} of what the log earned)" if logged else ""
        ends = f"{best.difference_low:+.4g} to {best.difference_high:+.4g}"
        change = f"{best.difference:+.4g} a {self.unit}{relative}"
        if best.difference_low > 0:
            return f"It would have earned more: {change}, surely {ends} ({best.title})."
        if best.difference_high < 0:
            return f"It would have earned less: {change}, surely {ends} ({best.title})."
        return f"The log does not tell the two apart: {change}, between {ends} ({best.title})."

    def notes(self) -> list[str]:
        """What a reader must know beside the figures, a sentence each."""
        notes = []
        if self.evaluation is not None:
            support, units = self.evaluation.support, f"{self.unit}s"
            notes.append(
                f"{self.n_lists:,} {units} earned {self.logged_value:.6g} each; {support.n_positive:,} rewards count, "
                f"worth {support.effective_size:,.0f} {units} (or users) of the configuration's own, largest weight "
                f"{support.max_weight:,.1f}."
            )
            notes += self.evaluation.warnings
        notes += self.remarks
        notes += [f"Left out: {number:,} {self.unit}s, {reason}." for reason, number in self.left_out.items()]
        return notes

    def _caption(self) -> str:
        where = f" at {self.placement}" if self.placement else ""
        return f"What if: {self.target}{where}, reward per {self.unit}"

    def __str__(self) -> str:
        lines = [self._caption(), self.verdict()]
        if self.refusal is not None:
            lines.append(str(self.refusal))
        if self.rows():
            table = [HEADER, *([_text(cell) for cell in row] for row in self.rows())]
            lines += ["  ".join(cell.rjust(14) for cell in row) for row in table]
        return "\n".join([*lines, *self.notes()])

    def _repr_html_(self) -> str:
        notes = [self.verdict(), *self.notes()]
        if self.refusal is not None:
            notes = [*(f"Refused: {reason}" for reason in self.refusal.reasons),
                     *(f"What to log: {remedy}" for remedy in self.refusal.remedies), *notes]  # fmt: skip
        return html_table(self._caption(), HEADER, [[_text(cell) for cell in row] for row in self.rows()], notes)


def made_for(info: DecisionInfo) -> str:
    """DRAWN for a list that its policy has drawn, or else why it was made without a draw."""
    if info.control:
        return "control"
    if info.mode == "shadow":
        return "shadow"
    if info.mode != "fallback" and info.reason in ("", "no_snapshot", "frozen"):
        return DRAWN
    return info.reason or info.mode


# Without it a policy gives most items the probability 0.
_FLOOR = (
    "give the policy settings = { floor = 0.1 } and no limit of single slots (slot_shares, first_slot): then every "
    "item of its shortlist has a chance in every slot"
)
HEADER = ["estimator", "reward", "low", "high", "minus the log", "low", "high", "interval"]


def evaluate_lists(
    lists: Sequence[LoggedList],
    *,
    target: str = "the configuration",
    placement: str = "",
    left_out: Mapping[str, int] | None = None,
    times: tuple[int, int] = (0, 0),
    estimators: Sequence[str] | None = None,
    confidence: float = 0.95,
    interval: str = "clopper_pearson",
    reward_range: tuple[float, float] | None = None,
) -> WhatIfResult:
    """Estimate what the other configuration would have earned per list, or refuse and say why.

    Parameters
    ----------
    lists: lists of any lengths.
    left_out: lists that could not be used, by the reason in words.
    times: of the first and the last list.
    estimators: names in SLATE_ESTIMATORS; None: all that the lists can give.
    confidence, interval: see `evaluate_off_policy`.
    reward_range: (lowest, highest) possible reward of a slot; None: 0 to 1, widened to what the log holds.

    Raises ConfigError for unknown names, and DataError for propensities or probabilities that are none.
    """
    chosen, omitted = _usable(lists)
    left_out = dict(Counter(left_out or {}) + omitted)
    used = dict(Counter(one.made_for for one in chosen))
    if not chosen:
        return WhatIfResult(target, placement, None, _nothing_usable(lists, left_out), (), used, left_out)
    slates = slates_of(chosen)
    warnings = []
    low, high = reward_range or (0.0, 1.0)
    if reward_range is None:
        low, high = min(low, float(slates.rewards.min())), max(high, float(slates.rewards.max()))
        if (low, high) != (0.0, 1.0):
            warnings.append(
                f"Rewards of a slot are taken to range from {low:g} to {high:g}, as in the log; intervals hold if no "
                "other is possible: give reward_range."
            )
    result = evaluate_slates(slates, estimators, confidence=confidence, interval=interval, reward_range=(low, high))
    result = dataclasses.replace(result, warnings=(*result.warnings, *warnings))
    slots = slot_support(slates)
    is_refused = result.refusal is not None or not all(slot.has_right_weight for slot in slots)
    refusal = _in_words(result, slots, chosen) if is_refused else None
    return WhatIfResult(target, placement, result, refusal, slots, used, left_out, *times)


def slates_of(lists: Sequence[LoggedList]) -> LoggedSlates:
    """The lists as one table; shorter ones are filled up with reward 0 and probability 1."""
    n_slots = max(1, max(len(one.rewards) for one in lists))

    def column(values: Sequence[np.ndarray], fill: float) -> np.ndarray:
        table = np.full((len(values), n_slots), fill)
        for row, part in enumerate(values):
            table[row, : len(part)] = part
        return table

    more: dict[str, np.ndarray] = {}
    if all(one.predicted_chosen is not None and one.predicted_target is not None for one in lists):
        more = {
            "predicted_chosen": column([np.asarray(one.predicted_chosen) for one in lists], 0.0),
            "predicted_target": column([np.asarray(one.predicted_target) for one in lists], 0.0),
        }
    if all(one.unlogged is not None and one.squared_weights is not None for one in lists):
        more |= {
            "unlogged_target_mass": column([np.asarray(one.unlogged) for one in lists], 0.0),
            "mean_squared_weights": column([np.asarray(one.squared_weights) for one in lists], 1.0),
        }
    propensities = column([one.propensities for one in lists], 1.0)
    targets = column([one.target_probabilities for one in lists], 1.0)
    if n_slots == 1:  # a list of one item has no items above: its probability is that of the item at its position
        more |= {"position_propensities": propensities, "position_target_probabilities": targets}
    return LoggedSlates(
        column([one.rewards for one in lists], 0.0), propensities, targets, groups=_user_codes(lists), **more
    )


def slot_support(slates: LoggedSlates) -> tuple[SlotSupport, ...]:
    """Support of each slot: of the products of weights up to it."""
    weights, groups = slates.prefix_weights, slates.groups
    n = len(weights)
    if groups is not None:
        sums = np.zeros((int(groups.max()) + 1, weights.shape[1]))
        np.add.at(sums, groups, weights)
        sizes = np.bincount(groups)
        sums, sizes = sums[sizes > 0], sizes[sizes > 0]
    else:
        sums, sizes = weights, np.ones(n, dtype=np.int64)
    means, squares = weights.sum(axis=0) / n, (sums**2).sum(axis=0)
    residuals = sums - means * sizes[:, None]
    correction = len(sums) / max(len(sums) - 1, 1)
    errors = np.sqrt((residuals**2).sum(axis=0) * correction) / n
    effective = np.divide(weights.sum(axis=0) ** 2, squares, out=np.zeros_like(means), where=squares > 0)
    rewards, mass = slates.rewards.mean(axis=0), slates.prefix_unlogged_mass
    unlogged = None if mass is None else mass.mean(axis=0)
    if unlogged is not None and slates.weight_variances is not None:
        # Draws too rare to be among the lists count: their weights are known from the pmfs.
        variances, logged = np.add.accumulate(slates.weight_variances.sum(axis=0)), np.maximum(1 - unlogged, 0)
        errors = np.maximum(errors, np.sqrt(variances) / n)
        expected_size = n * logged**2
        effective = np.minimum(
            effective,
            n * np.divide(expected_size, expected_size + variances, out=np.zeros_like(means), where=expected_size > 0),
        )
    return tuple(
        SlotSupport(
            slot + 1,
            float(means[slot]),
            float(errors[slot]),
            float(effective[slot]),
            float(rewards[slot]),
            None if unlogged is None else float(unlogged[slot]),
        )
        for slot in range(weights.shape[1])
    )


def _user_codes(lists: Sequence[LoggedList]) -> np.ndarray | None:
    """int64: a code a user, one for each list of a stranger; None where no user has two lists."""
    codes: dict[object, int] = {}
    groups = [
        codes.setdefault(number if one.user is None else (one.user,), len(codes)) for number, one in enumerate(lists)
    ]
    return None if len(codes) == len(lists) else np.array(groups, dtype=np.int64)


def _usable(lists: Sequence[LoggedList]) -> tuple[list[LoggedList], Counter[str]]:
    """The lists that were drawn, and those made for a reason whose every list the configuration would make just so."""
    unsupported: Counter[str] = Counter()
    numbers = Counter(one.made_for for one in lists)
    for one in lists:
        if one.made_for != DRAWN and one.target_probabilities.min(initial=1.0) < 1 - ROUNDING:
            unsupported[one.made_for] += 1
    omitted: Counter[str] = Counter()
    for reason, n_other in unsupported.items():
        words = f"made without a draw ({reason}), {n_other:,} of them not as this configuration would"
        omitted[words] = numbers[reason]
    return [one for one in lists if one.made_for not in unsupported], omitted


def _nothing_usable(lists: Sequence[LoggedList], left_out: Mapping[str, int]) -> Refusal:
    """Why there is not one list to learn from."""
    if lists:
        reason = "the log never explores: every list was made without a draw, and this configuration would make others"
        return Refusal((reason,), (_explore(lists),))
    reasons = tuple(f"{number:,} lists are left out: {words}" for words, number in left_out.items())
    remedy = (
        "serve lists of a placement with [placements.NAME.policy], let their reward windows end (zhiyin serve closes "
        "them), and ask again"
    )
    return Refusal(reasons or ("the log has no decided lists of this placement and time",), (remedy,))


def _in_words(result: OffPolicyResult, slots: Sequence[SlotSupport], lists: Sequence[LoggedList]) -> Refusal:
    """The refusal of an evaluation, with the first slot where the log lacks what the configuration would show."""
    reasons = [] if result.refusal is None else list(result.refusal.reasons)
    lacking = next((slot for slot in slots if not slot.is_supported), None)
    if lacking is not None:
        if lacking.mean_weight == 0:
            words = f"the log never shows down to slot {lacking.slot} what this configuration would"
        elif (lacking.unlogged or 0.0) > MAX_UNLOGGED_MASS:
            words = (
                f"{lacking.unlogged:.1%} of the lists of this configuration would have down to slot {lacking.slot} an "
                f"item that the log had no chance to show there; {MAX_UNLOGGED_MASS:.0%} is the most"
            )
        elif not lacking.has_right_weight:
            words = (
                f"the mean weight down to slot {lacking.slot} is {lacking.mean_weight:.3f} ± "
                f"{lacking.mean_weight_error:.3f} and must be {lacking.expected_weight:.4g}: the log's probabilities "
                "are not those that were drawn by, or it cannot show all that this configuration would"
            )
        else:
            words = (
                f"down to slot {lacking.slot} the log shows what this configuration would in lists worth "
                f"{lacking.effective_size:,.1f} of its own; {MIN_EFFECTIVE_SIZE:,.0f} are the least"
            )
        reasons.insert(0, words)
    thinnest = min(slots, key=lambda slot: slot.effective_size) if lacking is not None else None
    remedies = [_explore(lists, thinnest), _let_it_decide(result)]
    if any((slot.unlogged or 0.0) > MAX_UNLOGGED_MASS for slot in slots):
        remedies.insert(0, _FLOOR)
    return Refusal(tuple(reasons), tuple(remedies))


def _explore(lists: Sequence[LoggedList], thinnest: SlotSupport | None = None) -> str:
    """What exploration, for about how many lists, gives the log what it lacks. thinnest: the slot that lacks most."""
    shares = [one.share for one in lists if one.share is not None and one.made_for == DRAWN]
    share = float(np.mean(shares)) if shares else 0.0
    proposed = max(PROPOSED_SHARE, share)
    if thinnest is not None and thinnest.effective_size >= 0.1 and share > 0:
        # What the log is worth grows with its lists, and with its exploration.
        n_lists = len(lists) * WANTED_EFFECTIVE_SIZE / thinnest.effective_size * share / proposed
    else:
        n_choices = max((one.n_choices for one in lists), default=1)
        n_slots = 1 if thinnest is None else thinnest.slot
        n_lists = WANTED_EFFECTIVE_SIZE * max(n_choices, 2) * n_slots / proposed
    return (
        f"run the placement's policy with exploration = {{ share = {proposed:.2g} }} for about {round_up(n_lists):,} "
        "lists, in mode online or guarded, over items that this configuration may list"
    )


def _let_it_decide(result: OffPolicyResult) -> str:
    """How many lists an experiment with this configuration takes."""
    support = result.support
    rate = support.n_positive / support.n_rows if support.n_rows else 0.0
    n_lists = WANTED_EFFECTIVE_SIZE / PROPOSED_SHARE
    if rate > 0:
        n_lists = max(n_lists, WANTED_POSITIVES / rate / PROPOSED_SHARE)
    return (
        f"or let this configuration decide {PROPOSED_SHARE:.0%} of the lists in an experiment of about "
        f"{round_up(n_lists):,} lists, which needs no weights"
    )


def _text(cell: Any) -> str:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else f"{cell:.5g}"
    return str(cell)
