"""AdService: from a request to the ads that win its slots, their prices and their trace."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

import numpy as np

from zhiyin.api.ad_requests import AdsRequest
from zhiyin.api.requests import RecommendRequest
from zhiyin.core.uid import fresh_id
from zhiyin.data.project_config import AdsSection
from zhiyin.pipeline.ad_candidates import (
    Ads,
    action_probabilities,
    check_probabilities,
    eligible_ads,
    sampled_probabilities,
)
from zhiyin.policies.ad_auction import run_auctions
from zhiyin.policies.ad_pacing import scores_and_parts
from zhiyin.service.ad_accounts import Accounts, AdAccounts
from zhiyin.service.campaigns import Campaigns, StoredCampaign, settings_json
from zhiyin.service.health_issues import HealthIssue
from zhiyin.service.list_kinds import reading_index
from zhiyin.service.placements import DEFAULT, Placements
from zhiyin.service.policy_serving import MARK
from zhiyin.service.request_building import build_request
from zhiyin.service.serving_state import ServingState
from zhiyin.service.trace_encoding import encode_request
from zhiyin.service.version_view import View
from zhiyin.store.ad_ledger import AdDisplay, AdTotals
from zhiyin.store.traces import Trace

ORIGIN = "ads"
_MILLIONTHS = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class AdList:
    """Ads for a request, not stored yet.

    Parameters
    ----------
    body: what is answered. displays: of campaigns. owner: the user or session; None: the request names nobody.
    """

    body: dict[str, Any]
    trace: Trace
    displays: list[AdDisplay]
    owner: str | None


class AdService:
    """Ads of one shop. Any number of threads may use one."""

    def __init__(self, live: ServingState, placements: Placements, settings: AdsSection) -> None:
        self.live, self.placements, self.settings = live, placements, settings
        self.store = live.store
        self.campaigns = Campaigns(self.store)
        self.accounts = AdAccounts(self.store, self.campaigns, settings)
        live.table_listeners["campaigns"] = self.campaigns.refresh
        self._ads: tuple[Any, Ads] | None = None
        self._unusable: dict[str, HealthIssue] = {}
        self._waiting: list[_Waiting] = []
        self._queue_lock, self._write_lock = threading.Lock(), threading.Lock()

    # -- auctions ------------------------------------------------------------------------------------------------------

    def create(self, ask: AdsRequest) -> AdList:
        """Ads for a request; `store_list` is to be called before they are answered. Raises ConfigError where the
        version in use has no probabilities, and for a request that cannot be answered."""
        begun = time.perf_counter()
        view, list_id, now = self.live.view(), fresh_id(), self.store.clock()
        check_probabilities(view.answers.model)
        name = ask.placement or DEFAULT
        placement_version, setting = self.placements.get(name)
        owner = ask.user or ask.session
        plain = RecommendRequest(
            placement=name, user=ask.user, session=ask.session, history=ask.history, k=ask.slots, filter=ask.filter,
            exclude=ask.exclude, context=ask.context, exclude_seen=False,
        )  # fmt: skip
        frequency = view.answers.rules.frequency
        history, shown = None, dict[str, int]()
        if owner is not None:
            window = None if frequency is None else frequency.seconds
            history, counts = self.live.history_and_showings(view, ask.user, ask.session, window)
            shown = {item: n for item, n in counts.items()
                     if frequency and n >= frequency.at_most and not item.startswith(MARK)}  # fmt: skip
        request = build_request(
            plain, setting, view, now, list_id, [], history, closed=True, shown=shown,
            user_columns=self.live.request_columns(ask.user, ask.user_columns),
        )  # fmt: skip
        accounts = self.accounts.now
        ads = self._ads_of(view, accounts).with_bids(ask.bids, view.answers)
        rng = np.random.default_rng(int(list_id[-16:], 16))
        past, allowed, excluded = view.answers.eligible(request, view.visible)
        left_out: dict[str, int] = {}
        rows, bids, weights = self._taking_part(
            ads, accounts, eligible_ads(ads, allowed, excluded), now, owner, rng, left_out
        )
        expected, events = self._experience(ads, accounts, rows, view)
        prior = self.settings.exploration
        lift = (events + max(prior, 1.0)) / (expected + max(prior, 1.0))
        if len(rows) > self.settings.candidates:
            best = np.argsort(-bids * weights * lift, kind="stable")[: self.settings.candidates]
            rows, bids, weights, expected, events = (one[best] for one in (rows, bids, weights, expected, events))
        part = dataclasses.replace(ads, campaigns=ads.campaigns[rows], items=ads.items[rows], bids=ads.bids[rows],
                                   purchases=ads.purchases[rows])  # fmt: skip
        with reading_index(view) as index:
            means = action_probabilities(view.answers, past, part, None if index is None else index.index,
                                         accounts.mean)  # fmt: skip
        ranked = means
        if prior > 0:
            ranked = sampled_probabilities(means, expected, events, prior, int(rng.integers(2**31)))
        floor = self.settings.quality_floor if ask.quality_floor is None else ask.quality_floor
        reserve = self.settings.reserve if ask.reserve_micros is None else ask.reserve_micros
        _count(left_out, "quality", means < floor)
        _count(left_out, "reserve", (means >= floor) & (bids < max(reserve, 1)))
        pricing = ask.pricing or self.settings.pricing
        n = len(rows)
        result = run_auctions(
            np.array([0, n]), np.where(means >= floor, ranked * weights, 0.0), bids, np.full(n, reserve, np.int64),
            part.campaigns, part.items, slots=ask.slots, per_campaign=ask.per_campaign or 1,
            second_price=pricing == "second",
        )  # fmt: skip
        won = result.ads[0][result.ads[0] >= 0]
        prices = result.prices[0][: len(won)].tolist()
        shown_ads = self._rows(view, part, accounts, won, prices, means, ask)
        head, arrays = encode_request(plain, [], view)
        items = [ad["item"] for ad in shown_ads]
        head |= {
            "origin": ORIGIN, "place_version": placement_version, "seq": view.seq,
            "house": view.loaded.settings_digest, "now": now, "items": items, "method": "auction", "sources": [],
            "anonymous": ask.user is None,
            "auction": {
                "pricing": pricing, "reserve": reserve, "floor": floor, "left_out": left_out,
                "ads": [{"campaign": ad["campaign"], "pay": ad["pay"], "bid": ad["bid_micros"],
                         "price": ad["price_micros"], "expected": ad["expected_micros"],
                         "probability": ad["probability"]} for ad in shown_ads],
            },
        }  # fmt: skip
        arrays |= {"scores": (ranked[won] * bids[won]).astype(np.float32), "ranks": np.zeros((0, 0), np.int16)}
        trace = Trace(list_id, owner, now, view.version, name, head, arrays)
        displays = [
            AdDisplay(ad["campaign"], ad["item"], ad["expected_micros"], round(ad["probability"] * _MILLIONTHS))
            for ad in shown_ads
            if ad["campaign"] is not None
        ]
        body = {"list_id": list_id, "version": view.version, "placement": name, "pricing": pricing, "ads": shown_ads,
                "left_out": left_out, "milliseconds": round(1e3 * (time.perf_counter() - begun), 3)}  # fmt: skip
        return AdList(body, trace, displays, owner)

    def store_list(self, result: AdList) -> None:
        """Store a list with its displays; a kill of the process after this loses neither.

        Threads that come together share a transaction.
        """
        entry = _Waiting(result)
        with self._queue_lock:
            self._waiting.append(entry)
        with self._write_lock:
            if not entry.is_done:
                with self._queue_lock:
                    batch, self._waiting = self._waiting, []
                try:
                    self.store.append_ad_lists([(one.result.trace, one.result.displays) for one in batch])
                except BaseException as error:
                    for one in batch:
                        one.error = error
                finally:
                    for one in batch:
                        one.is_done = True
        if entry.error is not None:
            raise entry.error
        self.accounts.displayed(result.displays)
        frequency = self.live.now.answers.rules.frequency
        longest = max(self.longest_cap(), 0.0 if frequency is None else frequency.seconds)
        if result.owner is not None and longest:
            marks = [_mark(one.campaign) for one in result.displays]
            self.live.state.record_showings(result.owner, [*result.trace.head["items"], *marks], longest)

    def longest_cap(self) -> float:
        """Seconds of the longest frequency cap of campaigns; 0: there is none."""
        return max(self.accounts.now.terms.caps, default=0.0)

    def _ads_of(self, view: View, accounts: Accounts) -> Ads:
        """The ads of all campaigns over the catalogue of a view."""
        answers, key = view.answers, tuple((one.name, one.version) for one in accounts.campaigns)
        known = self._ads
        if known is not None and known[0][0] is answers and known[0][1] == key:
            return known[1]
        usable: dict[str, Any] = {}
        unusable = {}
        for one in accounts.campaigns:
            try:
                missing = Ads.of({one.name: one.settings}, answers).missing
                usable[one.name] = one.settings
                reason = f"item {missing[one.name][0]!r} is not in the catalogue" if missing else ""
            except Exception as error:
                usable[one.name] = one.settings.model_copy(update={"bid_column": None})
                reason = f"{error}: its bid_micros are used"
            if reason:
                unusable[one.name] = HealthIssue(f"campaign {one.name!r}", reason, f"PUT /v1/campaigns/{one.name}")
        ads = Ads.of(usable, answers)
        self._ads, self._unusable = ((answers, key), ads), unusable
        return ads

    def _taking_part(
        self,
        ads: Ads,
        accounts: Accounts,
        is_eligible: np.ndarray,
        now: int,
        owner: str | None,
        rng: np.random.Generator,
        left_out: dict[str, int],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the ads that take part, their bids, and what their order is scaled by; the others are counted."""
        c = len(accounts.names)
        # One entry behind those of the campaigns, for ads of none: code -1.
        active, has_cap_left, in_auction = (np.ones(c + 1, bool) for _ in range(3))
        factor, weight, terms = np.ones(c + 1), np.ones(c + 1), accounts.terms
        active[:c] = terms.active(now)
        has_cap_left[:c] = self._below_caps(accounts, owner)
        scores, parts = scores_and_parts(accounts.multipliers)
        weight[:c] = np.where(terms.by_score, scores, 1.0)
        factor[:c] = np.where(terms.by_bid, accounts.multipliers, 1.0)
        parts = np.where(terms.by_score, parts, np.where(terms.by_throttle, accounts.multipliers, 1.0))
        in_auction[:c] = rng.random(c) < parts
        left = np.append(accounts.left(now), np.iinfo(np.int64).max)
        bids = np.floor(ads.bids * factor[ads.campaigns]).astype(np.int64)
        bids = np.where(ads.bids > 0, np.maximum(bids, 1), 0)
        takes_part = np.ones(len(ads), bool)
        for reason, holds in (
            ("inactive", active[ads.campaigns]),
            ("rules", is_eligible),
            ("budget", left[ads.campaigns] >= bids),
            ("frequency", has_cap_left[ads.campaigns]),
            ("pacing", in_auction[ads.campaigns]),
        ):
            _count(left_out, reason, takes_part & ~holds)
            takes_part &= holds
        rows = np.flatnonzero(takes_part)
        return rows, bids[rows], weight[ads.campaigns[rows]]

    def _below_caps(self, accounts: Accounts, owner: str | None) -> np.ndarray:
        """bool[c]: campaigns that may be shown to a user once more."""
        result = np.ones(len(accounts.names), bool)
        if owner is None:
            return result
        for seconds, (rows, at_most) in accounts.terms.caps.items():
            counts = self.live.state.showing_counts(owner, seconds)
            if counts:
                displays = [counts.get(_mark(accounts.names[row]), 0) for row in rows.tolist()]
                result[rows] = np.array(displays) < at_most
        return result

    def _experience(self, ads: Ads, accounts: Accounts, rows: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
        """float64[m]: events of these ads that the model expected of their displays, and those that came."""
        known = self._experience_of(ads, accounts, view)
        is_own = rows < known.shape[1]
        expected, events = np.zeros(len(rows)), np.zeros(len(rows))
        expected[is_own], events[is_own] = known[0][rows[is_own]], known[1][rows[is_own]]
        return expected, events

    def _experience_of(self, ads: Ads, accounts: Accounts, view: View) -> np.ndarray:
        """float64[2, ads of campaigns], as `_experience`, made once for each reading of the accounts."""
        known = getattr(self, "_known_experience", None)
        base = self._ads
        assert base is not None
        if known is not None and known[0] is accounts.ads and known[1] is base[1]:
            result: np.ndarray = known[2]
            return result
        own = base[1]
        items = view.ids.raw(own.items)
        entries = [accounts.ads.get((own.names[campaign], str(item)), (0, 0, 0))
                   for campaign, item in zip(own.campaigns.tolist(), items)]  # fmt: skip
        table = np.array(entries, np.float64).reshape(-1, 3)
        result = np.stack([table[:, 1] / _MILLIONTHS, table[:, 2]])
        self._known_experience = accounts.ads, own, result
        return result

    def _rows(
        self,
        view: View,
        ads: Ads,
        accounts: Accounts,
        won: np.ndarray,
        prices: list[int],
        means: np.ndarray,
        ask: AdsRequest,
    ) -> list[dict[str, Any]]:
        """The ads that won, as they are answered."""
        result = []
        items = view.ids.raw(ads.items[won])
        for item, row, price in zip(items, won.tolist(), prices):
            campaign, probability = int(ads.campaigns[row]), float(means[row])
            ad: dict[str, Any] = {
                "item": str(item), "campaign": None if campaign < 0 else accounts.names[campaign],
                "pay": "purchase" if ads.purchases[row] else "click", "probability": round(probability, 9),
                "bid_micros": int(ads.bids[row]), "price_micros": int(price),
                "expected_micros": int(-(-probability * price // 1)),
            }  # fmt: skip
            if ask.fields:
                ad["columns"] = view.row(int(ads.items[row]), ask.fields)
            result.append(ad)
        return result

    # -- campaigns -----------------------------------------------------------------------------------------------------

    def campaign_json(self, campaign: StoredCampaign, accounts: Accounts) -> dict[str, Any]:
        """A campaign with its state at this moment."""
        now = self.store.clock()
        state, issue = campaign.state(now), self._unusable.get(campaign.name)
        if state == "active" and campaign.name in accounts.names:
            number = accounts.names.index(campaign.name)
            left = accounts.left(now)[number] + accounts.reserved[number]
            if left < campaign.settings.bid_micros:
                state = "spent"
        return {"id": campaign.name, "version": campaign.version, "settings": settings_json(campaign), "state": state,
                "issue": "" if issue is None else issue.reason}  # fmt: skip

    def report(self, name: str) -> dict[str, Any]:
        """A campaign with what it has brought, up to this moment. Raises UnknownCampaignError."""
        accounts = self.accounts.refresh()
        campaign = self.campaigns.get(name)
        number = accounts.names.index(name)
        target = accounts.targets[number]
        has_daily = campaign.settings.daily_budget_micros is not None
        today, total = accounts.today[number], accounts.totals[number]
        own = [(item, counts) for (_, item), counts in sorted(self.store.ad_items(name).items())]
        ads = [{"item": item, "displays": displays, "events": events, "expected": expected / _MILLIONTHS}
               for item, (displays, expected, events) in own]  # fmt: skip
        return self.campaign_json(campaign, accounts) | {
            "today": counts_json(today), "total": counts_json(total),
            "pace": {
                "multiplier": round(float(accounts.multipliers[number]), 6),
                "target_micros": None if np.isnan(target) else int(target),
                "spend_micros": today.spend if has_daily else total.spend,
                "reserved_micros": int(accounts.reserved[number]),
            },
            "ads": ads,
        }  # fmt: skip

    def health_issues(self) -> list[HealthIssue]:
        """Campaigns that take no part, or not with all they say."""
        return [*self.campaigns.health_issues(), *self._unusable.values()]

    def close(self) -> None:
        self.accounts.close()


@dataclasses.dataclass(eq=False)
class _Waiting:
    """A list that is to be stored."""

    result: AdList
    is_done: bool = False
    error: BaseException | None = None


def counts_json(sums: AdTotals) -> dict[str, Any]:
    return {
        "displays": sums.displays, "clicks": sums.clicks, "purchases": sums.purchases, "paid": sums.paid,
        "unpaid": sums.unpaid, "spend_micros": sums.spend,
        "ctr": None if not sums.displays else sums.clicks / sums.displays,
    }  # fmt: skip


def _mark(campaign: str) -> str:
    """By what displays of a campaign are counted among the showings of a user."""
    return f"{MARK}ad{MARK}{campaign}"


def _count(left_out: dict[str, int], reason: str, rows: np.ndarray) -> None:
    n = int(np.count_nonzero(rows))
    if n:
        left_out[reason] = n
