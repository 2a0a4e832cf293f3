"""Threads over chunks: all of the work once, errors out, and quiet in a pipe."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.parallel import compiled, for_chunks, kernel
from zhiyin.core.run import Run


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_every_row_is_worked_on_once(threads: int, n: int) -> None:
    seen = np.zeros(n, dtype=np.int64)

    def work(start: int, stop: int) -> None:
        seen[start:stop] += 1

    for_chunks(work, n, Run(threads=threads), chunk=3)
    for_chunks(work, n, Run(threads=threads))
    assert (seen == 2).all()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_first_error_comes_out_and_stops_the_rest(threads: int, error: type[BaseException]) -> None:
    begun: list[int] = []

    def work(start: int, stop: int) -> None:
        begun.append(start)
        if start == 2:
            raise error("no")

    with pytest.raises(error):
        for_chunks(work, 10_000, Run(threads=threads), chunk=1)
    assert len(begun) < 10_000


def test_streams_of_a_seed_are_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(seed=3)
    assert (run.rng(1).random(4) == Run(seed=3).rng(1).random(4)).all()
    assert (run.rng(1).random(4) != run.rng(2).random(4)).any()
    with run.bar("work", 3) as advance:  # no terminal: no bar
        advance(3)
    assert capsys.readouterr().err == ""


@compiled
def _share(score, low, high):
    return (score - low + np.float32(1e-6)) / (high - low + np.float32(2e-6))


@kernel
def _share_of_kernel(score, low, high):
    return _share(score, low, high)


def test_a_function_whose_sums_have_an_order_keeps_it_though_a_kernel_compiles_it() -> None:
    score = np.float32(0.31124791502952576)
    assert _share_of_kernel(score, score, score) == 0.5
