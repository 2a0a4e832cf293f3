"""Decisions among a caller's own actions, through HTTP: idempotence, rewards, activation, learning, who may do what."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.docs.markdown import blocks_of
from zhiyin.api.requests import PlacementSettings
from zhiyin.client import ApiError, AsyncClient
from zhiyin.pipeline.whatif import LoggedList
from zhiyin.service.whatif_replay import OtherConfiguration, WhatIfReplay

from .conftest import client_of, eventually
from .learning import Clock, learn
from .running import running

ROOT = Path(__file__).parents[2]

POLICY = {"kind": "lin_ts", "actions": "own", "mode": "online", "window": "10m", "rewards": {"click": 1, "purchase": 5}}
ACTIONS = [{"id": f"a{i}", "features": {"size": i, "colour": ["red", "blue"][i % 2]}} for i in range(5)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def decider(opened: Callable[..., Any], clock: Clock) -> Any:
    """A client of a shop with the decision point "hero"."""
    client = client_of(opened())
    clock.rule(client.store)
    put(client)
    return client


def put(client: Any, name: str = "hero", **policy: Any) -> None:
    answer = client.put(f"/v1/placements/{name}", json={"policy": POLICY | policy})
    assert answer.status_code == 200, answer.text


def decide(client: Any, status: int = 200, **body: Any) -> Any:
    own = {} if "candidates" in body else {"actions": ACTIONS}
    body = {"policy": "hero"} | own | body
    answer = client.post("/v1/decisions", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def reward(client: Any, event_id: str, status: int = 200, **body: Any) -> Any:
    answer = client.post(f"/v1/decisions/{event_id}/reward", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


# -- one decision ------------------------------------------------------------------------------------------------------


def test_a_decision_says_with_what_probability_it_was_made(decider: Any) -> None:
    made = decide(decider, event_id="e1", user="u1", context={"device": "phone"}, excluded=["a3", "nobody"])
    (slot,) = made["slots"]
    ranking = {row["id"]: row["probability"] for row in slot["ranking"]}
    assert (made["event_id"], made["policy"], made["snapshot"], made["mode"]) == ("e1", "hero", 0, "online")
    assert (made["reason"], made["deferred"], slot["id"]) == ("no_snapshot", False, "1")
    assert ranking[slot["action"]] == slot["propensity"]
    assert sum(ranking.values()) == pytest.approx(1, abs=1e-12)
    assert "a3" not in ranking
    assert ranking["a0"] >= 0.8  # the share of exploration is 0.2 at most
    trace = decider.get("/v1/lists/e1").json()
    assert (trace["origin"], trace["placement"], trace["user"]) == ("decision", "hero", "u1")
    assert trace["items"][0] | {"sources": 0, "score": 0} == {
        "item": slot["action"], "propensity": slot["propensity"], "sources": 0, "score": 0,
    }  # fmt: skip
    assert decider.post("/v1/lists/e1/replay").json()["same"] is True


def test_the_same_id_is_the_same_decision_and_another_body_is_refused(decider: Any) -> None:
    body: dict[str, Any] = {"event_id": "e1", "slots": [{"id": "top"}, {"id": "side"}]}
    made = decide(decider, **body)
    assert decide(decider, **body) == made
    put(decider, exploration={"share": 1.0})  # what was decided stays
    assert decide(decider, **body) == made
    for other in ({"context": {"x": 1}}, {"excluded": ["a1"]}, {"defer": True}, {"user": "u1"}):
        refusal = decide(decider, 409, **body | other)
        assert refusal["field"] == "event_id"
    assert len(decider.store.traces()) == 1
    fresh = {decide(decider)["event_id"] for _ in range(2)}
    assert len(fresh) == 2


def test_two_workers_that_decide_at_once_answer_with_one_decision(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds nothing stored when it begins, and has other settings."""
    shops = [opened("shop", several=True) for _ in range(2)]
    shops[1].shown = shops[0].shown
    first, second = map(client_of, shops)
    for number in range(3):
        put(first, exploration={"share": 1.0}, mode="online")
        body = {"event_id": f"e{number}", "context": {"n": number}}
        made = decide(first, **body)
        put(second, mode="shadow")
        with monkeypatch.context() as patch:
            patch.setattr(shops[1].traces, "find", lambda list_id: None)
            assert decide(second, **body) == made
            decide(second, 409, **body | {"defer": True})
        assert reward(second, made["event_id"], value=1.0)["status"] == "accepted"
    assert made["mode"] == "online"
    made = decide(first)  # an id of the service: it is written a moment later, and waited for
    assert reward(second, made["event_id"], value=1.0)["status"] == "accepted"
    reward(second, "nobody", 404, value=1.0)


def test_slots_are_filled_without_repeats_and_keep_their_own_exclusions(decider: Any) -> None:
    put(decider, exploration={"share": 1.0})
    slots = [
        {"id": "top", "baseline": "a2", "features": {"width": 3}},
        {"id": "side", "excluded": ["a0", "a1"]},
        {"id": "foot"},
    ]
    for number in range(20):
        made = decide(decider, event_id=f"e{number}", slots=slots)
        chosen = [slot["action"] for slot in made["slots"]]
        assert [slot["id"] for slot in made["slots"]] == ["top", "side", "foot"]
        assert len(set(chosen)) == 3
        assert chosen[1] not in ("a0", "a1")
        for place, slot in enumerate(made["slots"]):
            assert not {row["id"] for row in slot["ranking"]} & set(chosen[:place])
    put(decider, mode="shadow")
    made = decide(decider, slots=slots)
    assert [slot["action"] for slot in made["slots"]] == ["a2", "a3", "a0"]
    assert [slot["propensity"] for slot in made["slots"]] == [1.0] * 3
    # More slots than actions: what is left without one says so.
    made = decide(decider, event_id="few", actions=ACTIONS[:1], slots=[{"id": "x"}, {"id": "y"}])
    assert [slot["action"] for slot in made["slots"]] == ["a0", None]
    assert made["slots"][1] == {"id": "y", "action": None, "propensity": None, "ranking": []}
    assert decide(decider, event_id="few", actions=ACTIONS[:1], slots=[{"id": "x"}, {"id": "y"}]) == made


def test_candidates_are_the_list_of_a_placement(decider: Any) -> None:
    decider.put("/v1/placements/shelf", json={"filter": "price > 10"})
    listed = decider.post("/v1/recommendations", json={"user": "u2", "placement": "shelf", "k": 6}).json()["items"]
    put(decider, mode="shadow")
    made = decide(
        decider, event_id="c", user="u2", candidates={"k": 6, "placement": "shelf"}, slots=[{"id": "x"}, {"id": "y"}]
    )
    assert [slot["action"] for slot in made["slots"]] == [row["item"] for row in listed[:2]]
    put(decider, exploration={"share": 1.0})
    ids = {row["item"] for row in listed}
    made = decide(decider, event_id="d", user="u2", candidates={"k": 6, "placement": "shelf"})
    assert {row["id"] for row in made["slots"][0]["ranking"]} <= ids
    assert decide(decider, event_id="d", user="u2", candidates={"k": 6, "placement": "shelf"}) == made
    assert decider.post("/v1/lists/d/replay").json()["same"] is True
    nothing = decide(decider, 422, candidates={"filter": "price > 1000"})
    assert "is empty" in nothing["error"]


def test_lists_of_a_decision_point_are_made_without_its_policy(decider: Any) -> None:
    made = decider.post("/v1/recommendations", json={"user": "u1", "placement": "hero"}).json()
    trace = decider.shop.traces.find(made["list_id"])
    assert "decision" not in trace.head
    put(decider, "home", actions="items")
    decider.put("/v1/placements/plain", json={"k": 3})
    for name, what in (("home", "decides lists of items"), ("plain", "has no policy")):
        refusal = decide(decider, 422, policy=name)
        assert what in refusal["error"]
        assert refusal["field"] == "policy"
    decide(decider, 404, policy="nowhere")
    refusal = decider.put("/v1/placements/hero", json={"policy": POLICY | {"kind": "one_slot"}})
    assert (refusal.status_code, refusal.json()["field"]) == (400, "policy.kind")


def test_the_clients_and_the_example_of_the_document(decider: Any) -> None:
    pytest.importorskip("uvicorn")
    (block,) = [one for one in blocks_of(ROOT / "docs/decisions.md", ROOT) if one.lang == "python"]
    with running(decider.app) as url:
        exec(block.text.replace("http://127.0.0.1:8000", url), {"KEY": decider.keys["admin"]})  # noqa: S102
        (trace,) = decider.store.traces("alice")
        assert decider.store.reported_rewards_of([trace.list_id])["value"].to_list() == [1.0]

        async def ask() -> None:
            async with AsyncClient(url, decider.keys["admin"]) as shop:
                made = await shop.decide("hero", ["a", "b"], slots=["x", {"id": "y", "baseline": "a"}], defer=True)
                assert [slot.id for slot in made.slots] == ["x", "y"]
                assert dict(made.slots[0].ranking)[made.action or ""] == made.slots[0].propensity
                assert (await shop.activate(made.event_id)).status == "activated"
                first, again = [await shop.reward(made.event_id, slots={"y": 2.0}, id="r") for _ in range(2)]
                assert (first.status, again.status, first.late) == ("accepted", "known", False)
                with pytest.raises(ApiError, match="has 2 slots"):
                    await shop.reward(made.event_id, 1.0)

        asyncio.run(ask())


# -- rewards -----------------------------------------------------------------------------------------------------------


def test_rewards_are_joined_to_their_slots_once(decider: Any, clock: Clock) -> None:
    slots = [{"id": "top"}, {"id": "side"}]
    decide(decider, event_id="e1", slots=slots)
    earned = {"id": "r1", "name": "click", "time": 100_000_000_000_000}
    assert reward(decider, "e1", slots=[{"id": "side", "value": 2.5}], **earned) == {
        "event_id": "e1", "status": "accepted", "late": False,
    }  # fmt: skip
    assert reward(decider, "e1", slots=[{"id": "side", "value": 2.5}], id="r1")["status"] == "known"
    assert (
        reward(decider, "e1", slots=[{"id": "side", "value": 1}, {"id": "top", "value": -1}], id="r2")["status"]
        == "accepted"
    )
    events = [
        {
            "user": "u1",
            "item": decide(decider, event_id="e2", user="u1")["slots"][0]["action"],
            "kind": "purchase",
            "list_id": "e2",
        }
    ]
    assert decider.post("/v1/events", json={"events": events}).json()["rejected"] == 0
    decide(decider, event_id="e3")
    clock.pass_seconds(700)
    learn(decider)
    closed = decider.store.closed_of_lists(["e1", "e2", "e3"])
    assert {id: one.rewards for id, one in closed.items()} == {"e1": [-1.0, 3.5], "e2": [5.0], "e3": [0.0]}
    late = reward(decider, "e3", value=1.0)
    assert late == {"event_id": "e3", "status": "accepted", "late": True}
    learn(decider)
    assert decider.store.closed_of_lists(["e3"])["e3"].rewards == [0.0]
    decider.delete("/v1/placements/hero")  # what was decided by then is rewarded all the same
    assert reward(decider, "e2", value=1.0)["late"] is True


def test_a_deferred_decision_is_learned_once_it_is_activated(decider: Any, clock: Clock) -> None:
    for id in ("shown", "never"):
        assert decide(decider, event_id=id, defer=True)["deferred"] is True
        reward(decider, id, value=1.0)
    activate = "/v1/decisions/shown/activate"
    assert decider.post(activate).json() == {"event_id": "shown", "status": "activated", "late": False}
    assert decider.post(activate).json()["status"] == "known"
    clock.pass_seconds(700)
    learn(decider)
    closed = decider.store.closed_of_lists(["shown", "never"])
    assert {id: one.rewards for id, one in closed.items()} == {"shown": [1.0], "never": None}
    assert decider.post("/v1/decisions/never/activate").json()["late"] is True
    assert decider.post("/v1/decisions/nobody/activate").status_code == 404


def test_lists_that_a_policy_decided_take_reported_rewards(decider: Any, clock: Clock) -> None:
    put(decider, "home", actions="items", mode="shadow")
    list_id = decider.post("/v1/recommendations", json={"user": "u1", "placement": "home", "k": 3}).json()["list_id"]
    plain = decider.post("/v1/recommendations", json={"user": "u1", "k": 3}).json()["list_id"]
    assert reward(decider, list_id, slots=[{"id": "2", "value": 4.0}])["status"] == "accepted"
    refusal = reward(decider, list_id, 422, slots=[{"id": "4", "value": 4.0}])
    assert "has no slot" in refusal["error"]
    assert refusal["remedy"] == "its 3 slots: '1', '2', '3'"
    assert reward(decider, list_id, 422, value=1.0)["field"] == "value"
    refusal = reward(decider, plain, 404, value=1.0)
    assert "was not decided by a policy" in refusal["error"]
    assert "'default'" in refusal["remedy"]
    assert decider.post(f"/v1/decisions/{list_id}/activate").status_code == 422
    eventually(lambda: decider.store.trace(list_id))
    clock.pass_seconds(700)
    learn(decider)
    assert decider.store.closed_of_lists([list_id])[list_id].rewards == [0.0, 4.0, 0.0]


# -- learning ----------------------------------------------------------------------------------------------------------


def test_the_action_that_is_better_in_a_context_gets_most_of_the_probability(decider: Any, clock: Clock) -> None:
    """a3 is rewarded with 0.9 on phones, 0.05 elsewhere; the other four with 0.2 everywhere."""
    put(decider, exploration={"share": 1.0})
    rng = np.random.default_rng(1)
    for batch in range(4):
        for number in range(40):
            device = ("phone", "desk")[number % 2]
            made = decide(decider, event_id=f"{batch}-{number}", context={"device": device})
            chance = {"phone": 0.9, "desk": 0.05}[device] if made["slots"][0]["action"] == "a3" else 0.2
            reward(decider, made["event_id"], value=float(rng.random() < chance))
        clock.pass_seconds(700)
        assert learn(decider)
    shares = {device: probability(decider, "a3", device) for device in ("phone", "desk")}
    assert shares["phone"] > 0.8
    assert shares["desk"] < 0.35
    made = decide(decider)
    assert made["snapshot"] > 0
    assert (made["mode"], made["reason"]) == ("online", "")


def probability(client: Any, action: str, device: str) -> float:
    """The mean probability of an action in a context over some decisions."""
    every = [decide(client, event_id=f"asked-{device}-{n}", context={"device": device}) for n in range(10)]
    return float(np.mean([
        {row["id"]: row["probability"] for row in one["slots"][0]["ranking"]}.get(action, 0.0) for one in every
    ]))  # fmt: skip


# -- what another policy would have done -------------------------------------------------------------------------------


def logged(client: Any, other: OtherConfiguration, name: str = "hero") -> list[LoggedList]:
    replay = WhatIfReplay(client.live, client.shop.placements, other)
    made = [replay.logged_list(decision) for decision in client.store.closed_decisions(name)]
    assert not [one for one in made if isinstance(one, str)], made
    return made  # type: ignore[return-value]


def of_policy(**policy: Any) -> OtherConfiguration:
    setting = PlacementSettings.model_validate({"policy": POLICY | policy})
    return OtherConfiguration("another", placements={"hero": setting})


@pytest.mark.parametrize("policy", [{}, {"mode": "apprentice", "randomisation": 0.4}, {"mode": "shadow"}])
def test_the_same_policy_would_have_decided_by_the_logged_probabilities(
    decider: Any, clock: Clock, policy: dict[str, Any]
) -> None:
    put(decider, exploration={"share": 0.7, "slot_shares": {"2": 0.5}}, **policy)
    slots = [{"id": "top", "baseline": "a2"}, {"id": "side", "excluded": ["a0"]}, {"id": "foot"}]
    for round in range(2):  # the second by what was learned of the first
        for number in range(8):
            body = {"slots": slots, "actions": ACTIONS[:2]} if number == 7 else {"slots": slots if number % 2 else None}
            body = body | {"slots": slots[1:]} if number == 7 else body
            made = decide(decider, event_id=f"{round}-{number}", context={"n": number % 3}, excluded=["a3"], **body)
            first = made["slots"][0]["id"]
            reward(decider, made["event_id"], slots=[{"id": first, "value": float(number % 2)}])
        clock.pass_seconds(700)
        assert learn(decider)
    for one in logged(decider, OtherConfiguration("the same", snapshot="logged")):
        assert (one.target_probabilities == one.propensities).all()


def test_a_greedy_policy_and_the_baseline_would_have_given_what_they_give(decider: Any, clock: Clock) -> None:
    put(decider, exploration={"share": 1.0})
    made = [decide(decider, event_id=f"e{n}") for n in range(12)]
    clock.pass_seconds(700)
    learn(decider)
    chosen = [one["slots"][0]["action"] for one in made]
    assert len(set(chosen)) > 1
    for other in (of_policy(mode="shadow"), of_policy(exploration={"share": 0.0})):
        asked = logged(decider, dataclasses.replace(other, snapshot=0))
        # Nothing was learned: the first action is the baseline, and the best of equals.
        assert [one.target_probabilities.tolist() for one in asked] == [[float(id == "a0")] for id in chosen]


def test_a_policy_without_features_is_asked_again_by_what_it_has_learned(decider: Any, clock: Clock) -> None:
    for name, actions in (("hero", "own"), ("home", "items")):
        put(decider, name, kind="beta_bernoulli", actions=actions, exploration={"share": 0.9})
    for round in range(2):
        for number in range(6):
            reward(decider, decide(decider, event_id=f"{round}-{number}")["event_id"], value=1.0)
            ask = {"user": f"u{number}", "placement": "home", "k": 3}
            list_id = decider.post("/v1/recommendations", json=ask).json()["list_id"]
            reward(decider, list_id, slots=[{"id": "2", "value": 1.0}])
            eventually(lambda list_id=list_id: decider.store.trace(list_id))
        clock.pass_seconds(700)
        assert learn(decider)
    for name in ("hero", "home"):
        every = logged(decider, OtherConfiguration("the same", snapshot="logged"), name)
        assert len(every) == 12
        for one in every:
            assert (one.target_probabilities == one.propensities).all()


# -- who may do what ---------------------------------------------------------------------------------------------------


def token(client: Any, **whom: Any) -> dict[str, str]:
    answer = client.post("/v1/tokens", json=whom)
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def test_scopes_and_page_tokens(decider: Any) -> None:
    keys, body = decider.shop.shown, {"policy": "hero", "actions": ACTIONS, "event_id": "mine"}

    def ask(headers: dict[str, str], path: str, said: Any = None) -> Any:
        return decider.post(path, json=said, headers=headers)

    read, events = ({"Authorization": f"Bearer {keys[scope]}"} for scope in ("read", "events"))
    assert ask(read, "/v1/decisions", body).status_code == 200
    assert ask(events, "/v1/decisions", body).status_code == 403
    assert ask(read, "/v1/decisions/mine/reward", {"value": 1}).status_code == 403
    assert ask(events, "/v1/decisions/mine/reward", {"value": 1}).status_code == 200
    alice, bob = token(decider, user="alice"), token(decider, user="bob")
    made = ask(alice, "/v1/decisions", body).json()
    assert made["event_id"] != "mine"  # a page's ids are of its own user
    assert ask(alice, "/v1/decisions", body).json() == made
    assert ask(bob, "/v1/decisions", body).json()["event_id"] != made["event_id"]
    assert ask(alice, "/v1/decisions", body | {"user": "bob"}).status_code == 403
    for path, said in (("reward", {"value": 1}), ("activate", None)):
        assert ask(bob, f"/v1/decisions/{made['event_id']}/{path}", said).status_code == 403
        assert ask(bob, f"/v1/decisions/mine/{path}", said).status_code == 403  # nobody's own
        assert ask(alice, f"/v1/decisions/{made['event_id']}/{path}", said).status_code == 200


def test_a_visitor_speaks_of_own_lists_and_of_those_of_nobody_whose_ids_cannot_be_guessed(
    decider: Any, clock: Clock
) -> None:
    """By events, rewards, impressions and activations alike."""
    put(decider, "home", actions="items")
    alice = token(decider, user="alice")
    ask = {"placement": "home", "k": 3}
    lists = [decider.post("/v1/recommendations", json=ask | whom).json() for whom in ({"user": "bob"}, {})]
    decide(decider, event_id="chosen", defer=True)
    decide(decider, event_id="e7", user="alice")
    ids = {"nobody's": decide(decider)["event_id"], "chosen": "chosen", "list": lists[1]["list_id"],
           "bob's": lists[0]["list_id"], "alice's": "e7", "unknown": "made-up"}  # fmt: skip
    items = dict.fromkeys(ids, "a0") | {"list": lists[1]["items"][0]["item"], "bob's": lists[0]["items"][0]["item"]}

    def statuses(name: str) -> set[int]:
        event = {"user": "alice", "item": items[name], "kind": "click", "list_id": ids[name]}
        rewarded = {"slots": [{"id": "1", "value": 1.0}]}
        asked = [("/v1/events", {"events": [event]}), (f"/v1/decisions/{ids[name]}/reward", rewarded),
                 (f"/v1/impressions/{ids[name]}", {"items": []})]  # fmt: skip
        if name == "chosen":
            asked.append(("/v1/decisions/chosen/activate", None))
        return {decider.post(path, json=body, headers=alice).status_code for path, body in asked}

    assert {name: statuses(name) for name in ids} == {
        "nobody's": {200}, "chosen": {403}, "list": {200}, "bob's": {403}, "alice's": {200}, "unknown": {403, 404},
    }  # fmt: skip
    # An event that came before its decision, from a page that guessed the id.
    decide(decider, event_id="made-up", actions=ACTIONS[:1])
    clock.pass_seconds(700)
    learn(decider)
    assert decider.store.closed_of_lists(["made-up"])["made-up"].rewards == [0.0]


def test_ids_of_the_services_own_lists_are_no_event_ids(decider: Any) -> None:
    list_id = decider.post("/v1/recommendations", json={"user": "u1", "k": 3}).json()["list_id"]
    refusal = decide(decider, 422, event_id=list_id)
    assert refusal["field"] == "event_id"
    assert refusal["remedy"]
    eventually(lambda: decider.store.trace(list_id))
    assert decider.get(f"/v1/lists/{list_id}").json()["origin"] == "recommendations"
    trace = decider.store.trace(list_id)
    decider.store.append_traces([dataclasses.replace(trace, list_id="imported")])
    assert "a list of this id" in decide(decider, 409, event_id="imported")["error"]
    decider.shop.traces.put(dataclasses.replace(trace, list_id="queued"))
    assert "a list of this id" in decide(decider, 409, event_id="queued")["error"]


def test_forgetting_takes_back_what_a_user_earned_for_decisions_of_nobody(decider: Any, clock: Clock) -> None:
    owners: dict[str, dict[str, str]] = {"nobody": {}, "session": {"session": "s1"}, "bob": {"user": "bob"}}
    for event_id, whom in owners.items():
        action = decide(decider, event_id=event_id, **whom)["slots"][0]["action"]
        event = {"user": "alice", "item": action, "kind": "purchase", "list_id": event_id}
        assert decider.post("/v1/events", json={"events": [event]}).json()["rejected"] == 0
    clock.pass_seconds(700)
    learn(decider)
    closed = decider.store.closed_of_lists(list(owners))
    assert {id: one.rewards for id, one in closed.items()} == {"nobody": [5.0], "session": [0.0], "bob": [0.0]}
    before = decider.shop.policies.at("hero")
    assert before.info["monitors"]["reward_rate"]["online"][0] == pytest.approx(5 / 3)
    assert before.info["monitors"]["foreign_events"] == 2
    proof = decider.delete("/v1/users/alice").json()["proof"]
    assert (proof["decisions removed"], proof["decisions found"]) == (1, 0)
    learn(decider)
    after = decider.shop.policies.at("hero")
    assert after.snapshot > before.snapshot
    assert after.info["monitors"]["reward_rate"]["online"][0] == 0
    assert after.info["n_decisions"] == 2


def test_what_is_forgotten_with_a_user(decider: Any) -> None:
    decide(decider, event_id="e1", user="u7")
    reward(decider, "e1", value=1.0)
    decider.delete("/v1/users/u7")
    reward(decider, "e1", 404, value=1.0)


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"actions": []}, "actions"), ({"actions": [{"id": "a"}] * 2}, None), ({"actions": None}, None),
        ({"actions": [{"id": f"a{i}"} for i in range(1_001)]}, "actions"),
        ({"candidates": {}, "actions": ACTIONS}, None),
        ({"slots": []}, "slots"), ({"slots": [{"id": "s"}] * 2}, None), ({"baseline": "nobody"}, None),
        ({"slots": [{"id": f"s{i}"} for i in range(51)]}, "slots"), ({"baseline": "a1", "excluded": ["a1"]}, None),
        ({"slots": [{"id": "x", "baseline": "a1"}, {"id": "y", "baseline": "a1"}]}, None), ({"policy": None}, "policy"),
        ({"slots": [{"id": "x"}], "baseline": "a1"}, None), ({"history": ["i1"]}, None), ({"defer": 1}, "defer"),
        ({"excluded": [f"a{i}" for i in range(5)]}, "excluded"), ({"context": {"a": 1e16}}, "context"),
        ({"actions": [{"id": "a", "features": {"a": {"b": {"c": {"d": {"e": 1}}}}}}]}, "actions.0.features"),
        ({"context": {"a": [[1]]}}, "context"), ({"context": 5}, "context"), ({"more": 1}, "more"),
        ({"actions": [{"id": f"a{i}"} for i in range(500)], "slots": [{"id": f"s{i}"} for i in range(50)]}, None),
        ({"actions": [{"id": f"a{i}", "features": {f"f{j}": 1 for j in range(100)}} for i in range(201)]}, None),
        ({"event_id": ""}, "event_id"), ({"event_id": "a" * 257}, "event_id"),
    ],
)  # fmt: skip
def test_a_wrong_request_names_its_field(decider: Any, wrong: dict[str, Any], field: str | None) -> None:
    refusal = decide(decider, 422, **wrong)
    assert refusal["field"] == field
    assert refusal["error"]


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"value": 1, "slots": [{"id": "1", "value": 1}]}, {"value": 1e7}, {"value": "1"}, {"slots": []},
        {"value": True}, {"value": None}, {"slots": [{"id": "1", "value": 1}] * 2}, {"value": 1, "id": ""},
        {"value": 1, "time": 7_000_000_000_000_000}, {"slots": [{"id": "other", "value": 1}]},
        {"value": 1, "name": "x" * 300},
    ],
)  # fmt: skip
def test_a_wrong_reward_is_refused(decider: Any, wrong: dict[str, Any]) -> None:
    decide(decider, event_id="e1")
    reward(decider, "e1", 422, **wrong)
    assert decider.store.reported_rewards_of(["e1"]).is_empty()


def test_the_largest_request_is_answered(decider: Any) -> None:
    put(decider, exploration={"share": 1.0})
    actions = [{"id": f"a{i}", "features": {f"f{j}": i * j for j in range(20)}} for i in range(1_000)]
    made = decide(decider, event_id="large", actions=actions)
    assert decide(decider, event_id="large", actions=actions) == made
    slots = [{"id": f"s{i}"} for i in range(50)]
    made = decide(decider, event_id="wide", actions=[{"id": f"a{i}"} for i in range(400)], slots=slots)
    assert len({slot["action"] for slot in made["slots"]}) == 50


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["a1", "hero", "\ud800", "\x00", "s", "1"]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=6), part, max_size=3), max_leaves=8,
)  # fmt: skip
ACTION = st.fixed_dictionaries({"id": st.sampled_from(["a", "b", "c"]) | ANYTHING}, optional={"features": ANYTHING})
BODIES = st.fixed_dictionaries(
    {"policy": st.just("hero")},
    optional={
        "actions": st.lists(ACTION, max_size=4) | ANYTHING, "slots": st.lists(ACTION, max_size=3) | ANYTHING,
        "context": ANYTHING, "excluded": st.lists(st.sampled_from(["a", "b"])) | ANYTHING, "defer": ANYTHING,
        "baseline": st.sampled_from(["a", "b"]) | ANYTHING, "event_id": st.sampled_from(["e1", "e2"]) | ANYTHING,
        "user": ANYTHING, "candidates": ANYTHING | st.just({"k": 3}), "session": ANYTHING, "history": ANYTHING,
    },
)  # fmt: skip


def test_whatever_is_sent_it_is_answered_or_refused(decider: Any) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(
        BODIES,
        st.fixed_dictionaries({}, optional={"value": ANYTHING, "slots": ANYTHING, "id": ANYTHING, "time": ANYTHING}),
    )
    def ask(body: Any, said: Any) -> None:
        for path, value in (("/v1/decisions", body), ("/v1/decisions/e1/reward", said)):
            content = json.dumps(value).encode("utf-8", "surrogatepass")
            answer = decider.post(path, content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code in (200, 404, 409, 422), answer.text

    ask()
