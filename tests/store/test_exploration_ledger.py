"""Budgets of exploration: what is counted together, after a restart, and of whom nothing is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from zhiyin.store.exploration_ledger import SLICE_SECONDS, WRITES_PER_SWEEP, ExplorationLedger
from zhiyin.store.frequency_counts import DAY_SECONDS
from zhiyin.store.records import hash_of


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_processes_count_together_and_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ledger.db"
    one, two = ExplorationLedger(path, clock), ExplorationLedger(path, clock)
    for ledger in (one, two, one):
        ledger.add_loss("home", 0.5)
        ledger.add_explored("home", "alice")
    assert two.loss_of_day("home") == one.loss_of_day("home") == 1.5
    assert two.explored_of_day("home", "alice") == 3
    assert (two.loss_of_day("other"), two.explored_of_day("other", "alice")) == (0.0, 0)
    one.close()
    two.close()
    again = ExplorationLedger(path, clock)
    assert again.loss_of_day("home") == 1.5
    assert again.explored_of_day("home", "alice") == 3


@pytest.mark.parametrize("in_file", [False, True])
def test_all_of_the_last_day_counts_and_what_is_older_is_deleted(tmp_path: Path, clock: Clock, in_file: bool) -> None:
    ledger = ExplorationLedger(tmp_path / "ledger.db" if in_file else None, clock)
    ledger.add_loss("home", 2.0)
    ledger.add_explored("home", "alice")
    clock.now += DAY_SECONDS - 1
    assert (ledger.loss_of_day("home"), ledger.explored_of_day("home", "alice")) == (2.0, 1)
    clock.now += 2 * SLICE_SECONDS + 1
    assert (ledger.loss_of_day("home"), ledger.explored_of_day("home", "alice")) == (0.0, 0)
    for _ in range(WRITES_PER_SWEEP):
        ledger.add_loss("home", 0.001)
    connection = ledger._file if in_file else ledger._own
    assert connection is not None
    assert connection.execute("SELECT count(*) FROM explored").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM losses").fetchone() == (1,)


def test_nothing_is_kept_of_a_forgotten_user(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ledger.db"
    ledger = ExplorationLedger(path, clock)
    for user in ("alice", "bob"):
        ledger.add_explored("home", user)
    ledger.drop("alice")
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert hash_of("alice").encode() not in kept
    assert hash_of("bob").encode() in kept
    assert ledger.explored_of_day("home", "bob") == 1
    ledger.drop_hashes({hash_of("bob"): int((clock.now - 1) * 1e6)})  # came back since
    assert ledger.explored_of_day("home", "bob") == 1
    ledger.drop_hashes({hash_of("bob"): int((clock.now + 1) * 1e6)})
    assert ledger.explored_of_day("home", "bob") == 0


def test_a_file_that_cannot_be_used_is_done_without(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = ExplorationLedger(tmp_path / "missing" / "ledger.db", clock)
    for _ in range(3):
        ledger.add_loss("home", 1.0)
        ledger.add_explored("home", "alice")
    assert (ledger.loss_of_day("home"), ledger.explored_of_day("home", "alice")) == (3.0, 3)
    assert caplog.text.count("cannot be used") == 1


def test_no_file_is_made_before_something_is_counted(tmp_path: Path) -> None:
    ExplorationLedger(tmp_path / "ledger.db").drop("alice")
    assert not list(tmp_path.iterdir())
