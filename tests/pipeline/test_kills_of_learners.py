"""A process that serves and learns is killed at random moments: no reward is lost or counted twice."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from benchmarks.policy_learning import killed

from tests.conftest import own_schema


@pytest.mark.slow
def test_no_kill_loses_or_doubles_a_reward(tmp_path: Path) -> None:
    figures = killed(str(tmp_path / "shop.db"), times=3)
    assert figures["decisions"] > 20
    assert figures["rewards"] > 20


@pytest.mark.slow
def test_no_kill_loses_or_doubles_a_reward_in_postgresql(postgres: str) -> None:
    assert killed(own_schema(postgres), times=2)["decisions"] > 10
