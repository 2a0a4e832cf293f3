"""Reading Vowpal Wabbit's decision logs: what is read, what is left out, and errors that name file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhiyin.core.errors import DataError
from zhiyin.policies.off_policy import SLATE_ESTIMATORS, evaluate_off_policy
from zhiyin.policies.off_policy.vowpal_wabbit_log import (
    DsjsonBatch,
    DsjsonLog,
    first_action_target,
    uniform_target,
)


def decision(cost: float, action: int, a: list[int], p: list[float], **others: Any) -> dict[str, Any]:
    """A line as the rl-client's joiner writes it."""
    return {
        "_label_cost": cost, "_label_probability": p[a.index(action)],
        "_label_Action": action, "_labelIndex": action - 1,
        "o": [{"v": -cost, "EventId": "e", "ActionTaken": False}], "Timestamp": "2021-02-04T16:31:29.2460000Z",
        "Version": "1", "EventId": f"event-{action}", "a": a,
        "c": {"User": {"_age": 3}, "_multi": [{"i": {"id": str(number)}} for number in a]}, "p": p,
        "VWState": {"m": "N/A"},
    } | others  # fmt: skip


DECISIONS = [
    decision(-1.0, 4, [4, 2, 1, 3], [0.05000000074505806, 0.85, 0.05, 0.05]),
    decision(0.0, 1, [1, 2], [0.9, 0.1], pdrop=0.5),
    decision(-0.25, 2, [2, 1, 3], [0.5, 0.25, 0.25], _skipLearn=True),
    decision(-0.5, 2, [2, 1], [0.3, 0.7]),
]
OTHERS = [
    {"RewardValue": 1.0, "EnqueuedTimeUtc": "2021-01-01T00:00:00Z", "EventId": "late"},
    {"checkpoint_info": {"reward_function_type": 0, "default_reward": 0.0}},
]


def written(folder: Path, lines: list[Any], name: str = "log.json") -> Path:
    path = folder / name
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["log.json", "log.json.gz"])
@pytest.mark.parametrize("block_bytes", [1, 700, 1 << 20])
def test_contextual_bandits(tmp_path: Path, name: str, block_bytes: int) -> None:
    log = DsjsonLog(written(tmp_path, [*DECISIONS[:2], "", OTHERS[0], *DECISIONS[2:], OTHERS[1]], name), block_bytes)
    batches = list(log.batches())

    def joined(column: str) -> list[float]:
        return np.concatenate([getattr(batch, column) for batch in batches]).tolist()

    assert joined("rewards") == [1.0, 0.0, 0.5]
    assert joined("propensities") == [0.05000000074505806, 0.9, 0.3]
    assert joined("pass_probabilities") == [1.0, 0.5, 1.0]
    assert joined("chosen") == [3, 0, 1]
    assert joined("actions") == [3, 1, 0, 2, 0, 1, 1, 0]
    assert joined("n_actions") == [4, 2, 2]
    assert joined("lines") == [1, 2, 6]
    assert [name for batch in batches for name in batch.event_ids] == ["event-4", "event-1", "event-2"]
    assert (log.n_skipped, log.n_not_learned) == (2, 1)


def test_probabilities_are_read_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0, 1, 500)
    lines = [decision(-1.0, 1, [1, 2], [p, 1 - p]) for p in probabilities.tolist()]
    batch = next(DsjsonLog(written(tmp_path, lines)).batches())
    assert batch.propensities.tolist() == probabilities.tolist()


def test_an_evaluation_of_a_log_on_disk(tmp_path: Path) -> None:
    """Blocks or not, the answers are those of the arrays."""
    rng = np.random.default_rng(1)
    n, p = 3000, np.array([0.6, 0.3, 0.1])
    actions = rng.choice(3, n, p=p)
    rewards = (rng.random(n) < np.array([0.1, 0.4, 0.2])[actions]).astype(float)
    lines = [
        decision(-reward, action + 1, [action + 1, *(k + 1 for k in range(3) if k != action)],
                 [p[action], *(p[k] for k in range(3) if k != action)])
        for action, reward in zip(actions.tolist(), rewards.tolist(), strict=True)
    ]  # fmt: skip
    log = DsjsonLog(written(tmp_path, lines), block_bytes=50_000)
    uniform = evaluate_off_policy(log.decisions(uniform_target))
    weights = (1 / 3) / p[actions]
    assert uniform["ips"].value == pytest.approx((weights * rewards).mean(), rel=1e-12)
    assert uniform["snips"].value == pytest.approx((weights * rewards).sum() / weights.sum(), rel=1e-12)
    assert uniform["ips"].low < (0.1 + 0.4 + 0.2) / 3 < uniform["ips"].high
    baseline = evaluate_off_policy(log.decisions(first_action_target))
    assert baseline["ips"].value == pytest.approx(((actions == 0) / p[0] * rewards).mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_label_probability": 0.0}, "line 3, column '_label_probability': the value cannot be: 0.0"),
        ({"_label_probability": None}, "line 3, column '_label_probability': the value cannot be: nothing"),
        ({"_label_probability": 0.31}, "chosen action has probability 0.3 in p and 0.31 in the label"),
        ({"p": [0.3]}, "line 3, column 'p': the value cannot be: [0.3]"),
        ({"a": []}, "line 3, column 'a'"),
        ({"a": [3, 1]}, "line 3, column '_label_Action'"),
        ({"a": [2, 2]}, "stands in a more than once"),
        ({"pdrop": 1.0}, "line 3, column 'pdrop'"),
        ({"_label_cost": "much"}, "line 3: the line cannot be read"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = written(tmp_path, [DECISIONS[0], "", DECISIONS[3] | change])
    with pytest.raises(DataError) as caught:
        list(DsjsonLog(path).batches())
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_lines_that_are_no_objects(tmp_path: Path) -> None:
    for bad in ("{", "[1]", "12"):
        path = written(tmp_path, [DECISIONS[0], bad])
        with pytest.raises(DataError, match="line 2: the line cannot be read"):
            list(DsjsonLog(path).batches())
    with pytest.raises(DataError, match="no such file"):
        DsjsonLog(tmp_path / "none.json")


def test_lists(tmp_path: Path) -> None:
    """CCB: costs by slot; slates: one cost for all of them. The first of _p is the chosen action's."""
    ccb = {"_outcomes": [
        {"_label_cost": -3.0, "_a": [2, 1, 3], "_p": [0.5, 0.25, 0.25]},
        {"_label_cost": -1.0, "_a": [1, 3], "_p": [0.5, 0.5]},
    ]}  # fmt: skip
    short = {"_outcomes": [{"_label_cost": 0.0, "_a": [1], "_p": [1.0]}]}
    slate = {"_label_cost": -2.0, "_outcomes": [{"_a": [0, 1], "_p": [0.8, 0.2]}, {"_a": [1, 0], "_p": [0.6, 0.4]}]}
    log = DsjsonLog(written(tmp_path, [ccb, short, DECISIONS[0], slate]), block_bytes=50)
    lists = log.slates()
    assert lists.rewards.tolist() == [[3.0, 1.0], [0.0, 0.0], [0.0, 2.0]]
    assert lists.propensities.tolist() == [[0.5, 0.5], [1.0, 1.0], [0.8, 0.6]]
    assert log.n_skipped == 1
    assert SLATE_ESTIMATORS["rips"].estimate(lists) == pytest.approx(2.0)
    with pytest.raises(DataError, match="no line has _outcomes"):
        DsjsonLog(written(tmp_path, DECISIONS)).slates()
    bad = {"_outcomes": [{"_label_cost": 0.0, "_a": [1, 2], "_p": [0.0, 1.0]}]}
    with pytest.raises(DataError, match="line 2, column '_p'"):
        DsjsonLog(written(tmp_path, [ccb, bad])).slates()


def test_vowpal_wabbit_reads_the_same(tmp_path: Path) -> None:
    """An independent reader of the lines: costs, probabilities and which action they belong to."""
    vw = pytest.importorskip("vowpalwabbit", reason="vowpalwabbit is not installed: an independent reader of dsjson")
    workspace = vw.Workspace("--cb_explore_adf --dsjson --quiet")
    lines = [DECISIONS[0], DECISIONS[3]]
    batch = next(DsjsonLog(written(tmp_path, lines)).batches())
    for row, line in enumerate(lines):
        examples = workspace.parse(json.dumps(line))
        labelled = []
        for number, example in enumerate(examples[1:]):
            costs = example.get_label(vw.LabelType.CONTEXTUAL_BANDIT).costs
            labelled += [(number, cost.cost, cost.probability) for cost in costs]
        assert len(labelled) == 1
        number, cost, probability = labelled[0]
        assert number == batch.chosen[row]
        assert -cost == pytest.approx(batch.rewards[row])
        assert probability == pytest.approx(batch.propensities[row], rel=1e-6)
        workspace.finish_example(examples)
    workspace.finish()


def test_vowpal_wabbit_estimates_the_same(tmp_path: Path) -> None:
    """Its average loss is the IPS estimate of its own predictions, each made before the line was learned from."""
    vw = pytest.importorskip("vowpalwabbit", reason="vowpalwabbit is not installed: an independent IPS estimate")
    rng = np.random.default_rng(4)
    p, rates = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.8])
    lines = []
    for action in rng.choice(3, 400, p=p).tolist():
        order = [action, *(k for k in range(3) if k != action)]
        reward = float(rng.random() < rates[action])
        lines.append(decision(-reward, action + 1, [k + 1 for k in order], p[order].tolist()))
    workspace = vw.Workspace("--cb_explore_adf --cb_type ips --epsilon 0.2 --dsjson --quiet")
    predicted = []
    for line in lines:
        examples = workspace.parse(json.dumps(line))
        predicted.append(workspace.predict(examples))
        workspace.learn(examples)
        workspace.finish_example(examples)
    average_loss = workspace.get_sum_loss() / workspace.get_weighted_examples()
    workspace.finish()
    probabilities = np.array(predicted)

    def target(batch: DsjsonBatch) -> np.ndarray:
        return np.minimum(probabilities[batch.lines - 1, batch.chosen], 1.0)

    result = evaluate_off_policy(DsjsonLog(written(tmp_path, lines)).decisions(target), ["ips"], refuse=False)
    assert result["ips"].value == pytest.approx(-average_loss, rel=1e-5)
