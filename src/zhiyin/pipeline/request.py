"""The request and the response of `Answers`, and the checks of a request's options."""

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
from zhiyin.pipeline.list_policy import ListDecision, ListPolicy
from zhiyin.pipeline.rules import Boost
from zhiyin.ranking.examples import ItemFeatures

DIVERSITY_METHODS = ("none", "mmr", "dpp", "calibrate")
# Ids that are left out in all, at most: by a request, by its placement, and as shown before on the same page.
MAX_EXCLUDED = 50_000

# Whose features, as the ranker read them, may be asked for.
FEATURES = ("none", "shown", "all")


@dataclasses.dataclass(frozen=True)
class Request:
    """The request for one list. Ids are raw.

    Parameters
    ----------
    user: the user whose history and columns are used; None or an unknown id: no history.
    history: replaces the history of the training data: items, oldest first, or `Histories` of one row.
    k: length of the list, 1 to 1,000.
    filter: a condition in addition to the rules of all lists.
    boosts: likewise.
    include: where given, no other item is listed.
    exclude: items that are not listed.
    pins: item by slot, from 1.
    exclude_seen: exclude the items of the history; None: yes, unless `[rules] bought` is set.
    diversity: "none", "mmr", "dpp" or "calibrate"; None: the setting of all lists.
    balance: weight of the score against diversity, from 0 (diversity alone) to 1 (score alone); None: likewise.
    user_columns: values of the user's columns for expressions, by column.
    context: values of the context columns, likewise.
    now: microseconds UTC; None: the present.
    visit: number of the user's visit, for rotation.
    shown: how often each item was shown within the window of the frequency cap, by raw id.
    seen: items that count as seen besides the history, such as new items, which the history holds by a similar one.
    explore: probability that one slot goes to an item that did not make the list, drawn with `seed`.
    policy: chooses the items of the list among those that the rules let stand in each slot; see `list_policy`. With it
        `explore` is not used.
    forced: a list that is given, items by slot: `Answer.propensities` then are the probabilities of its items, each
        given the slots before, and 0 where an item could not stand; `Answer.items` are these items.
    closed: only items of `include` are listed, pinned ones too; `Answer.removed` says why an item of `include` is not
        in the list.
    deficits: exposure deficit of each group of `[rules] exposure`, in lists; see `exposure.deficits`.
    budget: seconds; when they run short, stages are skipped: reasons, then diversity, then the ranker. None: no limit.
    skip: stages to skip.
    explain: compute reasons and removed items.
    features: items whose features, as the ranker read them, are returned: "none", the items "shown", or "all"
        candidates.
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
    policy: ListPolicy | None = None
    forced: Sequence[Any] | None = None
    closed: bool = False
    deficits: Sequence[float] | np.ndarray | None = None
    seed: int = 0
    budget: float | None = None
    skip: tuple[str, ...] = ()
    explain: bool = False
    features: Literal["none", "shown", "all"] = "none"


@dataclasses.dataclass(frozen=True)
class Answer:
    """The response to a request: the list, and how it was made.

    Parameters
    ----------
    items: raw ids, best first.
    scores: score of each item; comparable within the list.
    reasons: one for each item, if requested.
    removed: {"item", "rule"} of items that rules removed from the list.
    trace: what each rule did, with item codes.
    seconds: duration of each stage.
    method: what ordered the candidates: "ranker", "weighted", "rrf" or the name of a source.
    left_out: sources that did not answer, with the reason.
    degraded: stages that the time budget left no time for.
    propensities: float64[k], the probability of each item in its slot, given the slots before it.
    exposed: float64[groups, 3], exposure of each group of `[rules] exposure` in the list, total exposure, and 1.
    sources: names of the sources.
    ranks: int32[k, sources], the rank each source gave an item, from 0; -1: none.
    features: what the ranker read, if requested and if a ranker ordered the candidates.
    decision: what the policy of the request decided; None: there was none.
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
    decision: ListDecision | None = None

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
    """Length of the list, diversity method and balance of a request; `variety` and `balance` are the defaults.

    Raises ConfigError for a value that is out of range.
    """
    k = request.k
    if type(k) is not int or not 1 <= k <= MAX_ITEMS:
        k = whole_number(k, "k", at_most=MAX_ITEMS)
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


def list_policy(request: Request) -> ListPolicy | None:
    """The policy of a request; None: nothing is drawn. `explore` is the policy that explores one slot."""
    if request.policy is not None:
        return request.policy
    return ListPolicy.one_slot(request.explore) if request.explore > 0 else None


def check_diversity_method(variety: str) -> str:
    if variety not in DIVERSITY_METHODS:
        raise ConfigError(
            f"diversity = {variety!r} is not known", remedy=suggest(str(variety), list(DIVERSITY_METHODS))
        )
    return variety


def encode_known(ids: Any, raw: Iterable[Any], most: int = MAX_IDS) -> np.ndarray:
    """Codes of the ids that are known. Raises ConfigError for more than `most` ids."""
    listed = raw if type(raw) is list else id_list(raw)
    if len(listed) > most:
        raise ConfigError(f"{len(listed):,} ids in one list of a request", remedy=f"at most {most:,}")
    codes = ids.encode(listed)
    return codes[codes >= 0]
