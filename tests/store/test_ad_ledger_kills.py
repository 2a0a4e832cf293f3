"""A process that displays, clicks and charges is killed at any moment: what is spent is what the log says, once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from zhiyin.store.ad_ledger import ALL_DAYS
from zhiyin.store.store import Store

pytestmark = pytest.mark.slow
_PROGRAM = """
import sys, threading, numpy as np
from zhiyin.store.ad_ledger import AdDisplay
from zhiyin.store.records import Event
from zhiyin.store.store import Store
from zhiyin.store.traces import Trace

store, name = Store(sys.argv[1]), sys.argv[2]
def charge():
    while True:
        store.charge_ads({"click": "click"}, 86_400_000_000, 600_000_000)
threading.Thread(target=charge, daemon=True).start()
number = 0
while True:
    number += 1
    list_id, price, now = f"{name}-{number}", 1_000 + number, store.clock()
    head = {"origin": "ads", "items": ["a"],
            "auction": {"ads": [{"campaign": "c", "pay": "click", "price": price, "expected": 100}]}}
    store.append_ad_lists([(Trace(list_id, None, now, 1, "default", head, {"scores": np.zeros(1, np.float32)}),
                            [AdDisplay("c", "a", 100, 100_000)])])
    store.append([Event("u", "a", now, "click", None, list_id, list_id)])
    print(list_id, price, flush=True)
"""


@pytest.mark.parametrize("budget", [None, 60_000])
def test_killed_at_any_moment(tmp_path: Path, budget: int | None) -> None:
    path, acknowledged = tmp_path / "shop.db", dict[str, int]()
    store = Store(path)
    store.put("campaigns", {"c": {"settings": "{}"} | ({} if budget is None else {"total_budget": budget})})
    for round in range(4):
        command = [sys.executable, "-c", _PROGRAM, str(path), f"r{round}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(5 + 7 * round):
            list_id, price = process.stdout.readline().split()
            acknowledged[list_id] = int(price)
        time.sleep(0.003 * round)
        process.kill()
        for line in process.stdout.read().splitlines():
            if len(words := line.split()) == 2:
                acknowledged[words[0]] = int(words[1])
        process.wait()
        process.stdout.close()
    for _ in range(2):  # by whoever comes next, and once
        store.charge_ads({"click": "click"}, 86_400_000_000, 600_000_000)
    clicked = {row["list_id"]: row for row in store.events(names=("seq", "list_id")).iter_rows(named=True)}
    assert acknowledged.keys() <= clicked.keys()
    prices = [1_000 + int(list_id.partition("-")[2]) for list_id in clicked]  # in the order of the log
    spent, paid = 0, 0
    for price in prices:
        if budget is None or spent + price <= budget:
            spent, paid = spent + price, paid + 1
    totals = store.ad_totals([ALL_DAYS])["c", ALL_DAYS]
    assert (totals.spend, totals.paid, totals.clicks) == (spent, paid, len(prices))
    assert totals.displays >= totals.clicks
    store.close()
