"""The whole loop through HTTP: a placement with a policy, clicks that name their list, what is learned, other lists."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from zhiyin.cli.film_shop_service import FilmShopService, ServedFilmShop
from zhiyin.cli.learning_scene import learning_placement
from zhiyin.cli.main import app
from zhiyin.client import Client
from zhiyin.policies.simulators.film_shop import DAY
from zhiyin.policies.simulators.opened_film_shop import OpenedFilmShop
from zhiyin.policies.simulators.shop_visitors import VisitLog, VisitSettings

SETTINGS = VisitSettings(visits=300, concurrent=15, k=5, purchase_delay=3600.0, seed=1)


async def visits(
    service: FilmShopService, folder: Path, opened: OpenedFilmShop, placement: dict[str, Any], check: Any = None
) -> VisitLog:
    """Visits to a copy of the service; `check(shop, log)` is awaited at their end."""
    async with service.copy(folder).serving(opened) as shop:
        await shop.client.put_placement("home", placement)
        log = await shop.visit(SETTINGS, "home")
        if check is not None:
            await check(shop, log)
        return log


def test_a_placement_learns_from_clicks_and_shows_better_lists(
    film_shop: FilmShopService, opened: OpenedFilmShop, tmp_path: Path
) -> None:
    async def check(shop: ServedFilmShop, log: VisitLog) -> None:
        shop.clock.now += 7 * DAY  # all windows end
        store = shop.tenant.store
        wait_for(lambda: shop.learn() or store.open_decision_count("home") == shop.tenant.traces.waiting == 0)
        # Every reward that visitors gave is counted once.
        closed = store.closed_decisions("home", 0, 1_000)
        assert sorted(one.trace.list_id for one in closed) == sorted(log.list_ids)
        rewards = {one.trace.list_id: sum(one.rewards) for one in closed}
        assert [rewards[name] for name in log.list_ids] == log.rewards.tolist()
        policy = await shop.client.get_policy("home")
        assert policy["snapshot"] == store.newest_policy_states()["home"]
        state = store.policy_state("home")
        assert state is not None
        assert (state.info["n_decisions"], state.info["n_outcomes"]) == (len(log), 5 * len(log))

    static = asyncio.run(visits(film_shop, tmp_path / "static", opened, {"k": 5}))
    placement = learning_placement() | {"k": 5}
    placement["policy"] |= {"window": "2d"}
    learned = asyncio.run(visits(film_shop, tmp_path / "learning", opened, placement, check))
    assert np.array_equal(static.users, learned.users)
    assert not static.explored.any()
    assert 0 < learned.explored.mean() < 0.3  # at most a fifth is expected
    later = slice(len(learned) // 3, None)
    assert learned.values[later].mean() > 3 * static.values[later].mean()


@contextlib.contextmanager
def serving(folder: Path, key: str, *options: str) -> Iterator[tuple[str, Client]]:
    """`zhiyin serve` in a folder: its address, and a client."""
    log = folder / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "zhiyin", "serve", "--port", "0", *options], cwd=folder, stdout=output,
            stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        wait_for(lambda: process.poll() is not None or re.search(r"at (http://\S+?)[,\s]", log.read_text()), 120)
        found = re.search(r"at (http://\S+?)[,\s]", log.read_text())
        assert found, log.read_text()
        with Client(found[1], key, timeout=30) as client:
            wait_for(lambda: is_ready(client), 120)
            yield found[1], client
    finally:
        process.terminate()
        process.wait(30)


def is_ready(client: Client) -> bool:
    with contextlib.suppress(Exception):
        return bool(client.ready()["version"])
    return False


def wait_for(holds: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_two_workers_serve_what_one_learner_has_learned(
    film_shop: FilmShopService, opened: OpenedFilmShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command line: visitors by `zhiyin simulate`, windows of a second, two processes that answer."""
    shop = film_shop.copy(tmp_path / "shop")
    with serving(shop.folder, shop.key, "--workers", "2") as (url, client):
        placement = learning_placement() | {"k": 10}
        placement["policy"] |= {"window": "1s", "update": "1s"}
        client.put_placement("home", placement)
        monkeypatch.setenv("ZHIYIN_KEY", shop.key)
        options = ("--placement", "home", "--visits", "200", "--users", "60", "--items", "80", "--json")
        told = CliRunner().invoke(app, ["simulate", "--url", url, *options])
        assert told.exit_code == 0, told.output
        figures = json.loads(told.stdout)
        assert figures["lists"] == 200
        assert figures["reward"][0] > 0

        def learned() -> bool:
            return bool(client.get_policy("home")["learned"].get("decisions") == 200)

        wait_for(learned)
        # Both workers decide by the newest snapshot: each new connection may be another's.
        newest = client.get_policy("home")["newest_snapshot"]

        def snapshot_of_a_worker() -> int:
            with Client(url, shop.key, timeout=30) as fresh:
                return int(fresh.recommend(user="u0001", placement="home").decision["snapshot"])

        wait_for(lambda: [snapshot_of_a_worker() for _ in range(12)] == [newest] * 12)
