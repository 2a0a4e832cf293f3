"""The first list after the service is ready waits for nothing to be compiled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette")

SCRIPT = """
import gc, sys
from pathlib import Path
import numba
import numpy as np
from tests.service import ranked
from zhiyin.data.catalogue import Catalogue
from zhiyin.pipeline.item_statistics import ItemStatistics
from zhiyin.pipeline.list_features import ListFeatures
from zhiyin.pipeline.list_policy import MODES, ExplorationLimits, ListPolicy
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.request import Request
from zhiyin.policies.action_sets import Outcomes
from zhiyin.policies.registry import make, names
from zhiyin.service.app import create_app
from zhiyin.service.key_cache import Keys
from zhiyin.service.serving_state import ServingState
from zhiyin.service.tenant import Tenant
from zhiyin.store.store import Store

folder = Path(sys.argv[1])
if sys.argv[2] == "write":
    data = ranked.data_of(ranked.log(60))
    bundles = Bundles(folder)
    bundles.write(ranked.pipeline_of(data), figures={}, catalogue=Catalogue.of(data))
    bundles.promote(1)
    sys.exit()

def compiled():
    kernels = [one for one in gc.get_objects() if isinstance(one, numba.core.dispatcher.Dispatcher)]
    return {(one.py_func.__module__, one.__name__): list(one.signatures) for one in kernels if one.signatures}

store = Store(folder / "shop.db")
live = ServingState(Bundles(folder), store)
keys, shown = Keys.open(store)
tenant = Tenant("shop", live, keys)
from starlette.testclient import TestClient
client = TestClient(create_app([tenant]))
client.headers["Authorization"] = "Bearer " + shown["admin"]
assert client.get("/ready").status_code == 200
before = compiled()
for user in ("u3", "nobody"):
    for event in ([], [{"user": user, "item": "i5"}]):
        if event:
            assert client.post("/v1/events", json={"events": event}).status_code == 200
        for body in ({}, {"diversity": "mmr"}, {"diversity": "dpp"}, {"diversity": "calibrate"},
                     {"filter": "price > 3 AND genre = 'drama'"},
                     {"explain": True, "fields": ["title"]}, {"boosts": [{"when": "price > 5", "multiply": 2}]}):
            answer = client.post("/v1/recommendations", json={"user": user, "k": 5, **body})
            assert answer.status_code == 200, answer.text
for body in ({"user": "u3", "exclude": ["i1"], "include": ["i2", "i3"]}, {"user": "u3", "pins": {"1": "i9"}},
             {"history": ["i1", "i2"], "k": 3, "exclude_seen": True}, {"user": "u3", "k": 1_000}):
    assert client.post("/v1/recommendations", json=body).status_code == 200
for path, body in (("rank", {"user": "u3", "items": ["i1", "i2", "zz"], "explain": True}),
                   ("pages", {"user": "u3", "widgets": [{"name": "a", "kind": "trending"}, {"name": "b"}]})):
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
for path in ("items/i3/similar", "users/u3/similar", "popular", "trending", "covisits?user=u3", "covisits?item=i5",
             "items?search=film", "users/u3/history"):
    answer = client.get(f"/v1/{path}")
    assert answer.status_code == 200, answer.text
assert client.put("/v1/placements/bold", json={"explore": 1.0}).status_code == 200
answer = client.post("/v1/recommendations", json={"user": "u3", "placement": "bold"})
assert answer.status_code == 200, answer.text
for name, settings in (("even", {"k": 4}), ("odd", {"k": 4, "diversity": "mmr"})):
    assert client.put(f"/v1/placements/{name}", json=settings).status_code == 200
mixed = {"placement": "even", "kind": "interleaving", "arms": {"control": {}, "odd": {"placement": "odd"}}}
answer = client.put("/v1/experiments/taste", json=mixed)
assert answer.status_code == 200, answer.text
answer = client.post("/v1/recommendations", json={"user": "u3", "placement": "even"})
assert answer.json()["experiments"] == {"taste": "interleaved"}, answer.text
own = {"policy": {"kind": "lin_ts", "actions": "own", "mode": "online"}}
assert client.put("/v1/placements/own", json=own).status_code == 200
asked = {"policy": "own", "actions": [{"id": "a", "features": {"price": 3}}, {"id": "b"}]}
answer = client.post("/v1/decisions", json=asked)
assert answer.status_code == 200, answer.text
view = live.view()
layout = ListFeatures.of(view.answers)
for kind in names():
    policy = make(kind)
    outcomes = Outcomes([1, 2], [0.0, 1.0], np.zeros((2, len(layout.names))) if kind != "BetaBernoulli" else None)
    learned = {name for name in compiled()}
    if kind != "TopKReinforce":
        policy.update(outcomes)  # the learner's kernels are not on the way of a list
    before |= {name: signatures for name, signatures in compiled().items() if name not in learned}
    for mode in MODES:
        chosen = ListPolicy(policy, "home", layout, mode=mode, limits=ExplorationLimits(0.2, {1: 0.1}),
                            statistics=ItemStatistics())
        for user in ("u3", "nobody"):
            answer = view.answers.ask(Request(user=user, k=5, policy=chosen))
            assert answer.decision.reason == "", answer.decision
after = compiled()
fresh = {name: signatures for name, signatures in after.items() if signatures != before.get(name)}
tenant.close()
print("compiled while somebody waited:", fresh)
"""


@pytest.mark.slow
def test_the_first_list_waits_for_nothing(tmp_path: Path) -> None:
    for step in ("write", "serve"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "bundles"), step], text=True,
                              capture_output=True, check=False, cwd=Path(__file__).parents[2])  # fmt: skip
        assert done.returncode == 0, done.stderr[-3_000:]
    assert "compiled while somebody waited: {}" in done.stdout, done.stdout
