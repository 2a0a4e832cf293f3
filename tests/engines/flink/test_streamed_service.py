"""From the store through a real cluster of Flink to lists: the answers are those of a service that counts by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from tests.engines.flink.stream_load import need_flink, wait_until
from tests.service.conftest import home, opened, poll_seconds  # noqa: F401
from tests.service.stream_pair import Pair, events_of, patient
from zhiyin.engines.flink.jobs import JobOptions
from zhiyin.engines.flink.jobs_control import JobsControl
from zhiyin.engines.flink.local_cluster import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
JOBS = ("trending", "covisits", "histories")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    cluster = LocalCluster(tmp_path / "cluster", need_flink(), slots=len(JOBS))
    try:
        yield cluster
    finally:
        cluster.stop()
    assert cluster.daemons.running() == [], "processes outlived their cluster"


def test_a_service_over_flink_answers_as_one_that_counts_by_itself(
    cluster: LocalCluster,
    opened: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patient(monkeypatch)
    pair = Pair(opened, f"sqlite:///{tmp_path / 'streams.db'}", tmp_path / "streams")
    pair.post(events_of(pair.streamed.store.clock(), 600))
    pair.export()
    control = JobsControl(
        JobOptions(pair.folder, checkpoint=1.0, parallelism=1), cluster.start(), need_flink(), cluster.daemons
    )
    control.start(JOBS)

    def is_taken_in() -> bool:
        pair.load()
        return pair.is_taken_in()

    def is_alive() -> bool:
        state = cluster.state()
        return state.address is not None and bool(state.taskmanagers)

    wait_until(is_taken_in, "results in the service", alive=is_alive)
    pair.assert_same_answers()

    # Events that come while the jobs run.
    pair.post(events_of(pair.streamed.store.clock(), 200, seed=1))
    pair.export()
    wait_until(is_taken_in, "later results in the service", alive=is_alive)
    pair.assert_same_answers()
