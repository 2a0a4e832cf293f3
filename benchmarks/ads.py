"""Ads: revenue of policies in the simulated market, and what a request for ads costs.

    python benchmarks/ads.py market                   # 20 seeds, 5 policies, budgets of half the value of all clicks
    python benchmarks/ads.py market --demand 0.3 --seeds 5
    python benchmarks/ads.py latency                  # processor time and wall time of /v1/ads beside /v1/rank, in
    process python benchmarks/ads.py latency --ads 1000

`market`: a day of `AdMarket`, the same users, ads, estimates and luck for each policy. Printed: the share of all
budgets that was spent (which is revenue, relative to the most that there is), its 95 % interval over the seeds
(Student's t), and that of the difference to p̂ × bid with pacing, seed by seed; clicks that no budget could bear; and
whether any campaign of any seed spent more than its budget.

`latency`: a made shop, whose trees' scores stand in for probabilities: what is measured is time. A request for ads is
stored, with its displays, before it is answered; one for a rank is not.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from zhiyin.policies.simulators.ad_market import AD_POLICIES, AdMarket

NAMES = {
    "expected_value": "p × bid, paced", "unpaced": "p × bid, not paced", "ctr": "p alone", "bid": "bid alone",
    "random": "at random",
}  # fmt: skip


def market(seeds: int, demand: float, second: bool) -> None:
    """Revenue of each policy, relative to all budgets."""
    days = {policy: [] for policy in AD_POLICIES}
    for seed in range(seeds):
        shop = AdMarket(seed=seed, demand=demand)
        for policy in AD_POLICIES:
            days[policy].append(shop.run(policy, second_price=second))
    print(f"{seeds} seeds, budgets {demand} of the value of all clicks, {'second' if second else 'first'} price")
    titles = ("policy", "revenue / budgets, %", "p × bid, paced, minus it", "clicks", "unpaid", "within budgets")
    print("{:20} {:>26} {:>28} {:>8} {:>7}  {}".format(*titles))
    best = np.array([day.budget_spent for day in days["expected_value"]])
    for policy, of_policy in days.items():
        share = np.array([day.budget_spent for day in of_policy])
        low, high = interval(100 * share)
        difference = ""
        if policy != "expected_value":
            worse, better = interval(100 * (best - share))
            difference = f"{100 * (best - share).mean():7.2f} ({worse:6.2f} to {better:6.2f})"
        within = all((day.spend <= day.budgets).all() for day in of_policy)
        clicks, unpaid = (np.mean([getattr(day, name) for day in of_policy]) for name in ("clicks", "unpaid"))
        print(f"{NAMES[policy]:20} {100 * share.mean():7.2f} ({low:6.2f} to {high:6.2f}) {difference:>28} "
              f"{clicks:8,.0f} {unpaid:7,.0f}  {within}")  # fmt: skip


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of independent values."""
    if len(values) < 2:
        return float(values[0]), float(values[0])
    width = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - width), float(values.mean() + width)


def latency(n_ads: int, n_requests: int) -> None:
    """Processor and wall time of a request for ads, of its parts, and of one for a rank of as many items."""
    from zhiyin.api.ad_requests import AdsRequest
    from zhiyin.api.requests import RecommendRequest

    with tempfile.TemporaryDirectory() as folder:
        tenant = made_shop(Path(folder), n_ads)
        rng = np.random.default_rng(1)
        users = [f"u{code}" for code in rng.integers(0, 5_000, n_requests + 50)]
        items = [f"f{code}" for code in range(min(n_ads, 500))]

        def ads(user: str) -> None:
            tenant.ads.store_list(tenant.ads.create(AdsRequest(user=user, slots=3)))

        def auction(user: str) -> None:
            tenant.ads.create(AdsRequest(user=user, slots=3))

        def rank(user: str) -> None:
            ask = RecommendRequest(user=user, include=items, k=len(items), exclude_seen=False, diversity="none")
            tenant.list_service.create(ask, "rank")

        print(
            f"{n_ads:,} ads of {n_ads // 10:,} campaigns, {n_requests:,} requests of each kind, in turns, milliseconds"
        )
        print(f"{'':28} {'processor':>10} {'wall p50':>10} {'p99':>10}")
        kinds: dict[str, Callable[[str], None]] = {"/v1/ads": ads, "its auction alone": auction, "/v1/rank": rank}
        for user in users[:50]:
            for ask in kinds.values():
                ask(user)
        spent: dict[str, list[float]] = {name: [] for name in kinds}
        processor = dict.fromkeys(kinds, 0.0)
        for user in users[50:]:
            for name, ask in kinds.items():
                cpu, begun = time.thread_time(), time.perf_counter()
                ask(user)
                spent[name].append(1e3 * (time.perf_counter() - begun))
                processor[name] += 1e3 * (time.thread_time() - cpu)
        for name, times in spent.items():
            p99 = statistics.quantiles(times, n=100)[98]
            print(f"{name:28} {processor[name] / n_requests:10.2f} {statistics.median(times):10.2f} {p99:10.2f}")
        tenant.close()


def made_shop(folder: Path, n_ads: int) -> Any:
    """A shop of 5,000 users whose ranker's scores stand in for probabilities, with ten ads a campaign."""
    import zhiyin as zy
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.data.project_config import AdsSection, ServiceSection
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.pipeline.pipeline import Pipeline
    from zhiyin.policies.simulators.film_shop import FilmShop
    from zhiyin.service.key_cache import Keys
    from zhiyin.service.serving_state import ServingState
    from zhiyin.service.tenant import Tenant
    from zhiyin.store.store import Store

    data = FilmShop(n_users=5_000, n_items=max(n_ads, 1_200), days=60).log()
    catalogue = FilmShop(n_users=1, n_items=max(n_ads, 1_200), days=60).items
    pipeline = Pipeline(sources="popular:half_life=7d; itemknn; als:epochs=3", windows=2).fit(data, zy.Run())
    bundles = Bundles(folder / "bundles")
    version = bundles.write(pipeline, figures={}, catalogue=Catalogue.of(data))
    bundles.promote(version.version)
    Pipeline.goal_ = "ctr"  # type: ignore[misc]
    Pipeline.probabilities = _scores_as_probabilities  # type: ignore[assignment,method-assign]
    from zhiyin.pipeline import ad_candidates
    from zhiyin.service import ad_service

    ad_candidates.check_probabilities = ad_service.check_probabilities = lambda model: None  # type: ignore[assignment]
    live = ServingState(bundles, Store(folder / "shop.db"), warm=False)
    keys, _ = Keys.open(live.store)
    tenant = Tenant("shop", live, keys, ServiceSection(), None, ads_settings=AdsSection())
    ids = catalogue["id"].to_list()[:n_ads]
    for start in range(0, n_ads, 10):
        tenant.ads.campaigns.put(
            f"c{start // 10:04}",
            {"items": ids[start : start + 10], "bid_micros": 200_000 + start, "daily_budget_micros": 10**9,
             "frequency_cap": {"at_most": 100, "per": "1d"}},
        )  # fmt: skip
    return tenant


def _scores_as_probabilities(
    self: Any, histories: Any, offsets: Any, items: Any, *, run: Any = None, index: Any = None
) -> Any:
    """Of the same cost as probabilities: the features and the trees of the ranker."""
    from zhiyin.ranking.examples import Candidates

    width, m = len(self.sources_), len(items)
    candidates = Candidates(offsets, items, tuple(self.sources_), np.full((m, width), np.nan, np.float32),
                            np.full((m, width), -1, np.int32))  # fmt: skip
    method = "ranker" if self.ranker_ is not None else "rrf"
    scores = self.scored(histories, candidates, run, index, method=method).scores
    return {"click": 0.05 / (1 + np.exp(-np.nan_to_num(scores)))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_market = commands.add_parser("market")
    of_market.add_argument("--seeds", type=int, default=20)
    of_market.add_argument("--demand", type=float, default=0.5)
    of_market.add_argument("--second", action="store_true", help="second price for p × bid")
    of_latency = commands.add_parser("latency")
    of_latency.add_argument("--ads", type=int, default=500)
    of_latency.add_argument("--requests", type=int, default=1_000)
    options = parser.parse_args()
    if options.command == "market":
        market(options.seeds, options.demand, options.second)
    else:
        latency(options.ads, options.requests)


if __name__ == "__main__":
    main()
