"""Recorded answers of 10,000 random requests, of every kind: what a list was when they were recorded.

    PYTHONPATH=src python -m tests.pipeline.golden_lists                    # compare all with what is recorded
    PYTHONPATH=src python -m tests.pipeline.golden_lists --show 123         # request 123 and its whole answer
    PYTHONPATH=src python -m tests.pipeline.golden_lists --record           # record anew
    PYTHONPATH=src python -m tests.pipeline.golden_lists --models --record  # fit the models of the shops anew, too

`--show` with the sources of two checkouts in PYTHONPATH tells what changed. A new recording says that lists changed on
purpose: the message of its commit must explain why, and which of them.

A request is computed from its number. Those were chosen whose answers stayed the same when every score was
changed by up to a millionth (equal ones alike): what decides them is no rounding error. Of an answer the items and
their scores are stored, and of each other part a hash of what is no fraction, and a weighted sum of the fractions.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import io
import json
import pprint
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

import zhiyin as zy
from tests.pipeline import golden_shops
from tests.pipeline.golden_shops import DAY, NOW, SHOPS, Draw, Shop
from zhiyin.core.errors import ZhiyinError
from zhiyin.data.histories import Histories
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.item_statistics import ItemStatistics
from zhiyin.pipeline.list_features import ListFeatures
from zhiyin.pipeline.list_policy import ExplorationLimits, ListPolicy
from zhiyin.pipeline.request import Answer, Request
from zhiyin.pipeline.rules import Boost, Rules
from zhiyin.policies.action_sets import Outcomes, action_keys
from zhiyin.policies.policy import Policy
from zhiyin.policies.registry import make
from zhiyin.ranking.examples import ItemFeatures

FILE = golden_shops.FOLDER / "lists.npz"
ONE = zy.Run(threads=1)
# Parts of an answer besides its items and scores.
PARTS = ("method", "trace", "removed", "reasons", "ranks", "propensities", "features", "decision")
# Difference of the sum of fractions of a decision, relative to the sum of their sizes, where that of a shop is less:
# features of policies hold products of vectors, which libraries of linear algebra round differently.
DECISION_TOLERANCE = 1e-5

# -- the rules of all lists -------------------------------------------------------------------------------------------


def rules_of(shop: Shop, number: int) -> dict[str, Any]:
    def item(n: int) -> Any:
        return golden_shops.raw_id(shop, "i", n % shop.n_items)

    caps = [{"per": "seller", "at_most": 1, "strict": True}, {"per": "genres", "at_most": 3, "first": 6}]
    shares = [{"of": "is_new", "at_least": 0.3}, {"of": "category = 'c3'", "at_least": 0.1}]
    boosts = [{"when": "price < user.age", "multiply": "1.3"}, {"add": "0.1 * margin"}]
    exposure = [{"of": "category = 'c2'", "target": 0.3}, {"of": "is_new", "target": 0.2, "gain": 0.5}]
    dates = {"stock": "stock", "valid_from": "begins", "valid_to": "ends"}
    bought = {"bought": {"purchase": "never", "view": "30d"}} if shop.kinds else {}
    tables: list[dict[str, Any]] = [
        {},
        {"filter": "price < 60"},
        dates,
        {"dedupe": "variant", "caps": [{"per": "category", "at_most": 2}]},
        {"caps": caps},
        {"shares": shares[:1], "boosts": [{"when": "category = 'c1'", "multiply": "1.5"}]},
        {"boosts": boosts, "pins": {2: item(5), 4: item(77)}},
        {**bought, "rotation": {"strength": 0.5, "keep": 1, "every": "1d"}},
        {"frequency": {"at_most": 2, "window": "7d"}, "exposure": exposure[:1]},
        {"dedupe": "variant", "shares": shares, "caps": [{"per": "category", "at_most": 3, "first": 8}]},
        {"exclude": [item(n) for n in range(0, 60, 3)], "filter": "is_new IS NULL OR NOT is_new", "pins": {1: item(8)}},
        {"include": [item(3 * n) for n in range(50)], "caps": [{"per": "genres", "at_most": 2}]},
        {"filter": "margin > 0.1", **dates, "dedupe": "variant", "caps": [{"per": "category", "at_most": 3}],
         "shares": shares[:1], "boosts": boosts[1:], "exposure": exposure, "frequency": {"at_most": 3, "window": "1d"},
         "rotation": {"strength": 0.2, "keep": 2}, "pins": {3: item(4)}, **bought},
        {"rotation": {"strength": 1.5, "keep": 0}, "boosts": [{"when": "stock > 2", "add": "0.2"}]},
    ]  # fmt: skip
    return tables[number % len(tables)]


N_RULES = 14


@functools.cache
def answers_of(name: str, rules: int, choices: str, variety: str, by: str, changed: bool) -> Answers:
    shop, frame = SHOPS[name], golden_shops.catalogue(SHOPS[name])
    answers = Answers(
        golden_shops.fitted(name, choices), frame[: shop.n_items], golden_shops.people(shop),
        rules=Rules.from_dict(rules_of(shop, rules)), kinds=("cart", "purchase", "view") if shop.kinds else (),
        variety=variety, by=by, context={"device": str, "hour": float},
        new=frame[shop.n_items :].with_columns(pl.col("id").cast(pl.String)) if shop.new else None, run=ONE,
    )  # fmt: skip
    if changed:
        other = golden_shops.catalogue(shop, changed=True).with_columns(answers.ids.values.alias("id"))
        answers = answers.with_catalogue(other)
    return answers


# -- requests ---------------------------------------------------------------------------------------------------------

FILTERS = (
    "price < 30", "price < 3", "category = 'c1'", "category IN ('c1', 'c2', 'c5') AND NOT stock = 0",
    "seller IS NOT NULL AND price BETWEEN 10 AND 70", "genres IN ('g1', 'g4')", "NOT 'g2' IN genres",
    "price < user.age", "user.country = 'de' OR category <> 'c4'", "context.device <> 'tv' OR price < 20",
    "released < NOW() - INTERVAL '20' DAY", "begins IS NULL OR begins <= NOW()", "seller LIKE 's1%'",
    "COALESCE(margin, 0) * price > 10", "CASE WHEN price > 50 THEN is_new ELSE TRUE END",
    "price % 10 < context.hour", "user.age IS NULL OR price > 20", "variant > 'v5' AND is_new",
)  # fmt: skip
BOOSTS = (
    Boost("is_new", "1.5"), Boost("price < 20", add="0.05"), Boost("", "1 + 0.1 * margin"), Boost("stock > 3", "0.5"),
    Boost("price < user.age", "2"), Boost("context.device = 'tv' AND category = 'c2'", add="0.3"),
    Boost("category = 'c6'", "1.2", "-0.01"), Boost("released > NOW() - INTERVAL '30' DAY", "1.4"),
)  # fmt: skip
# Shops of requests, by how many there are of each.
MIX = (*("books",) * 6, *("films",) * 4, *("songs",) * 4, *("games",) * 3, "als", "als", "ease", "clips")
# Sizes of batches; the largest are computed in two parts.
BATCHES = (1, 2, 5, 5, 9, 12, 12, 12, 15, 15, 20, 530)
POLICIES = ("BetaBernoulli", "LinTS", "SquareCB", "Softmax", "LinUCB", "EpsilonGreedy")


def user_of(draw: Draw, shop: Shop) -> Any:
    if draw.chance(0.08):
        return None
    return golden_shops.raw_id(shop, "u", draw.integer(shop.n_users)) if draw.chance(0.92) else "nobody"


def items_of(draw: Draw, answers: Answers, n: int) -> list[Any]:
    """n raw ids, new items and a few unknown ones among them."""
    values = answers.ids.values
    found = [values[draw.integer(len(values))] for _ in range(n)]
    return [("unknown" if isinstance(item, str) else 999_999) if draw.chance(0.03) else item for item in found]


def history_of(draw: Draw, shop: Shop, n: int) -> Histories:
    """One history with all that events have."""
    times = sorted(NOW - int(draw.real() * 40 * DAY) for _ in range(n)) if shop.times else [0] * n
    return Histories.of(
        np.array([0, n]),
        np.array([draw.integer(shop.n_items) for _ in range(n)], np.int32),
        weights=np.array([draw.choice((1.0, 1.0, 2.0, 0.0, -1.0)) for _ in range(n)], np.float32),
        times=np.array(times, np.int64),
        kinds=np.array([draw.integer(3) if shop.kinds else 0 for _ in range(n)], np.uint8),
        values=np.array([draw.choice((float("nan"), 1.0, 3.0)) for _ in range(n)], np.float32),
    )


@functools.cache
def learned(name: str, layout: ListFeatures | None, catalogue: tuple[str, ...]) -> tuple[Policy, ItemStatistics]:
    """A policy that has learned from planted displays, and their statistics."""
    draw, d = Draw(f"displays of {name}"), 3 if layout is None else len(layout.names)
    n = 400
    keys = action_keys([draw.choice(catalogue) for _ in range(n)])
    x = np.array([[(draw.integer(17) - 8) / 32 for _ in range(d)] for _ in range(n)])
    rewards = np.array([draw.integer(2) for _ in range(n)], np.float64)
    policy, statistics = make(name), ItemStatistics()
    if name == "LinTS":
        policy.floor = 0.02
    policy.update(Outcomes(keys, rewards, x))
    statistics.update(keys, np.array([draw.integer(10) for _ in range(n)]), rewards)
    return policy, statistics


@functools.cache
def layout_of(answers: Answers) -> tuple[ListFeatures, tuple[str, ...]]:
    return ListFeatures.of(answers), tuple(str(item) for item in answers.ids.values[:60].to_list())


def policy_of(draw: Draw, answers: Answers) -> ListPolicy:
    name, (layout, catalogue) = draw.choice(POLICIES), layout_of(answers)
    features = layout if name in ("LinTS", "LinUCB") or draw.chance(0.7) else None
    policy, statistics = learned(name, layout, catalogue)
    limits = ExplorationLimits(
        draw.choice((0.2, 1.0, 0.05)), {1: 0.01} if draw.chance(0.3) else {}, 1 + draw.integer(2), draw.chance(0.05),
        draw.choice((float("inf"), 0.5)),
    )  # fmt: skip
    return ListPolicy(
        policy, draw.choice(("home", "product")), features, draw.choice((50, 20, 12)),
        draw.choice(("online", "online", "shadow", "apprentice")), limits, 0.3,
        statistics if draw.chance(0.7) else None,
    )  # fmt: skip


def request_of(draw: Draw, shop: Shop, answers: Answers, rules: Mapping[str, Any]) -> Request:
    """A random request: most features are absent from most requests, and each is in some of every kind."""
    r: dict[str, Any] = {"user": user_of(draw, shop), "now": NOW - int(draw.real() * DAY)}
    r["k"] = 1 + draw.integer(20) if draw.chance(0.94) else draw.choice((40, 100, 200))
    kind = draw.real()
    if kind < 0.2:
        r["history"] = items_of(draw, answers, draw.integer(12))
    elif kind < 0.4:
        r["history"] = history_of(draw, shop, draw.choice((0, 1, 3, 9, 25)))
    if draw.chance(0.35):
        r["filter"] = draw.choice(FILTERS)
    if draw.chance(0.15):
        r["boosts"] = tuple(draw.some(BOOSTS, 1 + draw.integer(2)))
    if draw.chance(0.12):
        r["include"] = items_of(draw, answers, draw.choice((0, 1, 5, 20, 60)))
        r["closed"] = draw.chance(0.5)
    if draw.chance(0.2):
        r["exclude"] = items_of(draw, answers, draw.choice((1, 4, 20)))
    if draw.chance(0.15):
        known = [item for item in items_of(draw, answers, 4) if item not in ("unknown", 999_999)]
        slots = draw.some(range(1, r["k"] + 3), 1 + draw.integer(3))
        r["pins"] = dict(zip(slots, dict.fromkeys(known)))
    if draw.chance(0.3):
        r["exclude_seen"] = draw.chance(0.5)
    if draw.chance(0.4):
        r["diversity"] = draw.choice(("none", "mmr", "mmr", "dpp", "calibrate"))
    if draw.chance(0.3):
        r["balance"] = draw.choice((0.0, 0.2, 0.5, 0.9, 1.0))
    if draw.chance(0.2):
        r["user_columns"] = {"age": draw.choice((None, 15, 30, 55))}
    if draw.chance(0.5):
        r["context"] = {"device": draw.choice(("tv", "phone")), "hour": float(draw.integer(24))}
    if draw.chance(0.3):
        r["visit"] = draw.integer(5)
    if draw.chance(0.6 if "frequency" in rules else 0.05):
        r["shown"] = {item: 1 + draw.integer(4) for item in items_of(draw, answers, 30)}
    if draw.chance(0.1):
        r["seen"] = items_of(draw, answers, 5)
    if "exposure" in rules and draw.chance(0.7):
        r["deficits"] = [draw.choice((0.0, 0.5, 3.0)) for _ in rules["exposure"]]
    r["seed"] = draw.integer(2**53)
    if draw.chance(0.1):
        r["explore"] = draw.choice((0.3, 1.0))
    if draw.chance(0.12):
        r["policy"] = policy_of(draw, answers)
        if draw.chance(0.3):
            r["forced"] = items_of(draw, answers, r["k"])
    if draw.chance(0.08):
        r["skip"] = tuple(draw.some(("ranker", "variety", "policy", "reasons"), 1 + draw.integer(2)))
    if draw.chance(0.04):
        r["budget"] = draw.choice((1e-9, 1e6))
    r["explain"] = draw.chance(0.12)
    if draw.chance(0.15):
        r["features"] = draw.choice(("shown", "all"))
    return Request(**r)


@dataclasses.dataclass(frozen=True)
class Case:
    """One call. kind: name of the method; `call` makes it."""

    number: int
    shop: Shop
    answers: Answers
    kind: str
    arguments: dict[str, Any]
    call: Callable[[], Any]


def case_of(number: int) -> Case:
    draw = Draw(number)
    shop = SHOPS[draw.choice(MIX)]
    rules = draw.choice(range(N_RULES))
    by = draw.choice(("", "", "genres", "category"))
    answers = answers_of(shop.name, rules, draw.choice(golden_shops.methods(shop.name)),
                         draw.choice(("none", "none", "mmr")), by, draw.chance(0.15))  # fmt: skip
    request = request_of(draw, shop, answers, rules_of(shop, rules))
    visible = None
    if draw.chance(0.15):
        visible = np.array([draw.chance(0.8) for _ in range(len(answers.ids))])
    index = golden_shops.live_index(shop.name, draw.choice((0, 0, 5, 200)))
    kind = draw.choice(("ask",) * 16 + ("ask_many", "rank", "similar", "list_by_score", "list_in_order"))
    if kind == "ask":
        arguments = {"request": request, "visible": visible, "index": index}
        return Case(number, shop, answers, kind, arguments, lambda: answers.ask(request, visible, index))
    plain = dataclasses.replace(request, policy=None, explore=0.0, forced=None, explain=False)
    if kind == "ask_many":
        names = ("filter", "boosts", "include", "exclude", "pins", "exclude_seen", "diversity", "balance", "context",
                 "explore", "policy", "deficits", "seed", "skip", "closed")  # fmt: skip
        options = {name: getattr(request, name) for name in names}
        users = [golden_shops.raw_id(shop, "u", draw.integer(shop.n_users + 1)) for _ in range(draw.choice(BATCHES))]
        k = min(request.k, 8 if len(users) < 100 else 2)
        options |= {"users": users, "k": k, "visible": visible, "now": request.now}
        return Case(number, shop, answers, kind, options, lambda: answers.ask_many(**options))
    if kind == "rank":
        histories = answers.known.histories
        rows = np.array([draw.integer(len(histories) + 1) - 1 for _ in range(draw.choice(BATCHES))])
        batch = histories.take(rows)
        n = len(answers.known.item_ids)
        allowed = np.array([draw.chance(0.5) for _ in range(n)]) if draw.chance(0.5) else None
        run = dataclasses.replace(ONE, approximate=draw.choice((None, True, False)))
        options = {
            "k": request.k if len(rows) == 1 else min(request.k, 8 if len(rows) < 100 else 2),
            "exclude": batch if draw.chance(0.5) else None,
            "allowed": allowed,
            "run": run,
        }
        return Case(
            number, shop, answers, kind, {"rows": rows, **options}, lambda: answers.model.rank(batch, **options)
        )
    if kind == "similar":
        item = items_of(draw, answers, 1)[0]
        return Case(number, shop, answers, kind, {"item": item, "request": plain, "visible": visible},
                    lambda: answers.similar(item, plain, visible))  # fmt: skip
    codes = np.array(draw.some(range(len(answers.ids)), draw.choice((1, 20, 80))))
    if kind == "list_in_order":
        return Case(number, shop, answers, kind, {"items": codes, "request": plain, "visible": visible},
                    lambda: answers.list_in_order(codes, plain, visible, "trending"))  # fmt: skip
    scores = np.full(len(answers.ids), -np.inf, np.float32)
    scores[codes] = [draw.integer(40) / 8 for _ in codes]
    return Case(number, shop, answers, kind, {"scores": scores, "request": plain, "visible": visible},
                lambda: answers.list_by_score(scores, plain, visible, "popular"))  # fmt: skip


# -- answers ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Outcome:
    """What is compared. items: int32[m], codes; scores: float64[m]; parts: the rest, by the names of `PARTS`."""

    items: np.ndarray
    scores: np.ndarray
    parts: dict[str, Any]


def outcome_of(case: Case) -> Outcome:
    try:
        result = case.call()
    except ZhiyinError as error:
        return Outcome(np.zeros(0, np.int32), np.zeros(0), {"method": type(error).__name__})
    ids = case.answers.ids
    if isinstance(result, tuple):  # of rank
        items, scores = result
        return Outcome(items.ravel(), scores.ravel().astype(np.float64), {"method": list(items.shape)})
    if isinstance(result, pl.DataFrame):
        parts: dict[str, Any] = {"ranks": result["rank"].to_list(), "method": result["user"].to_list()}
        if "propensity" in result.columns:
            parts["propensities"] = result["propensity"].to_numpy()
        return Outcome(golden_shops.codes(result["item"], ids), result["score"].to_numpy().astype(np.float64), parts)
    assert isinstance(result, Answer)
    features = result.features
    if features is not None:  # candidates have no order that matters
        order = np.argsort(features.items)
        features = ItemFeatures(features.items[order], features.values[order], features.names)
    return Outcome(
        golden_shops.codes(result.items, ids),
        np.array(result.scores, np.float64),
        {
            "method": [result.method, result.degraded, result.left_out, result.sources],
            "trace": result.trace, "removed": result.removed, "reasons": result.reasons, "ranks": result.ranks,
            "propensities": [result.propensities, result.exposed], "features": features, "decision": result.decision,
        },
    )  # fmt: skip


def plain(value: Any) -> Any:
    """A value as lists, dicts, texts and numbers; whole numbers of arrays as int, fractions as float."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def summary(value: Any) -> tuple[int, float, float]:
    """A hash of what is no fraction, a sum of the fractions with weights of 0.5 to 1.5, and the sum of their sizes."""
    fractions: list[float] = []

    def whole(part: Any) -> Any:
        if isinstance(part, float):
            if not np.isfinite(part):
                return str(part)
            fractions.append(part)
            return "fraction"
        if isinstance(part, dict):
            return {key: whole(inner) for key, inner in sorted(part.items())}
        if isinstance(part, list):
            return [whole(inner) for inner in part]
        return part

    text = json.dumps(whole(plain(value)), default=str)
    numbers = np.array(fractions)
    weighted = numbers * (0.5 + np.arange(1, len(numbers) + 1) * 0.6180339887498949 % 1)
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
    return number, float(weighted.sum()), float(np.abs(weighted).sum())


NOTHING = summary(None)


@dataclasses.dataclass
class Recorded:
    """Answers of n requests with m items in all.

    numbers: int32[n]. offsets: int32[n + 1]. items: int16[m]. scores: float32[m]. hashes: uint32[n, parts]. sums:
    float64[n, parts].
    """

    numbers: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    hashes: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, numbers: Sequence[int], outcomes: Sequence[Outcome]) -> Recorded:
        parts = [[summary(o.parts.get(name)) for name in PARTS] for o in outcomes]
        return cls(
            np.array(numbers, np.int32),
            np.cumsum([0, *(len(o.items) for o in outcomes)]).astype(np.int32),
            np.concatenate([o.items for o in outcomes]).astype(np.int16),
            np.concatenate([o.scores if len(o.scores) else np.zeros(len(o.items)) for o in outcomes]).astype(
                np.float32
            ),
            np.array([[part[0] for part in row] for row in parts], np.uint32),
            np.array([[part[1] for part in row] for row in parts], np.float64),
        )

    @classmethod
    def read(cls) -> Recorded:
        with np.load(FILE, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})

    def write(self) -> None:
        with zipfile.ZipFile(FILE, "w") as archive:  # as NumPy writes it, but smaller
            for field in dataclasses.fields(self):
                array = io.BytesIO()
                np.lib.format.write_array(array, getattr(self, field.name), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{field.name}.npy"), array.getvalue(), zipfile.ZIP_LZMA)

    def differences(self, row: int, case: Case, outcome: Outcome) -> list[str]:
        """What of an answer is not as recorded."""
        place = slice(self.offsets[row], self.offsets[row + 1])
        items, scores = self.items[place], self.scores[place].astype(np.float64)
        wrong, tolerance = [], case.shop.tolerance
        if not np.array_equal(items, outcome.items):
            wrong.append(f"items {outcome.items.tolist()} instead of {items.tolist()}")
        elif len(outcome.scores):
            finite = np.isfinite(scores)
            off = np.abs(scores[finite] - outcome.scores[finite])
            if (
                not np.array_equal(scores[~finite], outcome.scores[~finite])
                or not (off <= tolerance * (1 + np.abs(scores[finite]))).all()
            ):
                wrong.append(f"scores {outcome.scores.tolist()} instead of {scores.tolist()}")
        for at, name in enumerate(PARTS):
            number, total, size = summary(outcome.parts.get(name))
            limit = (max(tolerance, DECISION_TOLERANCE) if name == "decision" else tolerance) * (1 + size)
            if number != self.hashes[row, at]:
                wrong.append(f"{name}: {plain(outcome.parts.get(name))}")
            elif abs(total - self.sums[row, at]) > limit:
                wrong.append(f"fractions of {name}: {plain(outcome.parts.get(name))}")
        return wrong


# -- recording --------------------------------------------------------------------------------------------------------


def record() -> None:
    """Record anew the answers to the requests that are recorded."""
    numbers = Recorded.read().numbers.tolist()
    Recorded.of(numbers, [outcome_of(case_of(number)) for number in numbers]).write()


def compare() -> bool:
    recorded, failed = Recorded.read(), 0
    for row, number in enumerate(recorded.numbers.tolist()):
        case = case_of(number)
        wrong = recorded.differences(row, case, outcome_of(case))
        if wrong:
            failed += 1
            print(f"request {number} ({case.kind}):", *(text[:400] for text in wrong), sep="\n   ")
    print(f"{failed} of {len(recorded.numbers)} answers are not as recorded")
    return not failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--models", action="store_true")
    parser.add_argument("--show", type=int)
    given = parser.parse_args()
    if given.models:
        golden_shops.write_models()
    if given.show is not None:
        case = case_of(given.show)
        outcome = outcome_of(case)
        print(case.shop.name, case.kind, case.answers.rules)
        pprint.pprint(case.arguments, width=120)
        print(outcome.items.tolist(), outcome.scores.tolist(), sep="\n")
        pprint.pprint(plain(outcome.parts), width=120, compact=True)
    elif given.record:
        record()
    else:
        sys.exit(not compare())


if __name__ == "__main__":
    main()
