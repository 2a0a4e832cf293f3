"""The service keeps to its description: Schemathesis asks all that it allows, and much that it does not."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from typing import Any

import pytest

from tests.examples import examples

pytest.importorskip("starlette")
pytest.importorskip("schemathesis")

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.engine import events, from_schema

from zhiyin.api.endpoints import ENDPOINTS

from . import openapi_values

JSON = {"Content-Type": "application/json"}


# Requests that are drawn for each operation, beside those that its description names by its bounds. For a longer run:
# ZHIYIN_EXAMPLES=1000 pytest tests/service/test_openapi.py -k description
EXAMPLES = int(os.environ.get("ZHIYIN_EXAMPLES", "6"))


@pytest.mark.slow
def test_the_service_keeps_to_its_description(service: Any) -> None:
    """All checks of Schemathesis, on all routes: what the description allows is taken, what it does not is refused."""
    openapi_values.register()
    service.put("/v1/placements/default", json={"k": 5})
    service.put("/v1/placements/home", json={"k": 5, "policy": {"kind": "lin_ts", "settings": {"draws": 20}}})
    service.post("/v1/policies/home/kill")
    openapi_values.LISTS[:] = [
        service.post("/v1/recommendations", json={"user": f"u{n}"}).json()["list_id"] for n in range(3)
    ]
    assert service.put("/v1/placements/elsewhere", json={"k": 5}).status_code == 200
    taste = {"placement": "elsewhere", "arms": {"control": {}, "b": {}}}
    assert service.put("/v1/experiments/taste", json=taste).status_code == 200
    policy = {"kind": "lin_ts", "actions": "own", "mode": "online"}
    assert service.put(f"/v1/placements/{openapi_values.POLICY}", json={"policy": policy}).status_code == 200
    decided = {"policy": openapi_values.POLICY, "actions": [{"id": "a"}], "event_id": openapi_values.DECISION}
    assert service.post("/v1/decisions", json=decided).status_code == 200
    config = schemathesis.Config.from_dict({
        "headers": {"Authorization": service.headers["Authorization"]},
        "generation": {"max-examples": EXAMPLES, "deterministic": True},
        "request-timeout": 120,  # a request that hangs is ended by the service, as 503
        "phases": {"stateful": {"enabled": False}},
    })  # fmt: skip
    schema = schemathesis.openapi.from_asgi("/openapi.json", service.app, config=config)
    labels = {found.ok().label for found in schema.get_all_operations()}
    answered: dict[str, Counter[tuple[str, int]]] = {label: Counter() for label in labels}
    checked: Counter[str] = Counter()
    wrong: list[str] = []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            wrong.append(f"{event}: {vars(event)}")
        if not isinstance(event, events.ScenarioFinished):
            continue
        for id, node in event.recorder.cases.items():
            done = event.recorder.interactions.get(id)
            if done is not None and done.response is not None and node.value.meta is not None:
                mode = node.value.meta.generation.mode.value
                answered[event.recorder.label][mode, done.response.status_code] += 1
        for id, checks in event.recorder.checks.items():
            for check in checks:
                checked[check.name] += 1
                if check.failure_info is not None:
                    done = event.recorder.interactions.get(id)
                    text = "" if done is None or done.response is None else done.response.text[:500]
                    wrong.append(
                        f"{check.failure_info.failure.message}\n{check.failure_info.code_sample[:2000]}\n{text}"
                    )
    assert not wrong, f"{len(wrong)} of {checked.total()}:\n" + "\n\n".join(wrong[:20])
    assert {"positive_data_acceptance", "negative_data_rejection", "not_a_server_error", "status_code_conformance",
            "response_schema_conformance", "unsupported_method", "ignored_auth"} <= set(checked)  # fmt: skip
    # No route is passed over: each is asked for something possible and something impossible, and gives what was wanted.
    # What the version was not trained for is refused as that.
    unfit = {"POST /v1/predict": 409, "POST /v1/ads": 409}
    few = {label: count for label, count in answered.items() if not count["positive", unfit.get(label, 200)]}
    assert not few
    bodies = {label for label in labels if label.startswith(("POST", "PUT", "PATCH")) and "replay" not in label}
    assert not [label for label in bodies if not answered[label]["negative", 422] + answered[label]["negative", 400]]


def test_all_answers_are_described(service: Any) -> None:
    said = service.get("/openapi.json").json()
    there = {(method, path) for path, operations in said["paths"].items() for method in operations}
    assert there == {(endpoint.method.lower(), endpoint.path) for endpoint in ENDPOINTS.values()}
    for method, path in there:
        answers = said["paths"][path][method]["responses"]
        wanted = {"401", "403", "404", "413", "422", "429", "503", "507"} if path.startswith("/v1") else set()
        assert wanted <= set(answers)
        assert answers["200"]["content"]
    refusal = said["paths"]["/v1/recommendations"]["post"]["responses"]["429"]
    assert refusal["headers"]["Retry-After"]
    assert refusal["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Refusal"}


def test_the_page_needs_nothing_from_elsewhere(service: Any) -> None:
    answer = service.get("/docs", headers={"Authorization": ""})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.findall(r"https?:|//|<script|<link|<img|@import|url\(", answer.text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path, operations in service.get("/openapi.json").json()["paths"].items():
        assert len(re.findall(rf"<code>{re.escape(path)}</code>", answer.text)) == len(operations)
    names = set(re.findall(r'href="#(\w+)"', answer.text))
    assert names
    assert names <= set(re.findall(r'id="(\w+)"', answer.text))
    assert service.get("/redoc").status_code == 404


# -- what nobody thought of --------------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=8), part, max_size=4),
    max_leaves=12,
)
WORDS = st.sampled_from(["u1", "i1", "知音", " ", "\x00", "a" * 257, "\ud800", "\u202ex"]) | st.text(max_size=6)
NEAR = st.fixed_dictionaries(
    {"user": WORDS, "item": WORDS},
    optional={
        "id": st.sampled_from(["a", "b", "c", "d"]) | WORDS, "kind": WORDS | ANYTHING, "value": st.floats() | ANYTHING,
        "time": st.integers(-5, 2**70) | ANYTHING, "list_id": WORDS, "more": ANYTHING,
    },
)  # fmt: skip


@settings(
    max_examples=examples(120), derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(events=st.lists(NEAR | ANYTHING, min_size=1, max_size=6), lines=st.booleans())
def test_each_event_is_kept_once_or_refused(service: Any, events: list[Any], lines: bool) -> None:
    before = service.store.count()
    if lines:
        content, kind = "\n".join(json.dumps(event) for event in events), "application/x-ndjson"
    else:
        content, kind = json.dumps({"events": events}), "application/json"
    answer = service.post("/v1/events", content=content, headers={"Content-Type": kind})
    assert answer.status_code in (200, 400), answer.text
    told = answer.json()["events"]
    assert len(told) == len(events)
    fates = Counter(one["status"] for one in told)
    assert set(fates) <= {"accepted", "known", "rejected"}
    assert answer.json()["rejected"] == fates["rejected"]
    assert answer.status_code == (200 if fates["rejected"] < len(events) else 400)
    assert service.store.count() == before + fates["accepted"]
    kept = {event["id"]: event for event in service.store.events(0, 100_000).to_dicts()}
    assert len(kept) == service.store.count()
    for one, event in zip(told, events):
        if one["status"] == "rejected":
            assert one["reason"]
            continue
        found = kept[one["id"]]
        if one["status"] == "accepted":
            assert (found["user"], found["item"]) == (event["user"], event["item"])


DEEP = "[" * 100_000 + "]" * 100_000
ROUTES = ["POST /v1/recommendations", "POST /v1/rank", "POST /v1/pages", "POST /v1/events", "PUT /v1/items/i1",
          "PATCH /v1/users/u1", "PUT /v1/placements/p", "POST /v1/placements/p/rollback", "POST /v1/items",
          "POST /v1/impressions/none"]  # fmt: skip


WRONG = [
    DEEP, '{"a":' * 50_000 + "1" + "}" * 50_000, '{"k": ' + "9" * 5_000 + "}", '{"k": 1e400}', '{"k": -Infinity}',
    '{"user": ' + DEEP + "}", '{"events": ' + DEEP + "}", '{"items": ["i1", ' + DEEP + "]}", '{"version": NaN}',
    "\x00", "null", "true", '"text"', "{}{}", '{"k": 3,}', "{" * 1_000_000, '{"\\ud800": 1}',
    json.dumps({f"c{n}": n for n in range(20_000)}), json.dumps({"price": 10**400}),
    json.dumps({"title": "x" * 1_000_000}), json.dumps({"exclude": ["x"] * 200_000}),
]  # fmt: skip
# Wrong but for columns, which may be long lists.
LONG = [
    json.dumps({name: [one] * 10_001})
    for name, one in (
        ("items", "i1"),
        ("history", "i1"),
        ("events", {"user": "a", "item": "b"}),
        ("widgets", {"name": "a"}),
    )
]


@pytest.mark.parametrize("route", ROUTES)
def test_bodies_that_nobody_should_send(service: Any, route: str) -> None:
    method, path = route.split()
    for body in WRONG + ([] if path in ("/v1/items/i1", "/v1/users/u1") else LONG):
        answer = service.request(method, path, content=body.encode("utf-8", "surrogatepass"), headers=JSON)
        assert 400 <= answer.status_code < 500, (body[:60], answer.status_code, answer.text[:200])
        assert answer.json().keys() & {"error", "rejected"}
    for raw in (b"\xff\xfe\x00", b"\xc3\x28", b"\x80" * 1_000, b""):
        answer = service.request(method, path, content=raw, headers=JSON)
        assert 400 <= answer.status_code < 500, (raw[:20], answer.text)


def test_a_body_that_is_not_said_to_be_json(service: Any) -> None:
    answer = service.post("/v1/recommendations", content='{"user": "u3"}')
    assert answer.status_code == 422
    assert "application/json" in answer.json()["remedy"]


@pytest.mark.parametrize("value", ["9" * 5_000, "1e400", "nan", "-1", "%00", "%ff", "%ed%a0%80", "٣", "0x10"])
def test_numbers_of_queries_that_nobody_should_send(service: Any, value: str) -> None:
    for path in ("/v1/popular?k=", "/v1/items?k=", "/v1/users/u3/history?most=", "/v1/recommendations?k="):
        assert service.get(path + value).status_code == 422, path


@pytest.mark.parametrize("id", ["%00", "%ff", "%ed%a0%80", "a" * 257, "%2e%2e%2f", "%0a", "a%2fb", "%E2%80%AE"])
def test_ids_of_addresses_that_nobody_should_send(service: Any, id: str) -> None:
    for path in (f"/v1/items/{id}", f"/v1/users/{id}/history", f"/v1/lists/{id}", f"/v1/placements/{id}",
                 f"/v1/items/{id}/similar", f"/v1/users/{id}"):  # fmt: skip
        for method in ("GET", "PUT", "DELETE", "POST"):
            assert service.request(method, path, json={}).status_code < 500, (method, path)
