"""Two processes on one store, and the job that learns: a click at one changes what both decide by, within seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from zhiyin.service.policy_learning_job import PolicyLearningJob
from zhiyin.store.store import Store

from .conftest import click, eventually
from .test_read_your_writes import KINDS, Pair, addresses, processes, server

__all__ = ["server"]
pytestmark = pytest.mark.slow
POLICY = {"kind": "lin_ts", "mode": "online", "rewards": {"click": 1}, "window": "1s", "update": "1s", "shortlist": 20}


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Pair, str]]:
    folder, settings = tmp_path_factory.mktemp("pair"), addresses(request.param, request)
    lines = [line for line in settings.splitlines() if line.startswith("store")]
    address = lines[0].split('"')[1] if lines else ""
    with processes(home, folder, settings) as made:
        yield made, address or f"sqlite:///{next(folder.glob('**/*.db'))}"


def ask(client: Any, user: str) -> dict[str, Any]:
    answer = client.post("/v1/recommendations", json={"user": user, "placement": "home", "k": 5})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_a_click_at_one_is_learned_for_both(pair: tuple[Pair, str]) -> None:
    (one, two), address = pair
    job = PolicyLearningJob(address)
    store = Store(address)
    try:
        one.put("/v1/placements/home", json={"policy": POLICY}).raise_for_status()
        shown = {}
        for number, client in enumerate((one, two, one, two)):
            body = ask(client, f"u{number}")
            assert body["decision"]["snapshot"] == 0
            shown[body["list_id"]] = body["items"][number]["item"]
            other = (two, one)[number % 2]  # the event comes to another process than the list
            event = {
                "user": f"u{number}",
                "item": body["items"][number]["item"],
                "kind": "click",
                "id": f"click {number}",
            }
            for _ in range(2):  # and is sent again
                click(other, {**event, "list_id": body["list_id"]}).raise_for_status()
        eventually(lambda: all(store.decision_closed(list_id) for list_id in shown), 20.0)
        closed = store.closed_of_lists(list(shown))
        for list_id, item in shown.items():
            rewards = dict(zip(closed[list_id].trace.head["items"], closed[list_id].rewards or (), strict=True))
            assert rewards == {other: float(other == item) for other in rewards}
        eventually(lambda: (state := store.policy_state("home")) is not None and state.info["n_decisions"] == 4)
        number = store.newest_policy_states()["home"]
        for client in (one, two):
            eventually(lambda client=client: ask(client, "later")["decision"]["snapshot"] >= number, 10.0)  # type: ignore[misc]
        proof = store.forget("u1")
        assert proof["decisions removed"] == 1
        eventually(lambda: (state := store.policy_state("home")) is not None and not state.outdated
                   and state.number > number)  # fmt: skip
        assert list(store.closed_of_lists(list(shown))) != list(shown)
    finally:
        job.close()
        store.close()
