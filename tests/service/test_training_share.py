"""How much of the time a training runs, on a machine whose clock and threads are made up."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.service import training_share
from zhiyin.service.training_share import MIN_SHARE, RunDelays, ShareController, TrainingShare


class Machine:
    """Answering takes 0.3 s of processor time a second; its threads wait while the training runs.

    Parameters
    ----------
    slowdown: seconds that they wait in a second in which the training runs all the time.
    """

    def __init__(self, slowdown: float) -> None:
        self.slowdown, self.now, self.end = slowdown, 0.0, 0.0
        self.is_stopped, self.ran, self.waited = False, 0.0, 0.0
        self.signals: list[int] = []
        self._delays_at, self._waited_at = 0.0, 0.0

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        if not self.is_stopped:
            self.ran += seconds
            self.waited += self.slowdown * seconds
        return self.now >= self.end

    def signal_group(self, group: int, number: int) -> None:
        assert group == 7
        self.signals.append(number)
        self.is_stopped = number == signal.SIGSTOP

    def since_last(self) -> tuple[float, float]:
        ran, waited = 0.3 * (self.now - self._delays_at), self.waited - self._waited_at
        self._delays_at, self._waited_at = self.now, self.waited
        return ran, waited

    def run(self, seconds: float, limit: float = 1.0) -> float:
        """The share of the time that the training ran."""
        begun, ran = self.now, self.ran
        self.end = self.now + seconds
        share = TrainingShare(7, ShareController(limit), self, self.signal_group, self.clock, self.wait)  # type: ignore[arg-type]
        share.run()
        share.close()
        assert not self.is_stopped
        return (self.ran - ran) / (self.now - begun)


def test_a_training_that_disturbs_nobody_runs_as_much_as_it_may() -> None:
    machine = Machine(slowdown=0.0)
    assert machine.run(300) > 0.95
    assert machine.run(300, limit=0.6) == pytest.approx(0.6, abs=0.03)
    assert Machine(0.0).run(300, limit=0.05) == pytest.approx(0.05, abs=0.01)


def test_a_training_that_disturbs_all_the_same_runs_as_little_as_it_may_and_ends() -> None:
    assert Machine(slowdown=50.0).run(300) == pytest.approx(MIN_SHARE, abs=0.03)


@given(slowdown=st.floats(0.15, 0.45))
def test_a_training_runs_as_much_as_answering_bears(slowdown: float) -> None:
    machine = Machine(slowdown)
    share = machine.run(300)
    bearable = 0.1 / slowdown  # threads that run for 0.3 s wait for a quarter of 0.4 s
    assert 0.55 * min(1.0, bearable) < share < 1.15 * min(1.0, bearable) + 0.05


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10))), st.floats(0.05, 1.0))
def test_a_share_stays_in_its_range(times: list[tuple[float, float]], limit: float) -> None:
    controller = ShareController(limit)
    for ran, waited in times:
        before = controller.share
        controller.update(ran, waited)
        assert min(MIN_SHARE, limit) <= controller.share <= limit
        if ran > 4 * waited:
            assert controller.share >= before


def test_a_service_that_hardly_runs_is_not_disturbed() -> None:
    controller = ShareController(1.0)
    controller.update(0.0001, 0.001)
    assert controller.share > training_share.FIRST_SHARE


def test_a_group_that_has_ended_is_no_error() -> None:
    def gone(group: int, number: int) -> None:
        raise ProcessLookupError

    machine = Machine(0.0)
    machine.end = 1.0
    share = TrainingShare(7, ShareController(1.0), machine, gone, machine.clock, machine.wait)  # type: ignore[arg-type]
    share.run()
    share.close()


def test_times_are_those_of_threads_that_live_on(tmp_path: Path) -> None:
    def write(process: int, thread: int, text: str) -> None:
        folder = tmp_path / str(process) / "task" / str(thread)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "schedstat").write_text(text)

    write(1, 1, "1000000000 0 5")
    write(1, 2, "9000000000 9000000000 5")
    delays = RunDelays(lambda: [1, 2, 3], tmp_path)
    write(1, 1, "1500000000 250000000 9")
    (tmp_path / "1/task/2/schedstat").unlink()  # the thread has ended
    write(2, 4, "7000000000 7000000000 9")  # a worker that is new
    write(1, 3, "nothing")
    assert delays.since_last() == (0.5, 0.25)
    write(2, 4, "7000000000 8000000000 9")
    assert delays.since_last() == (0.0, 1.0)
    assert delays.since_last() == (0.0, 0.0)


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="this kernel does not count how long threads wait"
)
def test_threads_of_this_process_run() -> None:
    delays = RunDelays(training_share.service_processes)
    total = 0.0
    while total <= 0:
        sum(range(100_000))
        total += delays.since_last()[0]
