"""Lists are those that were recorded; see `golden_lists`, which records anew where they change on purpose."""

from __future__ import annotations

import pytest

from tests.pipeline.golden_lists import PARTS, Recorded, case_of, outcome_of

# Requests of the test that runs each time: every eighth.
STEP = 8


def wrong_answers(first: int, step: int) -> list[str]:
    """What is not as recorded, a text for each request."""
    recorded, wrong = Recorded.read(), []
    for row in range(first, len(recorded.numbers), step):
        number = int(recorded.numbers[row])
        case = case_of(number)
        differences = recorded.differences(row, case, outcome_of(case))
        if differences:
            wrong.append("\n   ".join([f"request {number} ({case.kind})", *(text[:500] for text in differences)]))
    return wrong


def test_lists_are_as_recorded() -> None:
    wrong = wrong_answers(0, STEP)
    assert not wrong, "\n".join([f"{len(wrong)} answers differ, the first:", *wrong[:5]])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, STEP, 3))
def test_more_lists_are_as_recorded(first: int) -> None:
    """Three parts of eight; `python -m tests.pipeline.golden_lists` compares all."""
    wrong = wrong_answers(first, STEP)
    assert not wrong, "\n".join([f"{len(wrong)} answers differ, the first:", *wrong[:5]])


def test_every_part_of_an_answer_is_recorded() -> None:
    recorded = Recorded.read()
    assert len(recorded.items) > 10 * len(recorded.numbers)
    for at, name in enumerate(PARTS):
        assert len(set(recorded.hashes[:, at].tolist())) > 5, name
