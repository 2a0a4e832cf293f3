"""Experiments over HTTP: who gets which arm, what the trace says of it, and what stops an arm."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from zhiyin.policies.experiments.assignment import Experiment
from zhiyin.service.experiment_job import ExperimentEvaluator
from zhiyin.service.experiments import Experiments
from zhiyin.service.placements import Placements

from .conftest import client_of

ARMS = {"control": {}, "odd": {"placement": "odd"}}


def with_placements(client: Any) -> Any:
    for name, genre in (("even", "even"), ("odd", "odd")):
        settings = {"filter": f"genre = '{genre}'", "exclude_seen": False}
        assert client.put(f"/v1/placements/{name}", json=settings).status_code == 200
    return client


@pytest.fixture
def client(service: Any) -> Any:
    return with_placements(service)


def another_app(client: Any, shop: Any) -> Any:
    """A client of another app on the same store."""
    shop.shown = client.keys
    return client_of(shop)


def begin(client: Any, name: str = "taste", **settings: Any) -> int:
    answer = client.put(f"/v1/experiments/{name}", json={"placement": "even", "arms": ARMS} | settings)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["version"])


def ask(client: Any, user: str | None = "u1", placement: str = "even", **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/recommendations", json={"user": user, "placement": placement, "k": 3} | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def head_of(client: Any, made: dict[str, Any]) -> dict[str, Any]:
    trace = client.shop.traces.find(made["list_id"]) or client.store.trace(made["list_id"])
    return dict(trace.head)


def arm_of(client: Any, user: str) -> str | None:
    return ask(client, user).get("experiments", {}).get("taste")


def test_an_arm_is_another_placement_and_stands_in_response_and_trace(client: Any) -> None:
    begin(client)
    users = [f"v{n}" for n in range(40)]
    lists = {user: ask(client, user) for user in users}
    expected = Experiment("taste", {"control": 1, "odd": 1}).assign(users)
    arms = [("control", "odd")[arm] for arm in expected]
    assert [lists[user]["experiments"] for user in users] == [{"taste": arm} for arm in arms]
    assert 10 < Counter(arms)["odd"] < 30
    for user, arm in zip(users, arms):
        parity = {"control": 0, "odd": 1}[arm]
        assert {int(row["item"][1:]) % 2 for row in lists[user]["items"]} == {parity}
        assert lists[user]["placement"] == {"control": "even", "odd": "odd"}[arm]
        head = head_of(client, lists[user])
        assert head["experiments"] == {"taste": arm}
        assert head["assignments"]["taste"]["p"] == 0.5
    replay = client.post(f"/v1/lists/{lists[users[arms.index('odd')]]['list_id']}/replay").json()
    assert replay["same"], replay


def test_lists_of_other_placements_and_of_strangers_take_no_part(client: Any) -> None:
    begin(client)
    assert "experiments" not in ask(client, "u1", placement="odd")
    assert "experiments" not in ask(client, None, history=["i1"])
    assert "experiments" not in client.get("/v1/popular?k=3").json()


def test_sessions_and_lists_are_units_too(client: Any) -> None:
    begin(client, unit="session")
    arms = {ask(client, "u1", session=f"s{n}")["experiments"]["taste"] for n in range(20)}
    assert arms == {"control", "odd"}
    assert "experiments" not in ask(client, "u1")
    begin(client, unit="list")
    assert {ask(client, "u1")["experiments"]["taste"] for _ in range(20)} == {"control", "odd"}


def test_a_stopped_arm_gets_the_control_from_the_next_request_on_by_every_app(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    one = with_placements(client_of(opened(several=True)))
    two = another_app(one, opened(several=True))
    begin(one)
    user = next(name for n in range(50) if arm_of(two, name := f"v{n}") == "odd")
    assert arm_of(one, user) == "odd"
    answer = one.post("/v1/experiments/taste/stop", json={"arm": "odd", "reason": "complaints"})
    assert answer.status_code == 200
    for app in (two, one):
        made = ask(app, user)
        assert made["experiments"] == {"taste": "control"}
        assert made["placement"] == "even"
    versions = one.get("/v1/experiments/taste/versions").json()["versions"]
    assert versions[0]["reason"] == "complaints"
    assert versions[0]["state"]["stopped"]["odd"]["reason"] == "complaints"
    # The assignment is told as it was, so that the numbers of units still show whether it works.
    assert head_of(one, made)["assignments"]["taste"]["arm"] == "odd"
    assert one.post("/v1/experiments/taste/stop", json={"reason": "done"}).status_code == 200
    assert "experiments" not in ask(two, user)


def test_the_assignment_is_the_same_after_a_restart(opened: Callable[..., Any]) -> None:
    one = with_placements(client_of(opened()))
    begin(one, layer="ranking", share=0.5, offset=0.25)
    users = [f"v{n}" for n in range(60)]
    arms = [arm_of(one, user) for user in users]
    assert set(arms) == {"control", "odd", None}
    two = another_app(one, opened())
    assert [arm_of(two, user) for user in users] == arms


def test_experiments_of_one_layer_share_no_unit_and_layers_are_independent(client: Any) -> None:
    begin(client, share=0.5)
    other = {"placement": "even", "arms": ARMS}
    refused = client.put("/v1/experiments/second", json=other | {"share": 0.6, "offset": 0.4})
    assert refused.status_code == 409
    assert "share users" in refused.json()["error"]
    # In another layer it would change the same of the same lists.
    refused = client.put("/v1/experiments/second", json=other | {"layer": "prices"})
    assert refused.status_code == 409
    assert "both change the placement" in refused.json()["error"]
    refused = client.put("/v1/experiments/second", json=other | {"share": 0.5, "offset": 0.5, "unit": "session"})
    assert refused.status_code == 409
    assert "is of users" in refused.json()["error"]
    begin(client, "second", share=0.5, offset=0.5)
    marks = [set(ask(client, f"v{n}")["experiments"]) for n in range(40)]
    assert {frozenset(mark) for mark in marks} == {frozenset({"taste"}), frozenset({"second"})}
    begin(client, "third", placement="odd", arms={"control": {}, "b": {"placement": "even"}}, layer="prices")


def test_errors_name_the_key(client: Any) -> None:
    for settings, field, words in (
        ({"arms": {"a": {}, "b": {"placement": "none"}}}, "arms.b.placement", "there is no placement 'none'"),
        ({"arms": {"a": {}, "b": {"version": 99}}}, "arms.b.version", "there is no such version"),
        ({"arms": {"a": {}}}, "arms", "at least 2"),
        ({"arms": {"a": {}, "b": {"version": 2**62}}}, "arms.b.version", "less than or equal"),
        ({"arms": ARMS, "planned_units": "100"}, "planned_units", "is no whole number"),
        ({"arms": ARMS, "guardrails": [{"metric": "x"}]}, "guardrails.0.metric", "there is no metric 'x'"),
        ({"arms": ARMS, "kind": "interleaving", "placement": "odd"}, "arms", "two placements"),
    ):
        answer = client.put("/v1/experiments/wrong", json={"placement": "even"} | settings)
        assert answer.status_code in (404, 409, 422), settings
        assert answer.json()["field"] == field
        assert words in answer.json()["error"]
    assert client.get("/v1/experiments/wrong").status_code == 404
    begin(client)
    refused = client.post("/v1/experiments/taste/stop", json={"arm": "control"})
    assert refused.status_code == 404
    assert refused.json()["field"] == "arm"


def test_other_metrics_go_on_counting_and_other_arms_begin_anew(client: Any) -> None:
    begin(client)
    started = client.get("/v1/experiments/taste").json()["state"]["started"]
    begin(client, guardrails=[{"metric": "click_rate"}])
    assert client.get("/v1/experiments/taste").json()["state"]["started"] == started
    begin(client, arms=ARMS | {"third": {"placement": "odd"}})
    assert client.get("/v1/experiments/taste").json()["state"]["started"] > started
    assert client.delete("/v1/experiments/taste").status_code == 200
    assert "experiments" not in ask(client)
    assert len(client.get("/v1/experiments/taste/versions").json()["versions"]) == 4


def test_experiments_of_the_file_are_taken_up_and_wrong_ones_told(opened: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "zhiyin.toml"
    text = """
[placements.even]
filter = "genre = 'even'"
[placements.odd]
filter = "genre = 'odd'"
[experiments.taste]
placement = "even"
arms = { control = {}, odd = { placement = "odd", weight = 3 } }
[experiments.wrong]
placement = "even"
arms = { control = {}, odd = { placement = "nowhere" } }
"""
    file.write_text(text)
    shop = opened(config=file)
    client = client_of(shop)
    shop.placements.update(shop.live.now.answers)
    shop.experiments.update()
    assert client.get("/v1/experiments/taste").json()["by"] == "file"
    users = [f"v{n}" for n in range(40)]
    assert Counter(arm_of(client, user) for user in users)["odd"] > 20
    (issue,) = shop.experiments.health_issues()
    assert issue.what == "[experiments.wrong]"
    assert "arms.odd.placement" in issue.reason
    assert file.name in issue.remedy
    client.post("/v1/experiments/taste/stop", json={"arm": "odd"})
    shop.experiments.update()
    # What `zhiyin doctor` tells of a file before a service has taken it up.
    fresh = Experiments(shop.store, None, Placements(shop.store, None, None))
    (told,) = fresh.file_issues(file, {"even", "odd"}).values()
    assert told == issue
    assert client.get("/v1/experiments/taste").json()["state"]["stopped"]  # the file has not changed


def test_what_is_left_of_a_trace_beyond_the_quota_has_the_arm(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(client)
    monkeypatch.setattr(client.shop.list_service.trace_quota, "allow", lambda key, size: False)
    made = ask(client)
    head = head_of(client, made)
    assert "not_kept" in head
    assert head["experiments"] == made["experiments"]
    assert "taste" in head["assignments"]


def click(client: Any, clicked: dict[str, dict[str, Any]]) -> None:
    """Clicks on the first item of each list. clicked: lists by their users."""
    events = [
        {"user": user, "item": made["items"][0]["item"], "kind": "click", "list_id": made["list_id"]}
        for user, made in clicked.items()
    ]
    answer = client.post("/v1/events", json={"events": events}).json()
    assert {event["status"] for event in answer["events"]} == {"accepted"}


def wait_for_traces(*clients: Any) -> None:
    end = time.monotonic() + 30
    while any(client.shop.traces.waiting for client in clients) and time.monotonic() < end:
        time.sleep(0.01)


def test_a_guardrail_finds_the_bad_arm_and_all_apps_give_the_control_from_the_next_request_on(
    opened: Callable[..., Any],
) -> None:
    one = with_placements(client_of(opened(several=True)))
    two = another_app(one, opened(several=True))
    begin(one, metrics={"clicks": {"events": {"click": 1}}}, guardrails=[{"metric": "clicks"}], planned_units=300)
    users = [f"w{n}" for n in range(240)]
    lists = {user: ask((one, two)[n % 2], user) for n, user in enumerate(users)}
    arms = {user: made["experiments"]["taste"] for user, made in lists.items()}
    likely = {"control": 9, "odd": 1}
    click(two, {user: lists[user] for n, user in enumerate(users) if n % 10 < likely[arms[user]]})
    wait_for_traces(one, two)
    evaluator = ExperimentEvaluator(one.store)
    assert evaluator.act() == []  # the windows are open
    (change,) = evaluator.act(one.store.clock() + 11 * 60_000_000)
    assert "arm odd is stopped" in change
    bad = next(user for user in users if arms[user] == "odd")
    for app in (two, one):
        assert ask(app, bad)["experiments"] == {"taste": "control"}
    newest = one.get("/v1/experiments/taste/versions").json()["versions"][0]
    assert newest["by"] == "guardrail"
    assert "guardrail clicks" in newest["reason"]
    assert evaluator.act(one.store.clock() + 12 * 60_000_000) == []
    results = two.get("/v1/experiments/taste/results").json()
    assert results["comparisons"] == []  # by its own clock the windows are open


def test_results_are_told_by_the_service(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(client, window="1m")
    lists = {f"v{n}": ask(client, f"v{n}") for n in range(20)}
    click(client, {f"v{n}": lists[f"v{n}"] for n in range(1, 20, 2)})
    wait_for_traces(client)
    now = client.store.clock()
    monkeypatch.setattr(client.store, "clock", lambda: now + 600_000_000)
    results = client.get("/v1/experiments/taste/results").json()
    assert sum(arm["units"] for arm in results["arms"]) == 20
    assert [row["metric"] for row in results["comparisons"]] == ["click_rate", "reward", "purchases"]
    assert results["comparisons"][0]["fixed"]["low"] < results["comparisons"][0]["fixed"]["high"]
    assert results["sample_ratio_ok"]
    client.delete("/v1/users/v1")
    client.delete("/v1/users/v2")
    results = client.get("/v1/experiments/taste/results").json()
    assert sum(arm["units"] for arm in results["arms"]) == 18
    assert client.get("/v1/experiments/none/results").status_code == 404


def test_an_interleaved_list_is_of_both_placements_and_its_clicks_credit_a_team(client: Any) -> None:
    begin(client, kind="interleaving", window="1m")
    made = {f"v{n}": ask(client, f"v{n}", k=6) for n in range(30)}
    for user, one in made.items():
        assert one["experiments"] == {"taste": "interleaved"}
        assert one["placement"] == "even"
        head = head_of(client, one)
        teams = head["teams"]
        assert [int(row["item"][1:]) % 2 for row in one["items"]] == teams  # the second placement lists odd items alone
        assert all(sorted(teams[at : at + 2]) == [0, 1] for at in (0, 2, 4))
        odd = next(row["item"] for row, team in zip(one["items"], teams) if team == 1)
        event = {"user": user, "item": odd, "kind": "click", "list_id": one["list_id"]}
        client.post("/v1/events", json={"events": [event]})
    assert {head_of(client, one)["teams"][0] for one in made.values()} == {0, 1}
    replay = client.post(f"/v1/lists/{one['list_id']}/replay?explain=true").json()
    assert replay["same"], replay
    wait_for_traces(client)
    results = ExperimentEvaluator(client.store).results(
        client.shop.experiments.get("taste"), client.store.clock() + 600_000_000
    )
    assert results.interleaving is not None
    preference = results.interleaving.preference
    assert (preference.first_wins, preference.second_wins, preference.ties) == (0, 30, 0)
    assert preference.p_value < 1e-6
    assert preference.low > 0.7
    ranked = client.post("/v1/rank", json={"user": "v1", "placement": "even", "items": ["i2", "i4"]}).json()
    assert "experiments" not in ranked


def test_rules_pins_and_explanations_hold_for_an_interleaved_list(opened: Callable[..., Any]) -> None:
    from zhiyin.pipeline.rules import Rules

    rules = Rules.from_dict({"filter": "price >= 10", "caps": [{"per": "genre", "at_most": 2}]})
    client = with_placements(client_of(opened(options={"rules": rules})))
    begin(client, kind="interleaving")
    made = ask(client, "u1", k=4, pins={"3": "i31"}, explain=True)
    items = [int(row["item"][1:]) for row in made["items"]]
    assert items[2] == 31
    assert min(items) >= 10
    assert [sum(item % 2 == parity for item in items) for parity in (0, 1)] == [2, 2]
    assert head_of(client, made)["teams"][2] == -1
    assert client.post(f"/v1/lists/{made['list_id']}/replay").json()["same"]


def test_an_arm_may_be_another_version_of_the_models(opened: Callable[..., Any]) -> None:
    shop = opened()
    client = with_placements(client_of(shop))
    begin(client, arms={"control": {}, "second": {"version": 2}})
    end = time.monotonic() + 30
    while not shop.extra_versions.ready(2) and time.monotonic() < end:
        assert "experiments" not in ask(client)  # until both arms can be served neither is
        time.sleep(0.05)
    lists = {user: ask(client, user) for user in (f"u{n}" for n in range(20))}
    versions = {made["experiments"]["taste"]: made["version"] for made in lists.values()}
    assert versions == {"control": 1, "second": 2}
    made = next(made for made in lists.values() if made["version"] == 2)
    wait_for_traces(client)
    assert client.store.trace(made["list_id"]).version == 2
    assert client.post(f"/v1/lists/{made['list_id']}/replay").json()["same"]
    user, top = next((user, made["items"][0]["item"]) for user, made in lists.items() if made["version"] == 2)
    client.patch(f"/v1/items/{top}", json={"hidden": True})
    again = ask(client, user)
    assert again["version"] == 2
    assert top not in [row["item"] for row in again["items"]]
    client.post("/v1/experiments/taste/stop", json={"arm": "second"})
    assert ask(client, user)["version"] == 1
    client.delete("/v1/experiments/taste")
    shop.extra_versions.update(shop.live.serving)
    assert not shop.extra_versions.ready(2)


def test_no_more_than_two_versions_are_served_beside_the_one_in_use(opened: Callable[..., Any]) -> None:
    from zhiyin.service.extra_versions import ExtraVersions

    shop = opened()
    versions = ExtraVersions(shop.live, lambda: [7, 8, 9])
    versions.load(7)  # there is none
    versions.update(shop.live.serving)
    assert {issue.what for issue in versions.health_issues()} >= {
        "version 7 of an experiment", "version 9 of an experiment"
    }  # fmt: skip
    versions.close()


def test_an_arm_may_have_other_settings_of_the_policy(client: Any) -> None:
    arms = {"control": {}, "bold": {"policy": {"mode": "online"}}}
    refused = client.put("/v1/experiments/taste", json={"placement": "even", "arms": arms})
    assert refused.status_code == 409
    assert refused.json()["field"] == "arms.bold.policy"
    assert "no policy" in refused.json()["error"]
    setting = {"filter": "genre = 'even'", "policy": {"kind": "EpsilonGreedy", "mode": "shadow"}}
    answer = client.put("/v1/placements/even", json=setting)
    assert answer.status_code == 200, answer.text
    wrong = {"control": {}, "bold": {"policy": {"mode": "brave"}}}
    assert client.put("/v1/experiments/taste", json={"placement": "even", "arms": wrong}).status_code == 409
    learning = {"control": {}, "bold": {"policy": {"rewards": {"click": 1}}}}
    refused = client.put("/v1/experiments/taste", json={"placement": "even", "arms": learning})
    assert refused.status_code == 409
    assert "shared by all arms" in refused.json()["error"]
    begin(client, arms=arms)
    made = [ask(client, f"v{n}") for n in range(20)]
    heads = [head_of(client, one) for one in made]
    assert {head["experiments"]["taste"]: head.get("policy_settings") for head in heads} == {
        "control": None, "bold": {"mode": "online"},
    }  # fmt: skip
    modes = {one["experiments"]["taste"]: one["decision"]["mode"] for one in made}
    assert modes == {"control": "shadow", "bold": "online"}
    for one in made[:6]:
        replay = client.post(f"/v1/lists/{one['list_id']}/replay").json()
        assert replay["same"], replay


def test_weights_are_drawn_again_and_units_assigned_anew_with_their_probabilities_in_traces(client: Any) -> None:
    metrics = {"clicks": {"events": {"click": 1}}}
    begin(client, allocation="thompson", metrics=metrics, window="10m", redraw="1h", unit="list")
    likely = {"control": 1, "odd": 8}
    lists = {f"v{n}": ask(client, f"v{n}") for n in range(240)}
    numbered = enumerate(lists.items())
    click(client, {user: made for n, (user, made) in numbered if n % 10 < likely[made["experiments"]["taste"]]})
    wait_for_traces(client)
    evaluator = ExperimentEvaluator(client.store)
    now = client.store.clock()
    assert evaluator.act(now + 60_000_000) == []  # the hour has not passed
    assert "drawn again" in evaluator.act(now + 3_700_000_000)[0]
    assert evaluator.act(now + 3_700_000_000) == []
    newest = client.get("/v1/experiments/taste").json()
    assert newest["by"] == "allocation"
    assert newest["state"]["weights"]["odd"] > 0.9
    client.shop.experiments.refresh()
    made = [ask(client) for _ in range(40)]
    marks = [head_of(client, one)["assignments"]["taste"] for one in made]
    assert {mark["epoch"] for mark in marks} == {1}
    assert {mark["arm"]: mark["p"] for mark in marks}["odd"] == newest["state"]["weights"]["odd"]
    assert sum(one["experiments"]["taste"] == "odd" for one in made) > 24


def test_a_placement_that_a_running_experiment_uses_is_not_deleted(client: Any) -> None:
    begin(client)
    for placement in ("odd", "even"):
        refused = client.delete(f"/v1/placements/{placement}")
        assert refused.status_code == 409
        assert "experiment 'taste'" in refused.json()["error"]
        assert "zhiyin experiment stop taste" in refused.json()["remedy"]
    client.post("/v1/experiments/taste/stop", json={"arm": "odd"})
    assert client.delete("/v1/placements/odd").status_code == 200  # the control is served in its place
    assert ask(client)["experiments"]["taste"] == "control"
    client.post("/v1/experiments/taste/stop", json={})
    assert client.delete("/v1/placements/even").status_code == 200


def test_an_experiment_with_an_arm_that_cannot_be_served_takes_no_part_at_all(client: Any) -> None:
    begin(client)
    users = [f"v{n}" for n in range(30)]
    assert set(map(partial(arm_of, client), users)) == {"control", "odd"}
    client.store.put("placements", {"odd": None})  # past the service
    client.shop.placements.refresh()
    assert {arm_of(client, user) for user in users} == {None}
    told = client.get("/v1/experiments/taste").json()
    assert not told["running"]
    assert "there is no placement 'odd'" in told["issue"]
    (issue,) = client.shop.experiments.health_issues()
    assert "it takes no part" in issue.reason
    assert "zhiyin experiment stop taste" in issue.remedy
    assert client.put("/v1/placements/odd", json={}).status_code == 200
    assert {arm_of(client, user) for user in users} == {"control", "odd"}


def test_errors_of_the_file_name_line_and_nearest_name(opened: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "zhiyin.toml"
    file.write_text(
        '[placements.a]\npolicy = { kind = "lin_tss" }\n'
        '[placements.b.policy]\nkind = "lin_ts"\nmode = "onlin"\n'
        '[placements.c.policy]\nkind = "lin_ts"\nexploration = { shar = 0.1 }\n'
        '[placements.d]\npolcy = { kind = "lin_ts" }\n'
        '[placements.e]\nexplore = 0.1\npolicy = { kind = "lin_ts" }\n'
        '[experiments.x1]\nplacement = "nope"\narms = { a = {}, b = {} }\n'
        "[experiments.x2]\narms = { a = {}, b = { polcy = {} } }\n"
    )
    client = client_of(opened(config=file))
    client.shop.experiments.update()
    issues = {issue["what"]: issue for issue in client.get("/ready").json()["set_aside"]}
    for what, line, reason, remedy in (
        ("[placements.a]", 2, "there is no policy 'lin_tss'", "did you mean 'LinTS'?"),
        ("[placements.b]", 5, "policy.mode: 'onlin' is none of", "did you mean 'online'?"),
        ("[placements.c]", 8, "policy.exploration.shar: there is no such key", "did you mean 'share'?"),
        ("[placements.d]", 10, "polcy: there is no such key", "did you mean 'policy'?"),
        ("[placements.e]", 11, "placement 'e': explore and policy are given", "zhiyin.toml"),
        ("[experiments.x1]", 15, "there is no placement 'nope'", "PUT /v1/placements/nope"),
        ("[experiments.x2]", 18, "arms.b.polcy: there is no such key", "did you mean 'policy'?"),
    ):
        assert reason in issues[what]["reason"]
        assert remedy in issues[what]["mend"]
        assert f"zhiyin.toml, line {line}:" in issues[what]["mend"]
