"""What is asked of `Answers`, and what is answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.html_table import html_table
from zhiyin.core.limits import MAX_IDS, MAX_ITEMS
from zhiyin.core.params import whole_number
from zhiyin.data.histories import Histories
from zhiyin.data.ids import id_list
from zhiyin.pipeline.explanations import Reason
from zhiyin.pipeline.exploration import OneSlot, Policy
from zhiyin.pipeline.rules import Boost
from zhiyin.ranking.examples import ItemFeatures

DIVERSITY_METHODS = ("none", "mmr", "dpp", "calibrate")
# Ids that are left out in all, at most: by a request, by its placement, and as shown before on the same page.
MAX_EXCLUDED = 50_000

# Whose features, as the ranker read them, may be asked for.
FEATURES = ("none", "shown", "all")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked. Ids are raw.

    Parameters
    ----------
    user: whose history and columns count; None, or one never seen: a stranger.
    history: instead of what was seen in training: items, oldest first, or `Histories` of one row.
    k: items wanted, 1 to 1,000.
    filter, boosts: in addition to the rules of the house.
    include: where given, nothing else is shown. exclude: not shown. pins: item by slot, from 1.
    exclude_seen: leave out what is in the history; None: unless the rules say what happens to what was bought.
    diversity: "none", "mmr", "dpp" or "calibrate"; None: as the house has it. balance: variety (0) to score (1).
    user_columns, context: values that expressions may speak of, by column.
    now: microseconds UTC; None: the present.
    visit: number of the user's visit, for rotation. shown: how often each item was shown within the
        window of the frequency cap, by raw id.
    seen: items that count as seen besides the history: new ones that stand-ins stand for.
    explore: probability that one slot goes to an item that did not make the list, drawn with `seed`. policy: chooses
        among what keeps every rule, instead of evenly; see `exploration`.
    closed: nothing but what `include` names is shown, not even where it is pinned; `Answer.removed` says why an item of
        `include` is not in the list.
    deficits: what each group of `[rules] exposure` lacks, in lists; see `exposure.deficits`.
    budget: seconds after which stages are left out: reasons, then variety, then the ranker; None: none is.
    skip: stages to leave out as if there was no time for them.
    explain: say why, and what was removed.
    features: whose features, as the ranker read them, are wanted: "none", the items "shown", or "all" candidates.
    """

    user: Any = None
    history: Iterable[Any] | Histories | None = None
    k: int = 10
    filter: str = ""
    boosts: tuple[Boost, ...] = ()
    include: Iterable[Any] | None = None
    exclude: Iterable[Any] = ()
    pins: Mapping[int, Any] = dataclasses.field(default_factory=dict)
    exclude_seen: bool | None = None
    diversity: str | None = None
    balance: float | None = None
    user_columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    now: int | None = None
    visit: int | None = None
    shown: Mapping[Any, int] = dataclasses.field(default_factory=dict)
    seen: Iterable[Any] = ()
    explore: float = 0.0
    policy: Policy | None = None
    closed: bool = False
    deficits: Sequence[float] | np.ndarray | None = None
    seed: int = 0
    budget: float | None = None
    skip: tuple[str, ...] = ()
    explain: bool = False
    features: Literal["none", "shown", "all"] = "none"


@dataclasses.dataclass(frozen=True)
class Answer:
    """A list, and how it came about.

    Parameters
    ----------
    items: raw ids, best first. scores: float of each; comparable within the list.
    reasons: one an item, where asked for. removed: {"item", "rule"} of what would have been in the list.
    trace: what each rule did, item codes. seconds: of each stage. method: what ordered the candidates.
    left_out: sources that did not answer, and why. degraded: stages that the time budget left no time for.
    propensities: float64[k], the probability with which each item was to stand at its slot.
    exposed: float64[groups, 3], exposure of each group of `[rules] exposure` in the list, all exposure, and 1.
    sources: names of the sources. ranks: int32[k, sources], the place each source gave an item, from 0; -1: none.
    features: what the ranker read, where asked for and where a ranker ordered the candidates.
    """

    items: list[Any]
    scores: list[float]
    reasons: list[Reason] = dataclasses.field(default_factory=list)
    removed: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    trace: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    method: str = ""
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    degraded: list[str] = dataclasses.field(default_factory=list)
    propensities: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(0))
    exposed: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 3)))
    sources: tuple[str, ...] = ()
    ranks: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.int32))
    features: ItemFeatures | None = None

    def __len__(self) -> int:
        return len(self.items)

    def _repr_html_(self) -> str:
        """Rank, item and score, and the reason as a sentence where there are reasons, for notebooks."""
        header = ["rank", "item", "score"] + (["reason"] if self.reasons else [])
        sentences = [[reason.sentence()] for reason in self.reasons] or [[] for _ in self.items]
        rows = [
            (rank, item, f"{score:.4g}", *sentence)
            for rank, (item, score, sentence) in enumerate(zip(self.items, self.scores, sentences, strict=True), 1)
        ]
        return html_table(f"{len(self)} items, ordered by {self.method or 'several methods'}", header, rows)


def resolve_options(request: Request, variety: str, balance: float) -> tuple[int, str, float]:
    """Items wanted, variety and balance; those of the house, `variety` and `balance`, where the request has none.

    Raises ConfigError for what cannot be.
    """
    k = whole_number(request.k, "k", at_most=MAX_ITEMS)
    word = variety if request.diversity is None else check_diversity_method(request.diversity)
    balance = balance if request.balance is None else request.balance
    if not 0 <= balance <= 1:
        raise ConfigError(f"balance = {balance!r} is out of range", remedy="from 0 (variety) to 1 (score)")
    if not 0 <= request.explore <= 1:
        raise ConfigError(f"explore = {request.explore!r} is out of range", remedy="a probability, from 0 to 1")
    for slot in request.pins:
        if isinstance(slot, bool) or not isinstance(slot, int | np.integer) or not 1 <= slot <= MAX_ITEMS:
            raise ConfigError(
                f"pins = {{{slot!r}: ...}} names no slot", column="pins", remedy=f"slots are from 1 to {MAX_ITEMS:,}"
            )
    if request.budget is not None and not request.budget > 0:
        raise ConfigError(f"budget = {request.budget!r} is no time", remedy="seconds above 0, or None")
    if request.features not in FEATURES:
        raise ConfigError(f"features = {request.features!r} is not known", remedy=f"one of {', '.join(FEATURES)}")
    return k, word, float(balance)


def exploration_policy(request: Request) -> Policy | None:
    """What explores for a request; None: nothing does."""
    if request.policy is not None:
        return request.policy
    return OneSlot(request.explore) if request.explore > 0 else None


def check_diversity_method(variety: str) -> str:
    if variety not in DIVERSITY_METHODS:
        raise ConfigError(
            f"diversity = {variety!r} is not known", remedy=suggest(str(variety), list(DIVERSITY_METHODS))
        )
    return variety


def encode_known(ids: Any, raw: Iterable[Any], most: int = MAX_IDS) -> np.ndarray:
    """Codes of those that are known. Raises ConfigError for more than `most` ids."""
    listed = id_list(raw)
    if len(listed) > most:
        raise ConfigError(f"{len(listed):,} ids in one list of a request", remedy=f"at most {most:,}")
    codes = ids.encode(listed)
    return codes[codes >= 0]
