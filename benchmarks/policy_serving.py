"""What a placement's policy adds to a list over HTTP: processor time, and the time until the answer.

    python benchmarks/policy_serving.py                     # 20,000 items, lists of 10 among 50, LinTS of 100 draws
    python benchmarks/policy_serving.py --rounds 60 --kinds lin_ts square_cb beta_bernoulli one_slot

The application is called as a server calls it, without a network, one request after another, in one process. Blocks of
requests to a placement without a policy and to one with each policy take turns, so that what else the machine does
falls on all of them alike. Counted is the processor time of all threads of a block, the writing of traces with their
decisions included, divided by its requests; and of each request the processor time until its answer and the time on the
clock. Policies have learned from 2,000 outcomes, with features of all items.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from routes import _request

SETTINGS: dict[str, dict[str, Any]] = {
    "lin_ts": {"settings": {"draws": 100}}, "lin_ucb": {}, "square_cb": {}, "beta_bernoulli": {}, "one_slot": {},
}  # fmt: skip
DAY = 86_400_000_000


def prepare(folder: Path, n_items: int, n_users: int) -> None:
    """A shop of two sources, one of them with vectors, whose lists are fused by rank."""
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.data.dataset import Dataset
    from zhiyin.models.als import ALS
    from zhiyin.models.neighbors import ItemKNN
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.pipeline.pipeline import Pipeline

    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(n_users), 20)
    item = np.minimum((n_items * rng.random(len(user)) ** 3).astype(int), n_items - 1)
    events = pl.DataFrame({
        "user": [f"u{n}" for n in user], "item": [f"i{n}" for n in item],
        "time": 19_000 * DAY + rng.integers(0, 60 * DAY, len(user)), "kind": ["view"] * len(user),
    })  # fmt: skip
    items = pl.DataFrame({"id": [f"i{n}" for n in range(n_items)], "price": rng.gamma(2, 20, n_items).round(2)})
    data = Dataset.build(events, items=items)
    knn = ItemKNN().fit(data)
    pipeline = Pipeline.wrapping(knn)
    pipeline.sources_ = {"itemknn": knn, "als": ALS(factors=32, epochs=3).fit(data)}  # type: ignore[misc]
    pipeline.sources = "itemknn; als"
    pipeline.choices_ = dict.fromkeys(pipeline.choices_, "rrf")  # type: ignore[misc]
    bundles = Bundles(folder / "models" / "bundles")
    bundles.write(pipeline, figures={}, catalogue=Catalogue.of(data))
    bundles.promote(1)
    (folder / "zhiyin.toml").write_text('[train]\noutput = "models"\n[service]\nrate = 0\nbudget = 60000\n')


def learn(shop: Any, names: dict[str, str]) -> None:
    """Write a snapshot of each policy, of 2,000 outcomes.

    names: kind by placement.
    """
    from zhiyin.pipeline.item_statistics import ItemStatistics
    from zhiyin.pipeline.list_features import ListFeatures
    from zhiyin.pipeline.policy_kinds import make_policy
    from zhiyin.pipeline.policy_snapshot import snapshot_arrays
    from zhiyin.policies.action_sets import Outcomes, action_keys
    from zhiyin.service.policy_serving import Layout

    rng, n = np.random.default_rng(1), 2_000
    features = ListFeatures.of(shop.live.view().answers)
    layout, keys = Layout.of(features), action_keys([f"i{n}" for n in range(n)])
    x = rng.normal(size=(n, len(features.names))) / 4
    x[:, 0] = 1.0
    rewards = (rng.random(n) < 0.1).astype(float)
    for name, kind in names.items():
        policy = make_policy(kind, SETTINGS[kind].get("settings", {}))
        if policy is None:
            continue
        statistics = ItemStatistics()
        statistics.update(keys, np.arange(n) % 10, rewards)
        policy.update(Outcomes(keys, rewards, x))
        info = {"kind": type(policy).__name__, "settings": policy.get_params(), "layout": layout.digest,
                "version_free": layout.version_free, "vectors": layout.vectors, "n_updates": n}  # fmt: skip
        shop.store.put_policy_state(name, 1, snapshot_arrays(policy, statistics), info)
    shop.policies.refresh()


async def measure(app: Any, key: str, placements: list[str], n_users: int, rounds: int, block: int) -> dict[str, Any]:
    """Processor seconds of a request, by round, and until each answer, and seconds until each answer; by placement."""
    processor: dict[str, list[float]] = {name: [] for name in placements}
    alone: dict[str, list[float]] = {name: [] for name in placements}
    clock: dict[str, list[float]] = {name: [] for name in placements}
    rng = np.random.default_rng(2)
    for round in range(-2, rounds):  # the first two warm up
        users = rng.integers(0, n_users, block)
        for name in rng.permutation(placements).tolist():
            bodies = [json.dumps({"user": f"u{n}", "placement": name}).encode() for n in users]
            started, seconds, processor_seconds = time.process_time(), [], []
            for body in bodies:
                begun, processor_begun = time.perf_counter(), time.process_time()
                await _request(app, "/v1/recommendations", body, key)
                processor_seconds.append(time.process_time() - processor_begun)
                seconds.append(time.perf_counter() - begun)
            while app.state.authenticator.tenants[0].traces.waiting:  # its traces are part of what it costs
                await asyncio.sleep(0.005)
            if round >= 0:
                processor[name].append((time.process_time() - started) / block)
                clock[name] += seconds
                alone[name] += processor_seconds
    return {"processor": processor, "alone": alone, "clock": clock}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(SETTINGS), default=["lin_ts", "square_cb", "one_slot"])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--shortlist", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--block", type=int, default=50, help="requests of a placement in a row")
    options = parser.parse_args()
    from zhiyin.service.app import create_app
    from zhiyin.service.tenant import Tenant

    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options.items, options.users)
        shop, keys = Tenant.open(Path(folder) / "zhiyin.toml")
        try:
            answers = shop.live.view().answers
            shop.placements.put("without", {"k": options.k}, answers)
            names = {kind: kind for kind in options.kinds}
            for name, kind in names.items():
                policy = {"kind": kind, "mode": "online", "shortlist": options.shortlist} | SETTINGS[kind]
                shop.placements.put(name, {"k": options.k, "policy": policy}, answers)
            learn(shop, names)
            app = create_app([shop])
            figures = asyncio.run(
                measure(app, keys["admin"], ["without", *names], options.users, options.rounds, options.block)
            )
        finally:
            shop.close()
    print(f"load {os.getloadavg()[0]:.1f}; {options.items:,} items, lists of {options.k} among {options.shortlist}")
    plain = {name: np.array(values["without"]) for name, values in figures.items()}
    for name in ["without", *names]:
        processor, alone, clock = (1e3 * np.array(figures[part][name]) for part in ("processor", "alone", "clock"))
        print(
            f"{name}: {np.median(processor):.2f} ms of processor time; p50 {np.median(clock):.2f} ms, p99 "
            f"{np.quantile(clock, 0.99):.2f} ms, of processor time alone {np.quantile(alone, 0.99):.2f} ms"
        )
        if name != "without":
            added = processor - 1e3 * plain["processor"]
            low, high = np.quantile(added, [0.25, 0.75])
            p99 = np.quantile(alone, 0.99) - np.quantile(1e3 * plain["alone"], 0.99)
            print(
                f"    adds {np.median(added):.2f} ms of processor time (median of rounds, quartiles {low:.2f} to "
                f"{high:.2f}), {p99:.2f} ms to its p99"
            )


if __name__ == "__main__":
    main()
