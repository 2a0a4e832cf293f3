"""The loop closed through HTTP: simulated users of a film shop click, a placement learns, and its lists become better.

    python benchmarks/loop.py reward --seeds 20
    python benchmarks/loop.py guarded --seeds 20
    python benchmarks/loop.py whatif --seeds 100 --visits 2000 --no-socket

Each seed is a shop of its own: 300 users, 300 films, 60 days of log, then 30 days that are lived. The service gets the
catalogue, the users and the log over HTTP, trains from its store, and is then asked for lists while tastes turn and new
films come. Arms of one seed start from the same store and version, and meet the same visitors with the same luck, so
that differences are paired. Intervals are Student's over the seeds.

The service lives simulated days (`SimulatedClock`), so windows are hours and a seed takes seconds. Settings were chosen
on seeds from 1,000 on (`--first 1000`); the figures of docs/benchmarks.md are of seeds from 0 on.

`reward`: a static placement and a learning one, by a socket. `guarded`: the reward model's sign is flipped as it
learns. `whatif`: a quarter of the visits to learn, half to log lists of which 50 % may explore, with what was learned
frozen; the estimate of what 2 % would bring; and a quarter after the switch to that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.cli.film_shop_service import FilmShopService, ServedFilmShop, small_shop
from zhiyin.cli.learning_scene import learning_placement
from zhiyin.core.run import Run
from zhiyin.evaluation.significance import mean_interval
from zhiyin.policies.action_sets import Outcomes
from zhiyin.policies.linear_policy import LinearPolicy
from zhiyin.policies.registry import POLICY_REGISTRY
from zhiyin.policies.simulators.film_shop import DAY
from zhiyin.policies.simulators.opened_film_shop import OpenedFilmShop
from zhiyin.policies.simulators.shop_visitors import VisitLog, VisitSettings

BEFORE, AFTER = 60, 30
PURCHASE_DELAY = 3 * 3600.0


def opened_shop(seed: int) -> OpenedFilmShop:
    """The shop of a seed. It opens so many days ago that its last day is yesterday."""
    moment = int(time.time() * 1e6) // DAY * DAY - (AFTER + 1) * DAY
    return OpenedFilmShop(small_shop(seed, before=BEFORE, after=AFTER), BEFORE, moment)


def visit_settings(given: argparse.Namespace, seed: int, visits: int | None = None) -> VisitSettings:
    return VisitSettings(
        visits=visits or given.visits, concurrent=given.concurrent, purchase_delay=PURCHASE_DELAY, seed=seed
    )


async def visits_of(
    service: FilmShopService,
    opened: OpenedFilmShop,
    settings: VisitSettings,
    placement: dict[str, Any] | None,
    *,
    socket: bool,
) -> VisitLog:
    """Visits to a copy of the service with this placement; None: the static one."""
    with tempfile.TemporaryDirectory() as folder:
        arm = service.copy(Path(folder) / "arm")
        async with arm.serving(opened, socket=socket) as shop:
            await shop.client.put_placement("home", placement or {"k": settings.k})
            return await shop.visit(settings, "home", Run(progress=False))


def print_interval(name: str, values: Any, unit: str = "") -> None:
    mean, low, high = mean_interval(np.asarray(values))
    print(f"{name:44s} {mean:9.3f}   [{low:.3f}, {high:.3f}]{unit}", flush=True)


def of_log(log: VisitLog) -> dict[str, float]:
    """The figures of a seed's arm."""
    half = len(log) // 2
    return {
        "reward": float(log.rewards.mean()),
        "expected reward": float(log.values.mean()),
        "expected reward, second half": float(log.values[half:].mean()),
        "regret": float(log.regret.mean()),
        "explored": float(log.explored.mean()),
        "visits to the tenth impression": float(log.visits_to_discovery().mean()),
        "new films with ten impressions": float(np.isfinite(log.discovered_at).mean()),
        "milliseconds": 1e3 * float(np.median(log.seconds)),
    }


# -- a learning placement against a static one ------------------------------------------------------------------------


async def reward(given: argparse.Namespace) -> None:
    rows: list[dict[str, dict[str, float]]] = []
    for seed in range(given.first, given.first + given.seeds):
        begun, opened, settings = time.perf_counter(), opened_shop(seed), visit_settings(given, seed)
        with tempfile.TemporaryDirectory() as folder:
            service = await FilmShopService.create(Path(folder) / "shop", opened)
            learning = learning_placement(given.kind, share=given.share)
            arms = {"static": None, "learning": learning}
            logs = {
                name: await visits_of(service, opened, settings, placement, socket=given.socket)
                for name, placement in arms.items()
            }
        rows.append({name: of_log(log) for name, log in logs.items()})
        static, learned = (rows[-1][name] for name in ("static", "learning"))
        print(
            f"seed {seed}: static {static['expected reward']:.3f}, learning {learned['expected reward']:.3f} "
            f"(second half {learned['expected reward, second half']:.3f}), explored {learned['explored']:.3f}, "
            f"{time.perf_counter() - begun:.0f} s",
            flush=True,
        )
    print(f"\n{len(rows)} seeds, {given.visits} lists of 10 each, {given.kind}, exploration share {given.share}")
    for figure in rows[0]["static"]:
        for name in ("static", "learning"):
            print_interval(f"{figure}, {name}", [row[name][figure] for row in rows])
    for figure in ("reward", "expected reward", "visits to the tenth impression"):
        print_interval(
            f"{figure}, learning - static", [row["learning"][figure] - row["static"][figure] for row in rows]
        )
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1))


# -- a poisoned model in guarded mode ---------------------------------------------------------------------------------


def poison(kind: str) -> str:
    """Register a policy that learns the opposite of its rewards; its name. Only here, in this process."""
    base: type[LinearPolicy] = POLICY_REGISTRY.class_of(kind.replace("_", ""))  # type: ignore[assignment]

    class Poisoned(base):  # type: ignore[misc, valid-type]
        def _update(self, outcomes: Outcomes) -> None:
            super()._update(Outcomes(outcomes.actions, -outcomes.rewards, outcomes.features))

    Poisoned.__name__ = Poisoned.__qualname__ = f"Poisoned{base.__name__}"
    POLICY_REGISTRY.register(Poisoned)
    return Poisoned.__name__


async def guarded(given: argparse.Namespace) -> None:
    poisoned = poison(given.kind)
    rows: list[dict[str, float]] = []
    for seed in range(given.first, given.first + given.seeds):
        begun, opened, settings = time.perf_counter(), opened_shop(seed), visit_settings(given, seed)
        with tempfile.TemporaryDirectory() as folder:
            service = await FilmShopService.create(Path(folder) / "shop", opened)
            arms = {
                "static": None,
                "poisoned, guarded": learning_placement(poisoned, share=given.share, mode="guarded"),
                "poisoned, online": learning_placement(poisoned, share=given.share),
                "sound, guarded": learning_placement(given.kind, share=given.share, mode="guarded"),
            }
            rows.append({
                name: float((await visits_of(service, opened, settings, placement, socket=given.socket)).values.mean())
                for name, placement in arms.items()
            })  # fmt: skip
        told = ", ".join(f"{name} {value:.3f}" for name, value in rows[-1].items())
        print(f"seed {seed}: {told}, {time.perf_counter() - begun:.0f} s", flush=True)
    print(f"\n{len(rows)} seeds, {given.visits} lists of 10 each")
    for name in rows[0]:
        print_interval(f"expected reward, {name}", [row[name] for row in rows])
        if name != "static":
            lost = [100 * (1 - row[name] / row["static"]) for row in rows]
            print_interval(f"lost against static, {name}", lost, " %")


# -- what a log says before the switch --------------------------------------------------------------------------------


async def whatif(given: argparse.Namespace) -> None:
    """Learn; freeze, and log lists of which many explore; ask what few would bring; switch, and measure that."""
    rows = []
    for seed in range(given.first, given.first + given.seeds):
        begun, opened = time.perf_counter(), opened_shop(seed)
        with tempfile.TemporaryDirectory() as folder:
            service = await FilmShopService.create(Path(folder) / "shop", opened)
            async with service.serving(opened, socket=given.socket) as shop:
                rows.append(await estimate_and_measure(shop, given, seed))
        told = ", ".join(f"{name} {value:.3f}" for name, value in rows[-1].items())
        print(f"seed {seed}: {told}, {time.perf_counter() - begun:.0f} s", flush=True)
    answered = [row for row in rows if np.isfinite(row["estimate"])]
    print(f"\n{len(rows)} seeds, {len(answered)} answered by {given.estimator}")
    inside = sum(row["low"] <= row["measured"] <= row["high"] for row in answered)
    print(f"the interval held what was measured in {inside}")
    for name in rows[0]:
        print_interval(name, [row[name] for row in answered])
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1))


async def estimate_and_measure(shop: ServedFilmShop, given: argparse.Namespace, seed: int) -> dict[str, float]:
    """What the log says of the placement that explores little, and what that then brings."""
    settings = VisitSettings(concurrent=given.concurrent, k=5, purchase_reward=0, seed=seed)  # clicks alone
    visitors, part = shop.visitors(settings, "home"), given.visits // 4
    explores, winner = (learning_placement(given.kind, share=share) | {"k": 5} for share in (0.5, 0.02))
    for placement in (explores, winner):
        placement["policy"]["rewards"] = {"view": 1}
    await shop.client.put_placement("home", explores)
    await visitors.run(shop.client, Run(progress=False), visits=part, until=BEFORE + AFTER - 10)
    await shop.client.freeze_policy("home")
    since = shop.clock() + 1
    logged = await visitors.run(shop.client, Run(progress=False), visits=2 * part, until=BEFORE + AFTER - 5)
    shop.clock.now += 2 * DAY  # all windows have ended, and nothing was done in these days
    while shop.tenant.traces.waiting or shop.tenant.store.open_decision_count("home"):
        shop.learn()
    answer = await shop.client.whatif("home", settings=winner, since=since, limit=5_000)
    shop.clock.now -= 2 * DAY
    await shop.client.put_placement("home", winner)
    measured = await visitors.run(shop.client, Run(progress=False), visits=part)
    if given.verbose:
        print(json.dumps(answer, indent=1))
    estimate = next((one for one in answer["estimates"] if one["estimator"] == given.estimator), {})
    return {
        "logged": float(logged.values.mean()),
        **{name: estimate.get(key, np.nan) for name, key in (("estimate", "value"), ("low", "low"), ("high", "high"))},
        "measured": float(measured.values.mean()),
        "explored before": float(logged.explored.mean()),
        "explored after": float(measured.explored.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("reward", "guarded", "whatif"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--visits", type=int, default=3000)
    parser.add_argument("--concurrent", type=int, default=20)
    parser.add_argument("--kind", default="lin_ts")
    parser.add_argument("--share", type=float, default=0.2, help="lists that may differ from the greedy one")
    parser.add_argument("--no-socket", dest="socket", action="store_false", help="the application without a socket")
    parser.add_argument("--estimator", default="rips", help="of the what-if estimates")
    parser.add_argument("--verbose", action="store_true", help="print each what-if answer")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.getLogger("zhiyin").setLevel(logging.ERROR)
    asyncio.run({"reward": reward, "guarded": guarded, "whatif": whatif}[given.what](given))


if __name__ == "__main__":
    main()
