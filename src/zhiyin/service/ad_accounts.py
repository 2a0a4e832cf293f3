"""AdAccounts: what campaigns have spent and may still spend, as this process knows it, and how they are paced.

The ledger of the store decides what is charged; here is what auctions need of it a moment later: the money that is left
after what is spent and what displays of the last minutes are expected to cost, and multipliers that keep the spend
along its curve. A thread charges the clicks that came, and reads the sums of all processes, as often as every second.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ZhiyinError
from zhiyin.core.run import log
from zhiyin.data.project_config import AdsSection
from zhiyin.policies.ad_pacing import EVEN, HOURS, PacingController, TrafficCurve, spend_target
from zhiyin.service.campaigns import Campaigns, StoredCampaign
from zhiyin.store.ad_ledger import ALL_DAYS, DAY, HOUR, AdDisplay, AdTotals
from zhiyin.store.store import Store

# Seconds between two looks at the ledger, and between two updates of multipliers.
LOOK_SECONDS, PACING_SECONDS = 1.0, 10.0
# Hours of traffic from which on its curve is used; share of a budget that counts as spent just as expected.
MIN_TRAFFIC_HOURS, PRIOR_SHARE = 24, 0.05
_UNLIMITED = 2**61
# A new ad without a similar item is taken to have the probability of all ads, as if one had had an event of so many.
PRIOR_DISPLAYS = 50.0
_NO_TOTALS = AdTotals()


@dataclasses.dataclass(frozen=True, eq=False)
class Terms:
    """What the settings of c campaigns say, as arrays.

    Parameters
    ----------
    daily, total: int64[c], micros; _UNLIMITED without a budget.
    start, end: int64[c], microseconds UTC. paused: bool[c].
    by_score, by_bid, by_throttle: bool[c], how each is held back.
    caps: rows of campaigns with a frequency cap (int64[m]), and how often each may be displayed (int64[m]), by seconds.
    """

    daily: np.ndarray
    total: np.ndarray
    start: np.ndarray
    end: np.ndarray
    paused: np.ndarray
    by_score: np.ndarray
    by_bid: np.ndarray
    by_throttle: np.ndarray
    caps: Mapping[float, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, campaigns: Sequence[StoredCampaign]) -> Terms:
        settings = [one.settings for one in campaigns]

        def numbers(values: Iterable[int | None], default: int) -> np.ndarray:
            return np.array([default if value is None else value for value in values], np.int64)

        by = np.array([one.pacing_by for one in settings], dtype="U8")
        caps: dict[float, tuple[list[int], list[int]]] = {}
        for row, one in enumerate(settings):
            if one.frequency_cap is not None:
                rows, most = caps.setdefault(microseconds(one.frequency_cap.per) / 1e6, ([], []))
                rows.append(row)
                most.append(one.frequency_cap.at_most)
        return cls(
            numbers((one.daily_budget_micros for one in settings), _UNLIMITED),
            numbers((one.total_budget_micros for one in settings), _UNLIMITED),
            numbers((one.start for one in settings), -_UNLIMITED),
            numbers((one.end for one in settings), _UNLIMITED),
            np.array([one.paused for one in settings], bool),
            by == "score", by == "bid", by == "throttle",
            {seconds: (np.array(rows), np.array(most)) for seconds, (rows, most) in caps.items()},
        )  # fmt: skip

    def active(self, now: int) -> np.ndarray:
        """bool[c]: campaigns that take part at a moment, microseconds UTC."""
        return np.asarray(~self.paused & (self.start <= now) & (now < self.end))


@dataclasses.dataclass(frozen=True, eq=False)
class Accounts:
    """Of c campaigns, in the order of `names`.

    Parameters
    ----------
    totals, today: sums of all days, and of the day (UTC) `day`.
    spent, spent_today: int64[c], micros of the same.
    reserved: int64[c], micros that displays of the last minutes are expected to cost.
    multipliers: float64[c], of bids or of parts in auctions. targets: float64[c], micros that should be spent by now,
        NaN where there is no curve.
    ads: displays, expected events in millionths, and events by campaign and item, as of the last update of multipliers.
    mean: events of a display of any ad.
    """

    names: tuple[str, ...]
    campaigns: tuple[StoredCampaign, ...]
    terms: Terms
    day: int
    totals: tuple[AdTotals, ...]
    today: tuple[AdTotals, ...]
    spent: np.ndarray
    spent_today: np.ndarray
    reserved: np.ndarray
    multipliers: np.ndarray
    targets: np.ndarray
    ads: Mapping[tuple[str, str], tuple[int, int, int]]
    mean: float

    def left(self, now: int) -> np.ndarray:
        """int64[c], micros that each campaign may still spend now beyond what is reserved."""
        spent_today = self.spent_today if now // DAY == self.day else 0
        left = np.minimum(self.terms.total - self.spent, self.terms.daily - spent_today)
        return np.asarray(left - self.reserved)


class AdAccounts:
    """See the module. Any number of threads may use one; the thread starts with the first campaign."""

    def __init__(self, store: Store, campaigns: Campaigns, settings: AdsSection) -> None:
        self.store, self.campaigns, self.settings = store, campaigns, settings
        self.kinds = dict.fromkeys(settings.purchases, "purchase") | dict.fromkeys(settings.clicks, "click")
        self._window, self._reservation = microseconds(settings.window), microseconds(settings.reservation)
        self._lock, self._wake, self._closed = threading.RLock(), threading.Condition(), False
        self._woken, self._thread, self._is_failing = False, None, False
        self._controller, self._controlled = PacingController(0), tuple[str, ...]()
        self._paced_at, self._paced_reserved = 0, np.zeros(0, np.int64)
        self._curve = EVEN
        self._own = Counter[str]()
        self._terms: tuple[int, Terms] | None = None
        self._ads: Mapping[tuple[str, str], tuple[int, int, int]] = {}
        self._ads_read_at, self._mean = 0, 1 / PRIOR_DISPLAYS
        self._now = self._read()

    @property
    def now(self) -> Accounts:
        """The accounts as they were read last, with what this process has displayed since."""
        if self._seq != self.campaigns.seq:
            self.refresh()
        if self._thread is None and self._now.names:
            self._start()
        accounts, own = self._now, self._own
        if not own:
            return accounts
        added = np.array([own.get(name, 0) for name in accounts.names], np.int64)
        return dataclasses.replace(accounts, reserved=accounts.reserved + added)

    def displayed(self, displays: Sequence[AdDisplay]) -> None:
        """Count displays that this process has stored, until the accounts are read again."""
        with self._lock:
            own = self._own.copy()
            for one in displays:
                own[one.campaign] += one.expected
            self._own = own

    def wake(self) -> None:
        """Have the thread charge what came: events that name lists were stored."""
        if self._thread is not None:
            with self._wake:
                self._woken = True
                self._wake.notify()

    def refresh(self) -> Accounts:
        """Charge what came, and read the accounts; multipliers are updated every PACING_SECONDS."""
        with self._lock:
            self.campaigns.refresh()
            self.store.charge_ads(self.kinds, self._window, self._reservation)
            self._now = self._read()
            self._own = Counter()
            return self._now

    def close(self) -> None:
        """Stop; what came since is charged by whoever opens the store next."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="zhiyin-ads", daemon=True)  # type: ignore[assignment]
                self._thread.start()  # type: ignore[attr-defined]

    def _run(self) -> None:
        while not self._closed:
            with self._wake:
                if not self._woken and not self._closed:
                    self._wake.wait(LOOK_SECONDS)
                self._woken = False
            try:
                self.refresh()
                self._is_failing = False
            except ZhiyinError as error:  # the store is away: what came is charged when it is back
                if not self._is_failing:
                    log.warning("ads: clicks are not charged at the moment: %s", error)
                self._is_failing = True

    def _read(self) -> Accounts:
        self._seq = self.campaigns.seq
        campaigns = tuple(self.campaigns.all().values())
        names, now = tuple(one.name for one in campaigns), self.store.clock()
        if self._terms is None or self._terms[0] != self._seq:
            self._terms = self._seq, Terms.of(campaigns)
        day, c = now // DAY, len(names)
        sums = self.store.ad_totals([day, ALL_DAYS]) if names else {}
        reservations = self.store.ad_reservations(now - self._reservation) if names else {}
        if names and not 0 <= now - self._ads_read_at < PACING_SECONDS * 1e6:
            self._ads, self._ads_read_at = self.store.ad_items(), now
            displays, events = (sum(entry[place] for entry in self._ads.values()) for place in (0, 2))
            self._mean = (events + 1.0) / (displays + PRIOR_DISPLAYS)
        totals = tuple(sums.get((name, ALL_DAYS), _NO_TOTALS) for name in names)
        today = tuple(sums.get((name, day), _NO_TOTALS) for name in names)
        accounts = Accounts(
            names, campaigns, self._terms[1], day, totals, today,
            np.array([one.spend for one in totals], np.int64), np.array([one.spend for one in today], np.int64),
            np.array([reservations.get(name, 0) for name in names], np.int64),
            np.ones(c), np.full(c, np.nan), self._ads, self._mean,
        )  # fmt: skip
        return self._paced(accounts, now) if names else accounts

    def _paced(self, accounts: Accounts, now: int) -> Accounts:
        """With multipliers and targets."""
        if accounts.names != self._controlled:
            before = {name: row for row, name in enumerate(self._controlled)}
            rows = np.array([before.get(name, -1) for name in accounts.names], np.int64)
            self._controller, self._controlled = self._controller.taken(rows), accounts.names
            reserved = np.array([one.reserved for one in accounts.totals], np.int64)
            known = rows >= 0
            reserved[known] = self._paced_reserved[rows[known]]
            self._paced_reserved = reserved
        interval = (now - self._paced_at) / HOUR
        if interval * 3_600 >= PACING_SECONDS or interval < 0:
            if 0 <= interval <= 1:
                cost = self._cost(accounts)
                target = self._targets(accounts, now, interval, cost)
                is_paced = np.isfinite(target)
                self._controller.update(np.where(is_paced, target, cost), cost)
            self._curve = self._traffic_curve()
            self._paced_at = now
            self._paced_reserved = np.array([one.reserved for one in accounts.totals], np.int64)
        paced = np.array([_is_paced(one) for one in accounts.campaigns], bool)
        multipliers = np.where(paced, self._controller.multipliers, 1.0)
        return dataclasses.replace(accounts, multipliers=multipliers, targets=self._spent_by_curve(accounts, now))

    def _cost(self, accounts: Accounts) -> np.ndarray:
        """float64[c], micros: what displays since the last update are expected to cost, by what such displays did."""
        reserved = np.array([one.reserved for one in accounts.totals], np.float64)
        spend = np.array([one.spend for one in accounts.totals], np.float64)
        budget = np.array([_budget(one) for one in accounts.campaigns], np.float64)
        prior = PRIOR_SHARE * np.where(np.isfinite(budget), budget, 1.0)
        return np.asarray((reserved - self._paced_reserved) * (spend + prior) / (reserved + prior))

    def _targets(self, accounts: Accounts, now: int, interval: float, cost: np.ndarray) -> np.ndarray:
        """float64[c], micros that should have been spent in the interval that ends now; infinite without a curve."""
        begin = now / HOUR - interval
        result = np.full(len(accounts.names), np.inf)
        for number, one in enumerate(accounts.campaigns):
            if not _is_paced(one):
                continue
            curve = self._curve if one.settings.pacing == "traffic" else EVEN
            for budget, spent, _, end in _periods(accounts, number):
                before = np.array([max(0.0, spent - cost[number])])
                wanted = spend_target(np.array([budget]), before, curve, begin, interval, np.array([end]))
                result[number] = min(result[number], float(wanted[0]))
        return result

    def _spent_by_curve(self, accounts: Accounts, now: int) -> np.ndarray:
        """float64[c], micros that the curve of the first period with a budget has spent by now; NaN: there is none."""
        result = np.full(len(accounts.names), np.nan)
        for number, one in enumerate(accounts.campaigns):
            curve = self._curve if one.settings.pacing == "traffic" else EVEN
            for budget, _, begin, end in _periods(accounts, number)[:1]:
                whole = float(curve.mass(begin, end))
                passed = float(curve.mass(begin, min(max(now / HOUR, begin), end)))
                result[number] = budget * passed / whole if whole > 0 else budget
        return result

    def _traffic_curve(self) -> TrafficCurve:
        hours = self.store.ad_traffic()
        if len(hours) < MIN_TRAFFIC_HOURS:
            return EVEN
        counts = np.zeros(HOURS)
        for hour, requests in hours.items():
            counts[hour % HOURS] += requests
        return TrafficCurve.of_counts(counts)


def _is_paced(campaign: StoredCampaign) -> bool:
    settings = campaign.settings
    has_end = settings.total_budget_micros is not None and settings.end is not None
    return settings.pacing != "none" and (settings.daily_budget_micros is not None or has_end)


def _budget(campaign: StoredCampaign) -> float:
    settings = campaign.settings
    limits = [limit for limit in (settings.daily_budget_micros, settings.total_budget_micros) if limit is not None]
    return float(min(limits)) if limits else math.inf


def _periods(accounts: Accounts, number: int) -> list[tuple[float, float, float, float]]:
    """Budget and spend (micros), begin and end (hours since 1970) of each period whose spend has a curve."""
    settings, day = accounts.campaigns[number].settings, float(accounts.day * HOURS)
    end = math.inf if settings.end is None else settings.end / HOUR
    start = -math.inf if settings.start is None else settings.start / HOUR
    periods = []
    if settings.daily_budget_micros is not None:
        spent = float(accounts.today[number].spend)
        periods.append((float(settings.daily_budget_micros), spent, max(day, start), min(day + HOURS, end)))
    if settings.total_budget_micros is not None and settings.end is not None:
        begin = day if settings.start is None else start
        periods.append((float(settings.total_budget_micros), float(accounts.totals[number].spend), begin, end))
    return periods
