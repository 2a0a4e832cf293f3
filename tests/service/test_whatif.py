"""What if another configuration had made the lists: the log of a shop, replayed by other rules, models and policies."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from typer.testing import CliRunner

import zhiyin as zy
from zhiyin.cli.main import app
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.pipeline.decision_record import decode_decision
from zhiyin.pipeline.whatif import DRAWN, LoggedList, WhatIfResult, slates_of
from zhiyin.policies.action_sets import action_keys
from zhiyin.policies.off_policy import SLATE_ESTIMATORS
from zhiyin.service.trace_requests import request_of_trace, translated_history
from zhiyin.service.whatif import LogPart, moment_of, replayed
from zhiyin.service.whatif_replay import OtherConfiguration, WhatIfReplay
from zhiyin.store.decisions import ClosedRow
from zhiyin.store.traces import Trace

from .conftest import click, eventually
from .test_policies import learned

# Before its first outcome a policy without features of its own draws evenly among all that qualify.
EVEN = {"kind": "epsilon_greedy", "settings": {}, "mode": "online", "exploration": {"share": 1.0}}
SIX = "id IN ('i2', 'i4', 'i6', 'i8', 'i10', 'i12')"
RATES = {"i2": 0.9, "i4": 0.1, "i6": 0.5, "i8": 0.3, "i10": 0.7, "i12": 0.2}


def put(client: Any, k: int = 2, name: str = "home", filter: str = SIX, **policy: Any) -> None:
    settings = {"k": k, "filter": filter, "exclude_seen": False, "policy": EVEN | policy}
    answer = client.put(f"/v1/placements/{name}", json=settings)
    assert answer.status_code == 200, answer.text


def ask(client: Any, n: int = 1, **body: Any) -> list[Trace]:
    """Traces of lists, as the store has them."""
    ids = []
    for number in range(n):
        user = f"u{2 * (number % 30)}"
        answer = client.post("/v1/recommendations", json={"placement": "home", "user": user} | body)
        assert answer.status_code == 200, answer.text
        ids.append(answer.json()["list_id"])
    eventually(lambda: client.store.trace(ids[-1]) is not None)
    eventually(lambda: all(client.store.trace(list_id) is not None for list_id in ids))
    return [client.store.trace(list_id) for list_id in ids]


def close(client: Any, traces: Sequence[Trace], rewards: Callable[[Trace], list[float | None] | None]) -> None:
    """Close decisions with these rewards of their decided slots, as the joiner would."""
    client.store.close_decisions([
        ClosedRow(trace.list_id, trace.placement, trace.time, trace.version, "online", rewards(trace), 1, 0,
                  trace.time, 0, 0)
        for trace in traces
    ])  # fmt: skip


def expected_rewards(trace: Trace) -> list[float | None]:
    return [RATES[item] for item in trace.head["items"]]


def every_list(trace: Trace, times: int, k: int = 2) -> list[Trace]:
    """The log that a trace's policy makes on average: each of its lists of k of the six items equally often."""
    record = decode_decision(trace.head, trace.arrays)
    assert record is not None
    assert record.keys is not None
    position = {int(key): at for at, key in enumerate(record.keys)}
    traces = []
    for number, items in enumerate(list(itertools.permutations(RATES, k)) * times):
        chosen = np.array([position[int(key)] for key in action_keys(items)], dtype=np.int16)
        pmfs = np.zeros((k, 6))
        for slot in range(k):
            pmfs[slot] = 1 / (6 - slot)
            pmfs[slot, chosen[:slot]] = 0
        propensities = pmfs[np.arange(k), chosen]
        arrays = trace.arrays | {
            "decision_chosen": chosen, "decision_pmfs": pmfs, "decision_propensities": propensities,
            "decision_prefix": np.cumprod(propensities),
        }  # fmt: skip
        head = {**trace.head, "items": list(items)}
        list_id, user = f"{trace.list_id[:-6]}{number:06x}", f"visitor {number}"
        traces.append(dataclasses.replace(trace, list_id=list_id, user=user, head=head, arrays=arrays))
    return traces


def every_item(client: Any) -> None:
    """Put the log of one slot into the store: each of the six items 22 times, with its rate as its reward."""
    put(client, k=1)
    traces = every_list(ask(client)[0], 22, k=1)
    client.store.append_traces(traces)
    close(client, traces, expected_rewards)


# Five of the six earn .52 on average, all six .45.
WITHOUT_I4 = "id != 'i4'"


def what_if(client: Any, other: OtherConfiguration, **part: Any) -> WhatIfResult:
    return replayed(client.live, client.shop.placements, other, LogPart("home", **part))


def logged_lists(client: Any, other: OtherConfiguration, n: int = 1000) -> list[LoggedList]:
    replay = WhatIfReplay(client.live, client.shop.placements, other)
    lists = [replay.logged_list(decision) for decision in client.store.closed_decisions("home", limit=n)]
    assert not [one for one in lists if isinstance(one, str)]
    return lists


def estimate(client: Any, other: OtherConfiguration, n: int = 1000) -> float:
    """By prefix products, of logs too small to be answered."""
    return SLATE_ESTIMATORS["rips"].estimate(slates_of(logged_lists(client, other, n)))


SAME = OtherConfiguration("the same", snapshot="logged")


# -- the same configuration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"kind": "lin_ts", "settings": {"draws": 20}, "exploration": {"share": 0.5, "slot_shares": {"1": 0.1}}},
        {"kind": "lin_ts", "settings": {"draws": 20}, "mode": "guarded"},
        {"kind": "one_slot", "exploration": {"share": 0.4}},
        {"mode": "apprentice", "randomisation": 0.3},
        {"mode": "shadow"},
    ],
)
def test_the_same_configuration_is_the_log_bit_for_bit(service: Any, policy: dict[str, Any]) -> None:
    put(service, k=4, filter="", **policy)
    click(service, *({"user": f"u{n}", "item": f"i{n}", "kind": "view"} for n in range(0, 20, 2)))
    traces = ask(service, 40)
    rng = np.random.default_rng(0)
    rewards = {trace.list_id: rng.random(len(trace.arrays["decision_slots"])).round(1).tolist() for trace in traces}
    close(service, traces, lambda trace: rewards[trace.list_id])
    logged = logged_lists(service, SAME)
    assert len(logged) == 40
    for one in logged:
        assert (one.target_probabilities == one.propensities).all()
    result = what_if(service, SAME)
    assert result.evaluation is not None
    assert result.evaluation.support.mean_weight == 1
    assert result.logged_value == pytest.approx(sum(map(sum, rewards.values())) / 40, rel=1e-12)
    mode = policy.get("mode", "online")
    assert set(result.used) <= (
        {DRAWN, "control"} if mode == "guarded" else {"shadow"} if mode == "shadow" else {DRAWN}
    )
    if result.refusal is None:
        for name in ("sips", "rips"):
            assert result[name].value == result.logged_value
            assert (result[name].difference_low, result[name].difference_high) == (0, 0)


# -- other rules -------------------------------------------------------------------------------------------------------


def test_a_filter_changes_the_estimate_as_enumeration_says(service: Any) -> None:
    """Of six items drawn evenly, four are left: each slot earns the mean rate of the four, exactly."""
    put(service)
    traces = every_list(ask(service)[0], 9)
    service.store.append_traces(traces)
    close(service, traces, expected_rewards)
    rules = zy.Rules.from_dict({"filter": "id NOT IN ('i4', 'i12')"})
    result = what_if(service, OtherConfiguration("four", {**service.live.options, "rules": rules}))
    assert result.used == {DRAWN: 270}
    assert result["rips"].value == pytest.approx(1.2, rel=1e-9)
    assert result["sips"].value == pytest.approx(1.2, rel=1e-9)
    assert result.logged_value == pytest.approx(2 * sum(RATES.values()) / 6, rel=1e-9)
    assert result["rips"].difference == pytest.approx(0.3, rel=1e-9)
    assert all(slot.mean_weight == pytest.approx(1) for slot in result.slots)
    assert result["cascade_dr"].low < 1.2 < result["cascade_dr"].high
    # A pin of the first slot: its item for sure, and the others evenly behind it.
    pinned = service.shop.placements.get("home")[1].model_copy(update={"pins": {1: "i4"}})
    others = [rate for item, rate in RATES.items() if item != "i4"]
    value = estimate(service, OtherConfiguration("pinned", placements={"home": pinned}), n=30)
    assert value == pytest.approx(0.1 + np.mean(others), rel=1e-9)


def test_without_a_policy_lists_are_what_the_rules_make_them(service: Any) -> None:
    """A configuration without a draw: 1 where it has the item there, 0 elsewhere; it earns what its one list earns."""
    put(service)
    trace = ask(service)[0]
    traces = every_list(trace, 4)
    service.store.append_traces(traces)
    close(service, traces, expected_rewards)
    plain = service.shop.placements.get("home")[1].model_copy(update={"policy": None})
    other = OtherConfiguration("plain", placements={"home": plain})
    lists = logged_lists(service, other)
    certain = [one for one in lists if (one.target_probabilities == 1).all()]
    half = [one for one in lists if one.target_probabilities.tolist() == [1, 0]]
    assert (len(certain), len(half)) == (4, 4 * 4)
    assert estimate(service, other) == pytest.approx(certain[0].rewards.sum(), rel=1e-9)
    refused = what_if(service, other)
    assert refused.refusal is not None
    assert "worth" in refused.refusal.reasons[0]


def test_rules_that_cannot_be_are_named(service: Any) -> None:
    put(service)
    traces = ask(service, 2)
    close(service, traces, expected_rewards)
    with pytest.raises(ConfigError, match="filter cannot be used"):
        what_if(service, OtherConfiguration("bad", {"rules": zy.Rules.from_dict({"filter": "colour = 'red'"})}))
    with pytest.raises(ConfigError, match=r"\[placements.home\] k"):
        OtherConfiguration.of_settings(_config({"home": {"k": -1}}), "bad")


def _config(placements: dict[str, Any]) -> Any:
    from zhiyin.data.project_config import Config

    return Config(placements=placements)


# -- other versions ----------------------------------------------------------------------------------------------------


def test_another_version_over_the_same_items(service: Any) -> None:
    """Both versions may draw the same six items evenly: the lists are the same in distribution, and so is the value."""
    put(service)
    traces = ask(service, 30)
    close(service, traces, expected_rewards)
    other = OtherConfiguration("popular", version=2)
    for one in logged_lists(service, other):
        assert one.target_probabilities == pytest.approx(one.propensities, rel=1e-12)
    with pytest.raises(ConfigError, match="there is no version 9"):
        what_if(service, OtherConfiguration("gone", version=9))


def test_a_version_is_not_asked_about_what_it_has_learned_from(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(service)
    traces = ask(service, 3)
    close(service, traces, expected_rewards)
    replay = WhatIfReplay(service.live, service.shop.placements, OtherConfiguration("later", version=2))
    target = replay._version(2, other=True)
    assert target is not None
    target.loaded.trained_until = traces[1].time
    answers = [replay.logged_list(decision) for decision in service.store.closed_decisions("home")]
    assert [isinstance(one, str) for one in answers] == [True, True, False]
    assert "has learned from what came after them" in str(answers[0])


def test_a_history_in_the_codes_of_another_version_is_that_of_the_version(service: Any) -> None:
    put(service, filter="")
    click(service, {"user": "u2", "item": "i9", "kind": "view"}, {"user": "u2", "item": "i11", "kind": "view"})
    trace = ask(service, 1, user="u2")[0]
    logged = service.live.view()
    other, _ = service.live.view_of(service.live.load(service.live.bundles.get(2)))
    setting = service.shop.placements.get("home")[1]
    request, _ = request_of_trace(trace, other, setting, logged=logged)
    expected = service.live.user_history(other, "u2")
    for name in ("items", "times", "kinds", "weights"):
        assert getattr(request.history, name).tolist() == getattr(expected.history, name).tolist()
    history = service.live.user_history(logged, "u2")
    assert translated_history(history, logged, other, "u2").code == expected.code
    assert translated_history(history, logged, other, None).code == -1


# -- learned policies --------------------------------------------------------------------------------------------------


def test_lists_of_a_learned_policy(service: Any) -> None:
    """Logged by a snapshot: that snapshot says just the same, the prior something else, one that is gone nothing."""
    put(service, k=3, filter="", kind="lin_ts", settings={"draws": 20}, exploration={"share": 0.9})
    click(service, *({"user": f"u{n}", "item": f"i{n}", "kind": "view"} for n in range(0, 20, 2)))
    learned(service)
    traces = ask(service, 30)
    assert {trace.head["decision"]["snapshot"] for trace in traces} == {1}
    close(service, traces, lambda trace: [0.0, 1.0, 0.0])
    for snapshot in ("logged", "newest", 1):
        for one in logged_lists(service, OtherConfiguration("same", snapshot=snapshot)):  # type: ignore[arg-type]
            assert (one.target_probabilities == one.propensities).all()
    prior = logged_lists(service, OtherConfiguration("prior", snapshot=0))
    assert any((one.target_probabilities != one.propensities).any() for one in prior)
    assert what_if(service, OtherConfiguration("gone", snapshot=7)).left_out == {
        "snapshot 7 of the policy is gone: only the newest ones are kept": 30
    }
    greedy = service.shop.placements.get("home")[1]
    greedy = greedy.model_copy(update={"policy": greedy.policy.model_copy(update={"mode": "shadow"})})
    plain = greedy.model_copy(update={"policy": None})
    shadow, none = (
        logged_lists(service, OtherConfiguration("", placements={"home": setting})) for setting in (greedy, plain)
    )
    for one, other in zip(shadow, none, strict=True):  # the baseline is the list without a policy
        first = int(np.argmin(np.append(other.target_probabilities, 0)))
        assert one.target_probabilities[: first + 1].tolist() == other.target_probabilities[: first + 1].tolist()


# -- what is left out --------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted(service: Any) -> None:
    put(service)
    traces = ask(service, 12)
    close(service, traces[:10], lambda trace: None if trace is traces[0] else expected_rewards(trace))
    result = what_if(service, SAME)
    assert result.left_out == {"their reward window is open": 2, "they were not shown": 1}
    assert result.n_lists == 9
    assert what_if(service, SAME, limit=4).n_lists == 4
    middle = sorted(trace.time for trace in traces[:10])[5]
    assert what_if(service, SAME, first_time=middle).n_lists == 5
    assert what_if(service, SAME, last_time=middle - 1).n_lists + 1 == 5
    stopped = what_if(service, SAME, seconds=0.0)
    assert any("Time ran out" in note for note in stopped.notes())
    shorter = service.shop.placements.get("home")[1].model_copy(update={"k": 1})
    result = what_if(service, OtherConfiguration("shorter", placements={"home": shorter}))
    assert any("9 lists are longer than those of the configuration" in note for note in result.notes())
    assert len(result.slots) == 1
    longer = shorter.model_copy(update={"k": 3})
    result = what_if(service, OtherConfiguration("longer", placements={"home": longer}))
    assert any("9 lists are shorter than those of the configuration" in note for note in result.notes())
    assert not any("shorter" in note for note in what_if(service, SAME).notes())
    service.shop.list_service.trace_quota.allow = lambda key, size: False
    (stripped,) = ask(service, 1)
    close(service, [stripped], expected_rewards)
    result = what_if(service, SAME)
    assert [number for reason, number in result.left_out.items() if "not kept in full" in reason] == [1]


def test_control_lists_count_only_where_they_would_be_the_same(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ids of lists are random: every third list is the policy's, whatever they are.
    shares = itertools.cycle([0.99, 0.01, 0.99])
    monkeypatch.setattr("zhiyin.service.policy_serving.unit_interval_hash", lambda list_id, name: next(shares))
    put(service, mode="guarded")
    traces = ask(service, 60)
    close(service, traces, expected_rewards)
    same = what_if(service, SAME)
    assert same.used == {"control": 40, DRAWN: 20}
    other = what_if(service, OtherConfiguration("online", mode="online"))
    assert other.used.keys() == {DRAWN}
    assert any("made without a draw (control)" in reason for reason in other.left_out)
    never = what_if(service, OtherConfiguration("online", mode="online"), limit=1)
    assert never.refusal is not None


# -- over HTTP, from Python and by the command -------------------------------------------------------------------------


def test_over_http(service: Any) -> None:
    every_item(service)
    body = {"placement": "home", "rules": {"filter": WITHOUT_I4}}
    answer = service.post("/v1/whatif", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["refusal"] is None
    assert {one["estimator"]: one["value"] for one in told["estimates"]}["rips"] == pytest.approx(0.52)
    assert told["target"] == "other rules"
    assert "+0.07 a list (+15.6% of what the log earned)" in told["verdict"]
    settings = {"k": 1, "filter": SIX, "exclude_seen": False, "policy": EVEN | {"mode": "shadow"}}
    few = service.post("/v1/whatif", json={"placement": "home", "settings": settings, "limit": 12}).json()
    assert few["lists"] == 12
    assert few["refusal"]["remedies"]
    nowhere = service.post("/v1/whatif", json={"placement": "hoem"})
    assert (nowhere.status_code, nowhere.json()["remedy"]) == (404, "did you mean 'home'?")
    assert service.post("/v1/whatif", json={"placement": "home", "as_placement": "hoem"}).status_code == 404
    version = service.post("/v1/whatif", json={"placement": "home", "version": 99})
    assert (version.status_code, version.json()["remedy"]) == (404, "there are 1, 2")
    assert service.post("/v1/whatif", json={"placement": "default"}).json()["refusal"] is not None
    assert service.post("/v1/whatif", json={"limit": 1_000_000}).status_code == 422
    wrong = service.post("/v1/whatif", json={"placement": "home", "rules": {"filtre": "price > 3"}})
    assert wrong.status_code == 400
    assert "filter" in wrong.text
    reader = {"Authorization": f"Bearer {service.keys['read']}"}
    assert service.post("/v1/whatif", json=body, headers=reader).status_code == 403


def test_one_at_a_time(service: Any) -> None:
    from zhiyin.service.whatif_routes import _alone

    with _alone():
        answer = service.post("/v1/whatif", json={})
    assert answer.status_code == 429
    assert "another what-if" in answer.json()["error"]
    assert service.post("/v1/whatif", json={}).status_code == 200


def test_from_python_and_by_the_command(service: Any, home: Path, tmp_path: Path) -> None:
    every_item(service)
    project, other = tmp_path / "zhiyin.toml", tmp_path / "new.toml"
    project.write_text(f'[train]\noutput = "{home}"\n[service]\nstore = "{service.store.address}"\n')
    other.write_text(f'[rules]\nfilter = "{WITHOUT_I4}"\n')
    result = zy.whatif(other, project=project)
    assert result["rips"].value == pytest.approx(0.52)
    assert result.placement == "home"
    assert "+0.07 a list" in result.verdict()
    same = zy.whatif(project=project, since="1h", limit=20)
    assert same.evaluation is not None
    assert same.evaluation.support.mean_weight == 1
    assert zy.whatif(project=project, until="1h", limit=20).refusal is not None
    with pytest.raises(ConfigError, match="no estimator of lists"):
        zy.whatif(other, project=project, estimators=["rip"])
    with pytest.raises(DataError, match="no store yet"):
        zy.whatif(other, project=project, store=str(tmp_path / "absent.db"))

    command = ["whatif", str(other), "-c", str(project)]
    run = CliRunner().invoke(app, [*command, "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["estimates"][0]["value"] == pytest.approx(0.52)
    refused = CliRunner().invoke(app, [*command, "--limit", "12"])
    assert refused.exit_code == 1
    assert "mean weight" in refused.stdout  # the support of each slot
    misspelt = tmp_path / "misspelt.toml"
    misspelt.write_text("# other settings\n[placements.home]\nk = 2\n\n[placements.home.policy]\nkindd = 'lin_ts'\n")
    with pytest.raises(ConfigError, match=r"policy\.kindd: there is no such key") as wrong:
        zy.whatif(misspelt, project=project)
    assert (Path(str(wrong.value.file)), wrong.value.row) == (misspelt, 6)
    assert "'kind'" in str(wrong.value)
    with pytest.raises(ConfigError, match="no placement 'hoem'"):
        zy.whatif(other, project=project, placement="hoem")
    for arguments in (["--snapshot", "old"], ["--mode", "onlin"], ["--interval", "student"], ["--log", str(other)]):
        assert CliRunner().invoke(app, [*command, *arguments]).exit_code == 1, arguments
    export = service.store.export(tmp_path / "export")
    by_log = CliRunner().invoke(app, ["whatif", "--log", str(export), "--target", "uniform"])
    assert by_log.exit_code == 0, by_log.output
    assert "minus the log" in by_log.stdout
    uniform = zy.whatif(log=export, target="uniform")
    assert uniform.used == {DRAWN: 132}
    assert uniform["rips"].value == uniform.logged_value == pytest.approx(0.45)


def test_moments() -> None:
    assert moment_of("1970-01-02", 0) == 86_400_000_000
    assert moment_of("1h", 3_600_000_000) == 0
    assert moment_of(5, 0) == 5
    assert moment_of(None, 0) is None
    with pytest.raises(ConfigError, match="no moment"):
        moment_of("yesterday", 0)
