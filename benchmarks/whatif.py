"""What-if over a shop's own lists: does it foretell what a configuration earns, and how fast are lists replayed?

    python benchmarks/whatif.py winner --seeds 100      # some minutes
    python benchmarks/whatif.py speed --items 20000

`winner`: a shop of 40 items serves 400 lists of two drawn evenly by a policy, and simulated users click. From this log
what-if chooses the better of two filters; then that configuration serves 400 lists of its own. Counted is how often the
interval that was computed before the switch contains what was measured after it, and what is so in truth.
`speed`: lists a second that are replayed with another filter, and with another version, over a larger catalogue.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.api.requests import RecommendRequest
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.data.project_config import ServiceSection
from zhiyin.models.als import ALS
from zhiyin.models.neighbors import ItemKNN
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.whatif import WhatIfResult
from zhiyin.service.key_cache import Keys
from zhiyin.service.serving_state import ServingState
from zhiyin.service.tenant import Tenant
from zhiyin.service.whatif import LogPart, replayed
from zhiyin.service.whatif_replay import OtherConfiguration
from zhiyin.store.decisions import ClosedRow
from zhiyin.store.store import Store

DAY, NOW = 86_400_000_000, 1_700_000_000_000_000
POLICY = {"kind": "epsilon_greedy", "mode": "online", "exploration": {"share": 1.0}}
FILTERS = ("price < 20", "price >= 20")


def shop(n_items: int, n_users: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), 10)
    events = pl.DataFrame({
        "user": np.char.add("u", users.astype(str)), "time": NOW - rng.permutation(len(users)) * DAY // 100,
        "item": np.char.add("i", rng.integers(0, n_items, len(users)).astype(str)), "kind": ["view"] * len(users),
    })  # fmt: skip
    numbers = np.arange(n_items)
    catalogue = pl.DataFrame({"id": np.char.add("i", numbers.astype(str)), "price": numbers * 40.0 / n_items})
    return Dataset.build(events, items=catalogue)


@contextmanager
def opened(folder: Path, data: Dataset, models: list[Any]) -> Iterator[Tenant]:
    """A service in this process over versions of these models, the first one in use."""
    bundles = Bundles(folder / "bundles")
    for model in models:
        bundles.write(model.fit(data), figures={}, catalogue=Catalogue.of(data))
    bundles.promote(1)
    live = ServingState(bundles, Store(folder / "store.db"), watch=False)
    keys, _ = Keys.open(live.store)
    tenant = Tenant("shop", live, keys, ServiceSection(budget=60_000))
    try:
        yield tenant
    finally:
        tenant.close()


def served(tenant: Tenant, n_lists: int, n_users: int, name: str, rates: np.ndarray, rng: np.random.Generator) -> float:
    """Serve lists and close them with simulated clicks; the mean number of clicks per list."""
    lists = [
        tenant.list_service.create(RecommendRequest(user=f"u{rng.integers(n_users)}", placement=name))
        for _ in range(n_lists)
    ]
    while tenant.traces.waiting:
        time.sleep(0.01)
    clicks = []
    rows = []
    for one in lists:
        chances = [rates[int(item[1:])] / (1 + 0.5 * slot) for slot, item in enumerate(one.items)]
        rewards = (rng.random(len(chances)) < chances).astype(float).tolist()
        clicks.append(sum(rewards))
        rows.append(ClosedRow(one.list_id, name, 0, 1, "online", rewards, 1, 0, 0, 0, 0))
    assert tenant.store.close_decisions(rows) == n_lists
    return float(np.mean(clicks))


def other_filter(tenant: Tenant, text: str) -> OtherConfiguration:
    setting = tenant.placements.get("home")[1].model_copy(update={"filter": text})
    return OtherConfiguration(text, placements={"home": setting})


def winner(seeds: int, first: int) -> None:
    measured, true, chosen, widths = [], [], [], []
    begun = time.perf_counter()
    for seed in range(first, first + seeds):
        rng = np.random.default_rng(seed)
        rates = rng.beta(1.0, 6.0, 40) * np.where(np.arange(40) >= 20, 1.2, 0.8)
        with tempfile.TemporaryDirectory() as folder, opened(Path(folder), shop(40, 400, seed), [ItemKNN()]) as tenant:
            answers = tenant.live.view().answers
            settings = {"k": 2, "exclude_seen": False, "policy": POLICY}
            tenant.placements.put("home", settings, answers)
            served(tenant, 400, 400, "home", rates, rng)
            results: list[WhatIfResult] = [
                replayed(tenant.live, tenant.placements, other_filter(tenant, text), LogPart("home"))
                for text in FILTERS
            ]
            values = [-np.inf if one.refusal is not None else one["rips"].value for one in results]
            best = int(np.argmax(values))
            if not np.isfinite(values[best]):
                print(f"seed {seed}: refused: {results[best].refusal}")
                continue
            tenant.placements.put("after", settings | {"filter": FILTERS[best]}, answers)
            after = served(tenant, 400, 400, "after", rates, rng)
            estimate = results[best]["rips"]
            inside = rates[20:] if best else rates[:20]
            truth = inside.mean() * (1 + 1 / 1.5)
            measured.append(estimate.low <= after <= estimate.high)
            true.append(estimate.low <= truth <= estimate.high)
            chosen.append(inside.mean() == max(rates[:20].mean(), rates[20:].mean()))
            widths.append(estimate.high - estimate.low)
        if len(measured) % 10 == 0:
            print(f"{len(measured)} seeds: {sum(measured)} measured inside, {sum(true)} true inside", flush=True)
    print(
        f"{len(measured)} of {seeds} seeds answered, {time.perf_counter() - begun:.0f} s: the interval contains what "
        f"was measured after the switch in {sum(measured)}, what is true in {sum(true)}; the better filter was chosen "
        f"in {sum(chosen)}; mean width {np.mean(widths):.3f} clicks a list"
    )


def speed(n_items: int) -> None:
    data = shop(n_items, 2_000, 0)
    rng = np.random.default_rng(0)
    models = [ALS(factors=32, epochs=3), ItemKNN()]
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), data, models) as tenant:
        settings = {"k": 10, "policy": POLICY | {"kind": "lin_ts", "exploration": {"share": 0.5}}}
        tenant.placements.put("home", settings, tenant.live.view().answers)
        plain = tenant.placements.get("home")[1].model_copy(update={"policy": None})
        served(tenant, 1000, 2_000, "home", rng.uniform(0, 0.1, n_items), rng)
        for words, other in (
            ("the same configuration", OtherConfiguration("same", snapshot="logged")),
            ("another filter", other_filter(tenant, "price < 30")),
            ("no policy", OtherConfiguration("plain", placements={"home": plain})),
            ("another version", OtherConfiguration("version 2", version=2)),
        ):  # fmt: skip
            replayed(tenant.live, tenant.placements, other, LogPart("home", limit=5))  # compiled
            begun = time.perf_counter()
            result = replayed(tenant.live, tenant.placements, other, LogPart("home"))
            seconds = time.perf_counter() - begun
            print(
                f"{n_items:,} items, 1,000 lists of 10, {words}: {1000 / seconds:,.0f} lists/s; {result.n_lists} used"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["winner", "speed"])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--items", type=int, default=20_000)
    options = parser.parse_args()
    if options.what == "winner":
        winner(options.seeds, options.first)
    else:
        speed(options.items)


if __name__ == "__main__":
    main()
