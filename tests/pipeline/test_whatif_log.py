"""What if, over logs of other systems: the same figures as by hand, and which policies such logs can answer for."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.pipeline.whatif_log import log_kind, target_of, what_if_log
from zhiyin.policies.action_sets import Outcomes, action_keys
from zhiyin.policies.beta_bernoulli import BetaBernoulli
from zhiyin.policies.lin_ts import LinTS

N = 4000
RATES = np.array([0.1, 0.3, 0.2])


def bandit_lines(seed: int = 0) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray, np.ndarray]:
    """dsjson of a bandit that draws one of three actions, listed in an order of its own; actions, rewards, pmfs."""
    rng = np.random.default_rng(seed)
    pmfs = rng.dirichlet(np.full(3, 4.0), N) * 0.7 + 0.1
    actions = np.array([rng.choice(3, p=pmf) for pmf in pmfs])
    rewards = (rng.random(N) < RATES[actions]).astype(float)
    lines = []
    for number, (action, reward, pmf) in enumerate(zip(actions, rewards, pmfs, strict=True)):
        order = rng.permutation(3)
        lines.append({
            "_label_cost": -reward, "_label_probability": pmf[action], "_label_Action": int(action) + 1,
            "a": (order + 1).tolist(), "p": pmf[order].tolist(), "EventId": f"e{number}", "c": {},
        })  # fmt: skip
    return lines, actions, rewards, pmfs


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    content = "\n".join(map(json.dumps, lines)).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_targets_over_dsjson(tmp_path: Path) -> None:
    lines, actions, rewards, pmfs = bandit_lines()
    path = written(tmp_path / "log.json.gz", [*lines, {"checkpoint_info": {}}])
    logged = pmfs[np.arange(N), actions]
    best = pmfs.argmax(axis=1) == actions
    expected = {
        "uniform": (rewards / 3 / logged).mean(),
        "first": (rewards * (actions == 0) / logged).mean(),
        "epsilon-greedy:0.3": (rewards * (0.1 + 0.7 * best) / logged).mean(),
    }
    for target, value in expected.items():
        result = what_if_log(path, target)
        assert result["ips"].value == pytest.approx(value)
        assert result["ips"].difference == pytest.approx(value - rewards.mean())
        assert result.used == {"drawn": N}
        assert result.left_out == {"no decision of a bandit": 1}
    assert what_if_log(path, "first").target == "always the first action"
    told = f"{result.verdict()} {result}"
    assert " a decision (" in told
    assert "reward per decision" in told
    assert "lists" not in told
    assert json.loads(json.dumps(result.to_dict()))["lists"] == N


def test_a_saved_policy_over_dsjson(tmp_path: Path) -> None:
    """Success rates learned of action 2, the best one: it earns more than the log."""
    lines, *_ = bandit_lines(1)
    path = written(tmp_path / "log.json", lines)
    policy = BetaBernoulli(floor=0.05)
    keys = action_keys(["1", "2", "3"])
    policy.update(Outcomes(np.repeat(keys, 400), np.concatenate([np.arange(400) < 400 * rate for rate in RATES])))
    policy.save(tmp_path / "policy")
    result = what_if_log(path, str(tmp_path / "policy"))
    assert "BetaBernoulli" in result.target
    assert result["ips"].difference_low > 0
    assert result["ips"].low < 0.95 * 0.3 + 0.05 * RATES.mean() < result["ips"].high
    with pytest.raises(DataError, match="LinTS chooses by features"):
        what_if_log(path, LinTS())


def test_lists_of_dsjson(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    lines, values, logged_rewards = [], [], []
    for _ in range(3000):
        first = rng.choice(3, p=[0.5, 0.3, 0.2])
        second = rng.random() < 0.6
        costs = [-float(rng.random() < 0.3), -float(rng.random() < 0.1)]
        p = [[0.5, 0.3, 0.2], [0.6, 0.4]]
        p[0].insert(0, p[0].pop(first))
        p[1] = p[1] if second else p[1][::-1]
        lines.append({"_outcomes": [
            {"_label_cost": cost, "_a": list(range(len(pmf))), "_p": pmf} for cost, pmf in zip(costs, p, strict=True)
        ], "c": {}})  # fmt: skip
        weights = np.cumprod([1 / 3 / p[0][0], 1 / 2 / p[1][0]])
        values.append(-(weights * costs).sum())
        logged_rewards.append(-sum(costs))
    result = what_if_log(written(tmp_path / "ccb.json", lines), "uniform")
    assert result["rips"].value == pytest.approx(np.mean(values))
    assert result.logged_value == pytest.approx(np.mean(logged_rewards))
    greedy = what_if_log(tmp_path / "ccb.json", "epsilon-greedy:0")
    assert greedy.slots[0].mean_weight == pytest.approx(1, abs=0.1)
    with pytest.raises(ConfigError, match="by place only"):
        what_if_log(tmp_path / "ccb.json", "first")


def test_a_file_in_the_form_of_open_bandit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    probabilities = np.array([0.5, 0.3, 0.2])
    items, positions = rng.choice(3, N, p=probabilities), rng.integers(1, 3, N)
    clicks = (rng.random(N) < RATES[items]).astype(int)
    rows = [
        f"2020-01-01 00:00:{number:07},{item},{position},{click},{probabilities[item]}"
        for number, (item, position, click) in enumerate(zip(items, positions, clicks, strict=True))
    ]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["timestamp,item_id,position,click,propensity_score", *rows]))
    uniform = what_if_log(path, "uniform")
    assert uniform["ips"].value == pytest.approx((clicks / 3 / probabilities[items]).mean())
    greedy = what_if_log(path, "epsilon-greedy:0.2")
    target = np.where(items == 0, 0.8 + 0.2 / 3, 0.2 / 3)
    assert greedy["ips"].value == pytest.approx((clicks * target / probabilities[items]).mean())
    with pytest.raises(ConfigError, match="which action comes first"):
        what_if_log(path, "first")


def test_the_open_bandit_dataset() -> None:
    """Random and Thompson sampling: the log of women by Thompson sampling cannot answer for showing all items alike."""
    folder = Path(os.environ.get("ZHIYIN_DATA", "")) / "open-bandit"
    if not (folder / "random_women.csv").is_file():
        pytest.skip("ZHIYIN_DATA has no open-bandit/random_women.csv")
    result = what_if_log(folder / "random_women.csv", "uniform")
    assert result["ips"].difference == pytest.approx(0, abs=1e-4)
    refused = what_if_log(folder / "bts_women.csv", "uniform")
    assert refused.refusal is not None
    assert "effective sample size" in refused.refusal.reasons[0]


def test_what_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        log_kind(tmp_path / "absent.json")
    (tmp_path / "ratings.csv").write_text("user,item\na,b\n")
    with pytest.raises(DataError, match="no log of decisions"):
        log_kind(tmp_path / "ratings.csv")
    with pytest.raises(DataError, match="no export of a store"):
        log_kind(tmp_path)
    (tmp_path / "lists").mkdir()
    assert log_kind(tmp_path) == "export"
    with pytest.raises(DataError, match="no closed decisions"):
        what_if_log(tmp_path)
    for target, message in [("unifrom", "there is no target"), ("epsilon-greedy:many", "is no share")]:
        with pytest.raises(ConfigError, match=message):
            target_of(target)
    with pytest.raises(ConfigError, match="floor"):
        target_of("epsilon-greedy:3")
