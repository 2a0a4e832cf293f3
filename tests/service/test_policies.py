"""Policies of placements over HTTP: modes, reasons, controls, budgets, what is logged, and replay."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from zhiyin.core.run import Run
from zhiyin.pipeline.decision_record import DecisionRecord, decode_decision
from zhiyin.pipeline.item_statistics import ItemStatistics
from zhiyin.pipeline.list_features import ListFeatures
from zhiyin.pipeline.policy_kinds import make_policy
from zhiyin.pipeline.policy_snapshot import for_version, restored_policy, snapshot_arrays
from zhiyin.pipeline.rules import Rules
from zhiyin.policies.action_sets import ActionSets, Outcomes, action_keys
from zhiyin.policies.linear_policy import LinearPolicy
from zhiyin.policies.policy import Policy
from zhiyin.policies.registry import POLICY_REGISTRY
from zhiyin.policies.reinforce import TopKReinforce
from zhiyin.service.policy_serving import FIRST_GUARDED_SHARE, Layout, unit_interval_hash
from zhiyin.store.decisions import ClosedRow
from zhiyin.store.exploration_ledger import ExplorationLedger
from zhiyin.store.memory_state import DirectState

from .conftest import client_of, eventually, listed

ONLINE = {"kind": "lin_ts", "settings": {"draws": 20}, "mode": "online", "exploration": {"share": 0.9}}


def put(client: Any, name: str = "home", k: int = 8, **policy: Any) -> None:
    answer = client.put(f"/v1/placements/{name}", json={"k": k, "policy": ONLINE | policy})
    assert answer.status_code == 200, answer.text


def ask(client: Any, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/recommendations", json={"placement": "home", "user": "u2"} | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def stored(client: Any, list_id: str) -> Any:
    """The trace of a list as the database has it."""
    eventually(lambda: client.store.trace(list_id) is not None)
    return client.store.trace(list_id)


def record_of(client: Any, list_id: str, stored_trace: Any = None) -> DecisionRecord:
    """The decision of a list, as its trace is handed to the store; of a trace that was stored, as it came back."""
    trace = stored_trace or client.shop.traces.find(list_id)
    record = decode_decision(trace.head, trace.arrays)
    assert record is not None
    return record


def items_of(answer: dict[str, Any]) -> list[str]:
    return [row["item"] for row in answer["items"]]


def control(client: Any, action: str, name: str = "home", status: int = 200, **body: Any) -> dict[str, Any]:
    takes_body = action in ("promote", "rollback")
    answer = client.post(f"/v1/policies/{name}/{action}", **({"json": body} if takes_body else {}))
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def learned(client: Any, name: str = "home", settings: dict[str, Any] | None = None, **info: Any) -> int:
    """Write a snapshot of a policy that likes item i3, as the learner would; its number."""
    setting = client.shop.policies.settings()[name]
    policy = make_policy(setting.kind, setting.settings if settings is None else settings)
    assert policy is not None
    features = ListFeatures.of(client.live.view().answers)
    x = np.zeros((40, len(features.names)))
    x[:, 0], x[:, 2] = 1.0, np.linspace(-2, 2, 40)
    policy.update(Outcomes(action_keys(["i3"] * 40), x[:, 2].copy(), x))
    layout = Layout.of(features)
    facts = {"kind": type(policy).__name__, "settings": policy.get_params(), "layout": layout.digest,
             "version_free": layout.version_free, "vectors": layout.vectors, "n_decisions": 40,
             "n_updates": policy.n_updates}  # fmt: skip
    number = client.store.put_policy_state(name, 1, snapshot_arrays(policy, ItemStatistics()), facts | info)
    client.shop.policies.refresh()
    return int(number)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "status", "words"),
    [
        ({"kind": "lin_tss"}, 400, "LinTS"),
        ({"kind": "lin_ts", "settings": {"drawz": 3}}, 400, "draws"),
        ({"kind": "lin_ts", "settings": {"draws": 0}}, 400, "out of range"),
        ({"kind": "one_slot", "settings": {"draws": 3}}, 400, "no hyperparameter"),
        ({"kind": "lin_ts", "mode": "onlin"}, 422, "policy.mode"),
        ({"kind": "lin_ts", "exploration": {"share": 1.5}}, 422, "policy.exploration.share"),
        ({"kind": "lin_ts", "window": "0s"}, 422, "policy.window"),
        ({"kind": "lin_ts", "rewards": {"click": {"value": 1}}}, 422, "policy.rewards"),
        ({"mode": "online"}, 422, "policy.kind"),
        ({"kind": "lin_ts", "shorlist": 5}, 422, "policy.shorlist"),
        ({"kind": "lin_ts", "mode": "onlin"}, 422, "did you mean 'online'?"),
        ({"kind": "lin_ts", "exploration": {"shar": 0.1}}, 422, "did you mean 'share'?"),
        ({"kind": "lin_ts", "shorlist": 5}, 422, "did you mean 'shortlist'?"),
        ({"kind": "lin_ts", "settings": {"scale": [1]}}, 422, '"error":"policy.settings.scale: it should be a valid'),
        ({"kind": "lin_ts", "rewards": {"watch": "x"}}, 422, "watch: it should be a valid number or an object"),
        ({"kind": "lin_ts", "rewards": {"watch": {"value": 1}}}, 422, '"error":"policy.rewards.watch.value: there'),
        ({"kind": "lin_ts", "rewards": {"watch": 1e9}}, 422, '"error":"policy.rewards.watch: it should be less'),
    ],
)
def test_settings_that_cannot_be_are_refused_and_change_nothing(
    service: Any, policy: dict[str, Any], status: int, words: str
) -> None:
    answer = service.put("/v1/placements/home", json={"policy": policy})
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert not any(part in answer.text for part in ("function-", "constrained", "RewardRule", "functools"))
    assert service.get("/v1/placements/home").status_code == 404


def test_a_policy_without_rewards_is_warned_of(service: Any) -> None:
    answer = service.put("/v1/placements/home", json={"k": 8, "policy": ONLINE}).json()
    assert "policy.rewards is empty" in answer["warnings"][0]
    learned(service, monitors={"reward_rate": {"online": [0.0, 0.0, 0.0]}})
    assert any(issue["what"] == "policy 'home'" for issue in service.get("/ready").json()["set_aside"])
    learned(service, monitors={"reward_rate": {"online": [0.2, 0.1, 0.3]}})
    assert "set_aside" not in service.get("/ready").json()
    rewarded = {"k": 8, "policy": ONLINE | {"rewards": {"click": 1}}}
    assert "warnings" not in service.put("/v1/placements/home", json=rewarded).json()
    assert "warnings" not in service.put("/v1/placements/slot", json={"policy": {"kind": "one_slot"}}).json()


def test_a_misspelt_policy_names_the_nearest_key(service: Any) -> None:
    answer = service.put("/v1/placements/home", json={"polcy": ONLINE}).json()
    assert (answer["field"], answer["remedy"]) == ("polcy", "did you mean 'policy'?")


def test_explore_and_a_policy_do_not_go_together(service: Any) -> None:
    answer = service.put("/v1/placements/home", json={"explore": 0.1, "policy": ONLINE})
    assert answer.status_code == 422
    assert "leave explore out" in answer.text


def test_a_policy_of_the_settings_file(opened: Callable[..., Any], tmp_path: Path) -> None:
    config = tmp_path / "zhiyin.toml"
    config.write_text(
        '[placements.home.policy]\nkind = "lin_ts"\nsettings = { draws = 20 }\nmode = "online"\n'
        "rewards = { click = 1, watch = { reward = 1, value_at_least = 30 } }\n"
        "exploration = { share = 0.2, slot_shares = { 1 = 0.01 } }\n"
        '[placements.bad.policy]\nkind = "lints_"\nsettings = { drawz = 3 }\n'
    )
    client = client_of(opened(config=config))
    assert ask(client)["decision"]["mode"] == "online"
    settings = client.get("/v1/policies/home").json()["settings"]
    assert settings["exploration"]["slot_shares"] == {"1": 0.01}
    assert settings["rewards"]["watch"] == {"reward": 1.0, "value_at_least": 30.0}
    (issue,) = client.get("/ready").json()["set_aside"]
    assert issue["what"] == "[placements.bad]"
    assert "drawz" in issue["reason"]
    assert client.post("/v1/recommendations", json={"placement": "bad"}).status_code == 404


def test_a_policy_that_is_gone_is_a_health_issue(service: Any) -> None:
    POLICY_REGISTRY.register(NotFinite)
    try:
        put(service, "gone", kind="NotFinite", settings={})
    finally:
        del POLICY_REGISTRY._registered["NotFinite"]
    put(service)
    number = learned(service)  # those of other placements go on
    assert ask(service)["decision"]["snapshot"] == number
    service.shop.placements._checked_for = None
    service.shop.placements.update(service.live.view().answers)
    issues = service.get("/ready").json()["set_aside"]
    assert any(issue["what"] == "placement 'gone'" and "NotFinite" in issue["reason"] for issue in issues)


# -- modes -------------------------------------------------------------------------------------------------------------


def test_without_a_policy_nothing_is_decided(service: Any) -> None:
    answer = service.post("/v1/recommendations", json={"user": "u2", "k": 8}).json()
    assert "decision" not in answer
    trace = stored(service, answer["list_id"])
    assert "decision" not in trace.head
    assert not [name for name in trace.arrays if name.startswith("decision") or name == "propensities"]


def test_online_logs_what_was_drawn_bit_for_bit(service: Any) -> None:
    put(service)
    explored = 0
    for user in range(20):
        answer = ask(service, user=f"u{user}")
        trace = stored(service, answer["list_id"]) if user % 5 == 0 else None
        record = record_of(service, answer["list_id"], trace)
        assert answer["decision"] == {"policy": "home", "mode": "online", "snapshot": 0, "explored": record.explored,
                                      "reason": "no_snapshot"}  # fmt: skip
        assert record.pmfs is not None
        assert record.keys is not None
        rows = np.arange(len(record))
        assert record.propensities.tobytes() == record.pmfs[rows, record.chosen].tobytes()
        assert record.prefix.tobytes() == np.cumprod(record.propensities).tobytes()
        assert np.abs(record.pmfs.sum(axis=1) - 1).max() < 1e-9
        assert record.keys[record.chosen].tolist() == action_keys(items_of(answer)).tolist()
        assert record.features is not None
        assert record.features.shape[0] == len(record) == 8
        explored += record.explored
    assert explored > 0


def test_shadow_shows_the_baseline_and_logs_what_the_policy_would_do(service: Any) -> None:
    baseline = listed(service, user="u2", k=8)
    put(service, mode="shadow")
    for _ in range(5):
        answer = ask(service)
        assert items_of(answer) == baseline
        assert answer["decision"]["mode"] == "shadow"
        record = record_of(service, answer["list_id"])
        assert (record.propensities == 1).all()
        assert record.chosen.tolist() == record.baseline.tolist()
        assert record.target is not None
        assert record.target_pmfs is not None
        assert (np.count_nonzero(record.target_pmfs, axis=1) > 1).all()


def test_apprentice_swaps_within_the_first_five_by_a_known_probability(service: Any) -> None:
    baseline = listed(service, user="u2", k=8)
    put(service, mode="apprentice", randomisation=0.5)
    lists = Counter()
    for _ in range(40):
        answer = ask(service)
        items = items_of(answer)
        assert sorted(items[:5]) == sorted(baseline[:5])
        assert items[5:] == baseline[5:]
        record = record_of(service, answer["list_id"])
        assert record.pmfs is not None
        assert record.propensities.tobytes() == record.pmfs[np.arange(8), record.chosen].tobytes()
        assert record.explored == (items != baseline)
        lists[items == baseline] += 1
    assert lists[True]
    assert lists[False]


def test_guarded_gives_the_policy_its_share_of_the_lists(service: Any) -> None:
    put(service, mode="guarded")
    shares = {0: FIRST_GUARDED_SHARE}
    shares[learned(service, guard={"share": 0.5, "difference": [-0.1, 0.1]})] = 0.5
    kinds = Counter()
    for _ in range(60):
        answer = ask(service)
        decision, record = answer["decision"], record_of(service, answer["list_id"])
        is_control = unit_interval_hash(answer["list_id"], "home") >= shares[decision["snapshot"]]
        assert record.info.control == is_control
        assert decision["mode"] == "guarded"
        assert (decision["reason"] == "control") == is_control
        if is_control:
            assert (record.propensities == 1).all()
        assert_logged_by_what_was_drawn(record, items_of(answer))
        kinds[is_control] += 1
    assert min(kinds.values()) > 10
    learned(service, guard={"share": 0.0, "difference": [-0.9, -0.5], "state": "guard"})
    decision = ask(service)["decision"]
    assert (decision["mode"], decision["reason"]) == ("fallback", "guard")


def test_which_lists_a_policy_decides(service: Any) -> None:
    put(service, "default")
    assert "decision" in service.get("/v1/recommendations?user=u2").json()
    assert "decision" in service.get("/v1/items/i4/similar").json()
    assert "decision" not in service.get("/v1/popular").json()
    assert "decision" not in service.get("/v1/trending").json()
    assert "decision" not in service.post("/v1/rank", json={"user": "u2", "items": ["i1", "i2", "i3"]}).json()
    widgets = [{"name": "mine"}, {"name": "top", "kind": "popular"}, {"name": "like", "similar_to": "i4"}]
    page = service.post("/v1/pages", json={"user": "u2", "widgets": widgets}).json()["widgets"]
    assert ["decision" in widget for widget in page] == [True, False, True]
    shown = [row["item"] for widget in page for row in widget["items"]]
    assert len(shown) == len(set(shown))


def test_rules_hold_while_a_policy_explores(service: Any) -> None:
    put(service)
    for user in range(10):
        answer = ask(service, user=f"u{user}", filter="price < 20", pins={"2": "i5"}, exclude=["i4"])
        items = items_of(answer)
        assert items[1] == "i5"
        assert "i4" not in items
        assert all(int(item[1:]) < 20 for item in items)
        record = record_of(service, answer["list_id"])
        assert 1 not in record.slots.tolist()


def test_a_policy_of_own_actions_leaves_lists_alone(service: Any) -> None:
    put(service, actions="own")
    assert "decision" not in ask(service)


def test_one_slot_is_the_old_exploration(service: Any) -> None:
    baseline = listed(service, user="u2", k=8)
    put(service, kind="one_slot", settings={}, exploration={"share": 1.0})
    for _ in range(5):
        answer = ask(service)
        assert answer["decision"]["reason"] == ""
        assert sum(a != b for a, b in zip(items_of(answer), baseline)) >= 1
        assert len(set(items_of(answer)) - set(baseline)) <= 1
    service.put("/v1/placements/old", json={"k": 8, "explore": 1.0})
    old = ask(service, placement="old")
    assert "decision" not in old
    assert len(set(items_of(old)) - set(baseline)) == 1


# -- reasons -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class NotFinite(Policy):
    """A policy whose probabilities are no probabilities."""

    def _probabilities(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> np.ndarray:
        return np.full(len(sets.actions), np.nan)


def test_snapshots_decide_and_a_frozen_policy_keeps_its_own(service: Any) -> None:
    put(service)
    assert ask(service)["decision"]["reason"] == "no_snapshot"
    first = learned(service)
    assert ask(service)["decision"] | {"explored": False} == {
        "policy": "home", "mode": "online", "snapshot": first, "explored": False, "reason": ""
    }  # fmt: skip
    assert control(service, "freeze")["frozen"]
    second = learned(service)
    decision = ask(service)["decision"]
    assert (decision["snapshot"], decision["reason"]) == (first, "frozen")
    summary = service.get("/v1/policies").json()["policies"][0]
    assert (summary["snapshot"], summary["newest_snapshot"], summary["reason"]) == (first, second, "frozen")
    control(service, "unfreeze")
    assert ask(service)["decision"]["snapshot"] == second
    assert control(service, "rollback", snapshot=first)["snapshot"] == first
    assert ask(service)["decision"]["snapshot"] == first
    control(service, "rollback", snapshot=0)
    assert ask(service)["decision"] | {"explored": False} == {
        "policy": "home", "mode": "online", "snapshot": 0, "explored": False, "reason": "frozen"
    }  # fmt: skip
    refused = control(service, "rollback", status=404, snapshot=9_999)
    assert "no snapshot" in refused["error"]


def test_a_snapshot_that_cannot_be_read_leaves_the_one_before(service: Any) -> None:
    put(service)
    store, shop = service.store, service.shop
    info = {"kind": "LinTS", "settings": make_policy("lin_ts", ONLINE["settings"]).get_params()}  # type: ignore[arg-type,union-attr]
    store.put_policy_state("home", 1, {"policy/precision": np.zeros((2, 3)), "policy/response": np.zeros(3)}, info)
    shop.policies.refresh()
    decision = ask(service)["decision"]
    assert (decision["mode"], decision["reason"]) == ("fallback", "invalid_snapshot")
    assert any("snapshot" in issue["what"] for issue in service.get("/ready").json()["set_aside"])
    good = learned(service)
    assert ask(service)["decision"]["reason"] == ""
    store.put_policy_state("home", 2, {"policy/precision": np.zeros((2, 3)), "policy/response": np.zeros(3)}, info)
    shop.policies.refresh()
    decision = ask(service)["decision"]
    assert (decision["mode"], decision["snapshot"], decision["reason"]) == ("online", good, "invalid_snapshot")


def test_a_snapshot_of_other_settings_or_features_does_not_decide(service: Any) -> None:
    put(service)
    baseline = listed(service, user="u2", k=8)
    learned(service, settings={"draws": 77})
    assert ask(service)["decision"]["reason"] == "no_snapshot"
    learned(service, layout="another")
    answer = ask(service)
    assert (answer["decision"]["mode"], answer["decision"]["reason"]) == ("fallback", "schema_changed")
    assert items_of(answer) == baseline
    learned(service, vectors="of another version")
    assert ask(service)["decision"]["reason"] == ""


def test_stale_snapshots_do_not_decide(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(service)
    policies = service.shop.policies
    monkeypatch.setattr(policies, "refresh", lambda: None)
    monkeypatch.setattr(policies, "_refreshed", policies._clock() - 60)
    decision = ask(service)["decision"]
    assert (decision["mode"], decision["reason"]) == ("fallback", "stale_snapshot")


def test_probabilities_that_are_none_do_not_decide(service: Any) -> None:
    baseline = listed(service, user="u2", k=8)
    POLICY_REGISTRY.register(NotFinite)
    try:
        put(service, kind="NotFinite", settings={})
        answer = ask(service)
    finally:
        del POLICY_REGISTRY._registered["NotFinite"]
    assert (answer["decision"]["mode"], answer["decision"]["reason"]) == ("fallback", "invalid_probabilities")
    assert items_of(answer) == baseline
    assert (record_of(service, answer["list_id"]).propensities == 1).all()


def test_constant_scores_do_not_decide(service: Any) -> None:
    put(service, kind="lin_ucb", settings={})
    setting = service.shop.policies.settings()["home"]
    policy = make_policy(setting.kind, setting.settings)
    assert policy is not None
    features = ListFeatures.of(service.live.view().answers)
    x = np.zeros((50, len(features.names)))
    x[:, 0] = 1.0  # only the bias has ever told anything
    policy.update(Outcomes(action_keys(["i3"] * 50), np.ones(50), x))
    layout = Layout.of(features)
    info = {
        "kind": "LinUCB",
        "settings": policy.get_params(),
        "layout": layout.digest,
        "vectors": layout.vectors,
        "n_updates": 50,
    }
    service.store.put_policy_state("home", 1, snapshot_arrays(policy, ItemStatistics()), info)
    service.shop.policies.refresh()
    decision = ask(service)["decision"]
    assert (decision["mode"], decision["reason"]) == ("fallback", "constant_scores")


def test_without_time_the_baseline_decides(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service.put("/v1/placements/home", json={"k": 8, "budget": 1, "policy": ONLINE})
    clock = time.perf_counter
    steps = iter(range(1_000_000))
    monkeypatch.setattr("zhiyin.pipeline.list_building.time.perf_counter", lambda: clock() + 10.0 * next(steps))
    answer = ask(service)
    assert (answer["decision"]["mode"], answer["decision"]["reason"]) == ("fallback", "budget_exceeded_time")
    assert "policy" in answer["degraded"]


@pytest.mark.parametrize("kind", ["LinTS", "LinUCB", "SquareCB", "BetaBernoulli", "Softmax", "TopKReinforce"])
def test_a_snapshot_decides_as_the_policy_that_was_written(kind: str) -> None:
    rng = np.random.default_rng(4)
    policy = make_policy(kind, {})
    assert policy is not None
    keys, x = action_keys([f"i{n}" for n in range(30)]), rng.normal(size=(30, 4))
    if isinstance(policy, TopKReinforce):
        policy.weights = rng.normal(size=4)
    policy.update(Outcomes(keys, rng.integers(0, 2, 30).astype(float), x))
    statistics = ItemStatistics()
    statistics.update(keys, np.arange(30) % 5, np.ones(30))
    arrays = snapshot_arrays(policy, statistics)
    again, counted = restored_policy(kind, {}, arrays, {"n_updates": policy.n_updates})
    assert again is not None
    sets = ActionSets.single(keys, features=x)
    seeds = np.array([9], dtype=np.uint64)
    assert again.probabilities(sets, seeds).tobytes() == policy.probabilities(sets, seeds).tobytes()
    assert counted.displays.tolist() == statistics.displays.tolist()
    other = for_version(policy, 2)  # what it knew of the last two features is gone, and the policy stays as it was
    assert again.probabilities(sets, seeds).tobytes() == policy.probabilities(sets, seeds).tobytes()
    if isinstance(other, LinearPolicy):
        assert other.posterior is not None
        assert other.posterior.mean[2:].tolist() == [0, 0]
        assert policy.posterior is not None  # type: ignore[attr-defined]
        assert other.posterior.mean[:2] == pytest.approx(policy.posterior.mean[:2])  # type: ignore[attr-defined]


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_a_spent_budget_of_a_user_falls_back_to_greedy(service: Any) -> None:
    put(service, exploration={"share": 1.0, "user_per_day": 2})
    explored = []
    for _ in range(12):
        decision = ask(service)["decision"]
        explored.append(decision["explored"])
        if sum(explored[:-1]) >= 2:
            assert (decision["mode"], decision["reason"]) == ("online", "user_budget_spent")
            assert not decision["explored"]
    assert sum(explored) == 2
    assert ask(service, user="u7")["decision"]["reason"] != "user_budget_spent"
    assert ask(service, user=None)["decision"]["reason"] != "user_budget_spent"


def test_explored_lists_count_beside_a_frequency_cap(opened: Callable[..., Any]) -> None:
    rules = Rules.from_dict({"frequency": {"at_most": 2, "window": "1h"}})
    client = client_of(opened(options={"rules": rules}))
    put(client, exploration={"share": 1.0, "user_per_day": 3})
    answers = [ask(client) for _ in range(12)]
    assert sum(answer["decision"]["explored"] for answer in answers) == 3
    shown = Counter(item for answer in answers for item in items_of(answer))
    assert max(shown.values()) <= 3  # a list is filled up where all were shown too often
    trace = client.shop.traces.find(answers[-1]["list_id"])
    assert all(item.startswith("i") for item in trace.head.get("often", {}))
    client.delete("/v1/users/u2")
    assert not client.live.state.showing_counts("u2")


def test_a_spent_budget_of_losses_falls_back_to_greedy(service: Any) -> None:
    put(service, exploration={"share": 1.0, "loss_per_day": 0.5})
    learned(service)
    reasons = [ask(service, user=f"u{n % 60}")["decision"] for n in range(60)]
    assert reasons[0]["reason"] == ""
    assert reasons[-1]["reason"] == "loss_budget_spent"
    spent = [n for n, decision in enumerate(reasons) if decision["reason"]]
    assert spent == list(range(spent[0], 60))
    assert not any(reasons[n]["explored"] for n in spent)
    summary = service.get("/v1/policies/home").json()
    assert 0 < summary["loss_spent"] <= 0.5 == summary["loss_per_day"]
    eventually(lambda: service.shop.traces.waiting == 0)
    losses = [record_of(service, row.list_id).loss for row in service.store.traces(limit=200) if "decision" in row.head]
    assert summary["loss_spent"] == pytest.approx(sum(losses), rel=1e-4)


def test_one_list_does_not_lose_more_than_is_left_of_the_budget(service: Any) -> None:
    put(service, exploration={"share": 1.0}, settings={"draws": 20, "scale": 5.0})
    learned(service)
    free = [record_of(service, ask(service, user=f"u{n}")["list_id"]).loss for n in range(20)]
    budget = 0.01 * float(np.mean(free))
    put(service, "small", settings={"draws": 20, "scale": 5.0}, exploration={"share": 1.0, "loss_per_day": budget})
    learned(service, "small")
    records = []
    for n in range(30):
        answer = ask(service, user=f"u{n}", placement="small")
        records.append(record_of(service, answer["list_id"]))
        assert_logged_by_what_was_drawn(records[-1], items_of(answer))
        assert service.post(f"/v1/lists/{answer['list_id']}/replay").json()["same"]
    assert 0 < budget < np.mean(free)
    assert sum(record.loss for record in records) <= budget
    assert service.get("/v1/policies/small").json()["loss_spent"] <= budget


def test_processes_count_budgets_together_and_go_on_after_a_restart(opened: Callable[..., Any], tmp_path: Path) -> None:
    def worker(**settings: Any) -> Any:
        state = DirectState(ledger=ExplorationLedger(tmp_path / "ledger.db"))
        return opened(several=True, state=state, **settings)

    first = worker()
    one = client_of(first)
    second = worker()
    second.shown = first.shown
    two = client_of(second)
    put(one, exploration={"share": 1.0, "user_per_day": 3})
    decisions = [ask(client)["decision"] for _ in range(8) for client in (one, two)]
    assert sum(decision["explored"] for decision in decisions) == 3
    put(one, exploration={"share": 1.0, "loss_per_day": 0.5})
    learned(one)
    second.policies.refresh()
    spent = [ask(client, user=f"u{n}")["decision"]["reason"] for n in range(30) for client in (one, two)]
    assert spent[-2:] == ["loss_budget_spent"] * 2
    lost = second.policies.loss_of_day("home")
    assert 0 < lost <= 0.5
    for shop in (first, second):
        shop.live.state.ledger.close()
    restarted = worker()
    restarted.shown = first.shown
    three = client_of(restarted)
    assert restarted.policies.loss_of_day("home") == pytest.approx(lost)
    for n in range(5):
        ask(three, user=f"u{n}")
    assert restarted.policies.loss_of_day("home") <= 0.5
    put(three, exploration={"share": 1.0, "user_per_day": 3})
    assert ask(three)["decision"]["reason"] == "user_budget_spent"
    three.delete("/v1/users/u2")
    assert restarted.policies.explored_of_day("home", "u2") == 0


def test_slots_that_may_not_be_explored_are_greedy(service: Any) -> None:
    put(service, exploration={"share": 1.0, "first_slot": 4, "slot_shares": {"5": 0.0}})
    for user in range(10):
        record = record_of(service, ask(service, user=f"u{user}")["list_id"])
        same = record.chosen == record.greedy
        assert same[[0, 1, 2, 4]].all()
        assert (record.propensities[[0, 1, 2, 4]] == 1).all()


# -- controls ----------------------------------------------------------------------------------------------------------


def test_the_kill_switch_acts_on_the_next_request_of_every_worker(opened: Callable[..., Any]) -> None:
    one = client_of(opened("shop", several=True))
    two_shop = opened("shop", several=True)
    two_shop.shown = one.keys
    two = client_of(two_shop)
    put(one)
    baseline = listed(two, user="u2", k=8)
    assert ask(two)["decision"]["mode"] == "online"
    for _ in range(5):
        assert control(one, "kill")["killed"]
        answer = ask(two)
        assert (answer["decision"]["mode"], answer["decision"]["reason"]) == ("fallback", "killed")
        assert items_of(answer) == baseline
        assert not control(two, "revive")["killed"]
        assert ask(one)["decision"]["mode"] == "online"


def test_snapshots_and_settings_reach_other_workers(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zhiyin.service.policy_serving.REFRESH_SECONDS", 0.02)
    one = client_of(opened("shop", several=True))
    two_shop = opened("shop", several=True)
    two_shop.shown = one.keys
    two = client_of(two_shop)
    put(one)
    number = learned(one)
    eventually(lambda: ask(two)["decision"]["snapshot"] == number, 5.0)
    put(two, mode="shadow")
    assert ask(one)["decision"]["mode"] == "shadow"


def test_the_command_line_acts_on_the_next_request(service: Any) -> None:
    from zhiyin.service.placements import Placements
    from zhiyin.service.policy_administration import PolicyAdministration

    put(service)
    assert ask(service)["decision"]["mode"] == "online"
    by_command = PolicyAdministration(service.store, Placements(service.store, None, None))
    by_command.kill("home")
    assert ask(service)["decision"]["reason"] == "killed"


def test_promotions_go_step_by_step_and_are_taken_back(service: Any) -> None:
    put(service, mode="shadow")
    assert control(service, "rollback", status=409)["error"].startswith("nothing was decided")
    assert control(service, "promote")["mode"] == "apprentice"
    assert ask(service)["decision"]["mode"] == "apprentice"
    refused = control(service, "promote", status=409)
    assert "apprentice" in refused["error"]
    assert ask(service)["decision"]["mode"] == "apprentice"
    assert control(service, "promote", force=True)["mode"] == "guarded"
    assert "guarded" in control(service, "promote", status=409)["error"]
    learned(service, guard={"share": 0.9, "difference": [0.01, 0.2]})
    assert control(service, "promote")["mode"] == "online"
    assert control(service, "promote", status=409)["error"].endswith("online already")
    assert control(service, "rollback")["mode"] == "guarded"
    assert control(service, "rollback")["mode"] == "apprentice"
    details = control(service, "rollback")
    assert (details["mode"], details["settings_mode"]) == ("shadow", "shadow")
    assert [row["by"] for row in details["history"]][-3:] == ["promote", "promote", "promote"]
    assert control(service, "promote", mode="shadow")["mode"] == "shadow"


def test_a_promotion_is_judged_by_the_closed_decisions(service: Any) -> None:
    put(service, mode="apprentice", randomisation=0.5)
    ids = [ask(service, user=f"u{n}")["list_id"] for n in range(7)]
    eventually(lambda: service.shop.traces.waiting == 0)
    traces = [service.store.trace(list_id) for list_id in ids]
    rewards: list[float | None] = [1.0, *[0.0] * 6, None]
    rows = [
        ClosedRow(one.list_id, "home", one.time, 1, "apprentice", rewards if n else None, 1, 0, one.time, 0, 0)
        for n, one in enumerate(traces)
    ]
    assert service.store.close_decisions(rows) == 7
    refused = control(service, "promote", status=409)["error"]
    assert "6 lists are worth" in refused
    assert "1,000 are the least" in refused


def test_rollback_leaves_the_kill_switch_and_freezing_alone(service: Any) -> None:
    put(service, mode="shadow")
    control(service, "kill")
    assert "nothing was decided" in control(service, "rollback", status=409)["error"]
    assert ask(service)["decision"]["reason"] == "killed"
    control(service, "promote")
    control(service, "freeze")
    details = control(service, "rollback")
    assert (details["mode"], details["killed"], details["frozen"]) == ("shadow", True, True)
    control(service, "revive")
    control(service, "promote")
    details = control(service, "rollback")
    assert (details["mode"], details["killed"], details["frozen"]) == ("shadow", False, True)
    assert "nothing was decided" in control(service, "rollback", status=409)["error"]


def test_a_chosen_snapshot_is_taken_back_and_learning_goes_on(service: Any) -> None:
    put(service)
    first, second = learned(service), learned(service)
    control(service, "promote", mode="shadow")
    details = control(service, "rollback", snapshot=first)
    assert (details["snapshot"], details["frozen"], details["mode"]) == (first, False, "shadow")
    details = control(service, "rollback")
    assert (details["snapshot"], details["frozen"], details["mode"]) == (second, False, "shadow")
    control(service, "rollback", snapshot=first)
    control(service, "unfreeze")
    assert control(service, "rollback")["mode"] == "online"  # the choice was ended by unfreeze


def test_policies_that_are_not_there(service: Any) -> None:
    assert service.get("/v1/policies").json() == {"policies": []}
    service.put("/v1/placements/plain", json={"k": 5})
    for name in ("plain", "nothing"):
        assert service.get(f"/v1/policies/{name}").status_code == 404
        assert control(service, "kill", name, status=404)["remedy"]


# -- traces ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["online", "apprentice", "shadow", "guarded", "one_slot"])
def test_a_list_is_drawn_again_from_its_trace(service: Any, mode: str) -> None:
    fields = {"kind": "one_slot", "settings": {}} if mode == "one_slot" else {"mode": mode}
    put(service, randomisation=0.5, **fields)
    for number in range(12):
        if number == 6 and mode != "one_slot":
            learned(service, guard={"share": 0.7})
        answer = ask(service, user=f"u{number}", filter="price >= 0")
        again = service.post(f"/v1/lists/{answer['list_id']}/replay").json()
        assert again["same"], again
        assert [row["item"] for row in again["items"]] == items_of(answer)
    put(service, mode="shadow")  # another version of the placement, and other snapshots
    learned(service)
    again = service.post(f"/v1/lists/{answer['list_id']}/replay").json()
    assert again["same"], again


KINDS = ("lin_ts", "lin_ucb", "squarecb", "softmax", "epsilon_greedy", "beta_bernoulli", "top_k_reinforce", "one_slot")


@pytest.mark.parametrize("mode", ["online", "apprentice", "shadow", "guarded", "killed", "stale"])
def test_lists_of_every_kind_are_drawn_again_and_log_what_they_were_drawn_by(service: Any, mode: str) -> None:
    in_settings = "online" if mode in ("killed", "stale") else mode
    for kind in KINDS:
        fields = {"floor": 0.2} if kind == "epsilon_greedy" else {}
        put(service, kind, kind=kind, settings=fields, mode=in_settings, randomisation=0.5, shortlist=9)
        if mode == "killed":
            control(service, "kill", kind)
    service.put("/v1/placements/explore", json={"k": 8, "explore": 0.7})
    if mode == "stale":
        service.shop.policies._clock = lambda: time.monotonic() + 60
    explored = Counter()
    for name in (*KINDS, "explore"):
        for number in range(5):
            answer = ask(service, user=f"u{number}", placement=name, pins={"3": "i7"})
            again = service.post(f"/v1/lists/{answer['list_id']}/replay").json()
            assert again["same"], (name, again)
            assert items_of(again) == items_of(answer)
            if name != "explore":
                record = record_of(service, answer["list_id"])
                assert_logged_by_what_was_drawn(record, items_of(answer))
                explored[name] += record.explored
    assert mode not in ("online", "apprentice") or explored["one_slot"]


def assert_logged_by_what_was_drawn(record: DecisionRecord, items: list[str]) -> None:
    """The rule of logs: the propensity of a slot is the probability by which its item was drawn, bit for bit."""
    assert record.pmfs is not None
    assert record.keys is not None
    rows = np.arange(len(record))
    assert (record.chosen >= 0).all()
    assert record.propensities.tobytes() == record.pmfs[rows, record.chosen].tobytes()
    assert record.prefix.tobytes() == np.cumprod(record.propensities).tobytes()
    assert np.abs(record.pmfs.sum(axis=1) - 1).max(initial=0.0) < 1e-9
    assert record.keys[record.chosen].tolist() == action_keys([items[slot] for slot in record.slots]).tolist()
    if record.target is not None and record.target_pmfs is not None:
        assert record.target.tobytes() == record.target_pmfs[rows, record.chosen].tobytes()
        assert np.abs(record.target_pmfs.sum(axis=1) - 1).max(initial=0.0) < 1e-9


def test_a_trace_without_room_can_still_be_learned_from(service: Any) -> None:
    put(service)
    service.shop.list_service.trace_quota.allow = lambda key, size: False
    answer = ask(service)
    trace = stored(service, answer["list_id"])
    assert trace.head["not_kept"]
    record = decode_decision(trace.head, trace.arrays)
    assert record is not None
    assert record.pmfs is None
    assert record.features is not None
    assert record.chosen_keys().tolist() == action_keys(items_of(answer)).tolist()


def test_a_trace_tells_its_decision(service: Any) -> None:
    put(service)
    answer = ask(service)
    stored(service, answer["list_id"])
    trace = service.get(f"/v1/lists/{answer['list_id']}").json()
    assert trace["decision"]["policy"] == "home"
    record = record_of(service, answer["list_id"])
    assert [row["propensity"] for row in trace["items"]] == record.propensities.tolist()


def test_metrics_tell_modes_reasons_and_figures(service: Any) -> None:
    put(service)
    ask(service)
    learned(
        service,
        monitors={
            "mean_importance_weight": [1.02, 0.9, 1.1],
            "reward_rate": {"online": [0.2, 0.1, 0.3]},
            "in_time_share": 0.97,
            "drift": {"alarms": 2},
        },
    )
    ask(service)
    text = service.get("/metrics").text
    assert 'zhiyin_policy_lists_total{mode="online",policy="home",reason="no_snapshot"} 1.0' in text
    assert 'zhiyin_policy_lists_total{mode="online",policy="home",reason=""} 1.0' in text
    assert 'zhiyin_policy_mean_importance_weight{policy="home"} 1.02' in text
    assert 'zhiyin_policy_reward_rate{bound="high",mode="online",policy="home"} 0.3' in text
    assert 'zhiyin_policy_in_time_share{policy="home"} 0.97' in text
    assert 'zhiyin_policy_drift_alarms{policy="home"} 2.0' in text
    monitors = service.get("/v1/policies/home").json()["monitors"]
    assert monitors["reward_rate"] == {"online": [0.2, 0.1, 0.3]}
