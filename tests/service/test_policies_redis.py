"""Budgets of exploration that several machines count together, by Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("redis")

from .conftest import client_of
from .test_policies import ask, learned, put


def test_machines_count_together(opened: Callable[..., Any], redis_url: str) -> None:
    from zhiyin.store.redis_state import RedisState

    shops = [opened("shop", several=True, state=RedisState(redis_url, "shop")) for _ in range(2)]
    shops[1].shown = shops[0].shown
    one, two = map(client_of, shops)
    put(one, exploration={"share": 1.0, "user_per_day": 3})
    decisions = [ask(client)["decision"] for _ in range(8) for client in (one, two)]
    assert sum(decision["explored"] for decision in decisions) == 3
    assert {decision["reason"] for decision in decisions[-2:]} == {"user_budget_spent"}
    one.delete("/v1/users/u2")
    assert not two.live.state.showing_counts("u2")
    put(one, exploration={"share": 1.0, "loss_per_day": 0.5})
    learned(one)
    two.shop.policies.refresh()
    one.shop.policies.loss_of_day("home", 0.5)
    assert ask(one, user="u3")["decision"]["reason"] == "loss_budget_spent"
