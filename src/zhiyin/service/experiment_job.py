"""ExperimentJob: evaluates running experiments and acts on what they show, in a thread of its own.

It stops arms that breach a guardrail, draws the weights of arms again, and records planned looks. Each is written as a
version of the experiment, which all processes follow.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np

from zhiyin.core.durations import microseconds
from zhiyin.core.run import log
from zhiyin.pipeline.experiment_log import ExperimentLog
from zhiyin.pipeline.experiment_results import (
    ExperimentResults,
    breached_guardrails,
    drawn_weights,
    experiment_results,
    next_look,
)
from zhiyin.pipeline.experiment_state import ExperimentVersion
from zhiyin.service.experiment_versions import change_experiment, read_experiments, stopped_version
from zhiyin.store.store import Store

RUN_EVERY_SECONDS = 10.0


class ExperimentEvaluator:
    """Results of the experiments of a store; what was counted before is not read again.

    Any number of threads may use it; they take turns.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._logs: dict[str, ExperimentLog] = {}
        self._lock = threading.Lock()

    def results(self, version: ExperimentVersion, now: int | None = None) -> ExperimentResults:
        """The results of an experiment up to now, microseconds UTC; None: by the clock of the store."""
        with self._lock:
            counted = self._logs.setdefault(version.name, ExperimentLog(self.store)).update(version, now)
            return experiment_results(version, counted.units, counted.covariates, counted.until)

    def act(self, now: int | None = None) -> list[str]:
        """Evaluate all running experiments and write what follows of it. Returns a line for each change."""
        now = self.store.clock() if now is None else now
        changes: list[str] = []
        for version in read_experiments(self.store)[0].values():
            settings, state = version.settings, version.state
            due = settings.allocation == "thompson" and now - (state.drawn or state.started) >= microseconds(
                settings.redraw
            )
            if not version.is_running or not (settings.guardrails or settings.looks or due):
                continue
            results = self.results(version, now)
            for arm, reason in breached_guardrails(version, results).items():
                change_experiment(
                    self.store, version.name, stopped_version(version.name, arm, reason, "guardrail", now)
                )
                changes.append(f"{version.name}: arm {arm} is stopped: {reason}")
            look = next_look(version, results, now)
            if look is not None:
                self._record_look(version, look)
                changes.append(f"{version.name}: look {look['look']} of {look['of']}")
            if due and self._draw(version, results, now):
                changes.append(f"{version.name}: weights were drawn again")
        for line in changes:
            log.warning("experiments: %s", line)
        return changes

    def _record_look(self, version: ExperimentVersion, look: dict[str, Any]) -> None:
        def next_version(newest: ExperimentVersion | None) -> ExperimentVersion | None:
            if newest is None or newest.state.started != version.state.started:
                return None
            if len(newest.state.looks) >= look["look"]:  # another process has recorded it
                return None
            state = dataclasses.replace(newest.state, looks=(*newest.state.looks, look))
            return dataclasses.replace(newest, state=state, by="look", reason=f"look {look['look']} of {look['of']}")

        change_experiment(self.store, version.name, next_version)

    def _draw(self, version: ExperimentVersion, results: ExperimentResults, now: int) -> bool:
        """Draw the weights of the arms again; the draws descend from the experiment's start and epoch."""
        before = version.state
        weights = drawn_weights(version, results, np.random.default_rng([before.started, before.epoch]))
        if weights is None:
            return False

        def next_version(newest: ExperimentVersion | None) -> ExperimentVersion | None:
            if newest is None or (newest.state.started, newest.state.epoch) != (before.started, before.epoch):
                return None  # another process has drawn them, or the experiment began anew
            state = dataclasses.replace(newest.state, weights=weights, epoch=before.epoch + 1, drawn=now)
            reason = ", ".join(f"{name} {weight:.3f}" for name, weight in weights.items())
            return dataclasses.replace(newest, state=state, by="allocation", reason=reason)

        change_experiment(self.store, version.name, next_version)
        return True


class ExperimentJob:
    """The thread that evaluates. One is enough for a store; what two write at once counts once.

    Parameters
    ----------
    store: address.
    """

    def __init__(self, store: str) -> None:
        self._address = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="zhiyin-experiments", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def _work(self) -> None:
        evaluator: ExperimentEvaluator | None = None
        while not self._stop.wait(RUN_EVERY_SECONDS):
            try:
                evaluator = evaluator or ExperimentEvaluator(Store(self._address))
                evaluator.act()
            except Exception as error:  # serving goes on; the next run may succeed
                log.warning("experiments: they could not be evaluated: %s", error)
        if evaluator is not None:
            evaluator.store.close()
