"""What the learner does, at once: tests set the clock and let it learn, and wait for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from zhiyin.service.policy_learning_job import PolicyLearningJob


class Clock:
    """The clock of a store, which tests set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch, self._ahead = monkeypatch, 0

    def rule(self, store: Any) -> None:
        real = store.clock
        self._monkeypatch.setattr(store, "clock", lambda: real() + self._ahead)

    def pass_seconds(self, seconds: float) -> None:
        self._ahead += round(seconds * 1e6)


def learn(client: Any) -> bool:
    """Close what is due of all policies of a client's shop, learn from it, and serve what was learned.

    Returns whether anything changed.
    """
    job = PolicyLearningJob(client.store, run=False)
    try:
        changed = job.step()
    finally:
        job.close()
    client.shop.policies.refresh()
    return changed
