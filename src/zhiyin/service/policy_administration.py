"""What people ask and decide of policies, over HTTP and by command: how they do, promote, roll back, freeze, kill."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from zhiyin.api.requests import POLICY_MODES, PolicyMode, PolicySettings
from zhiyin.core.errors import ConfigError
from zhiyin.pipeline.decision_record import DecisionRecord, decode_decision
from zhiyin.pipeline.policy_gate import GateResult, judge_apprentice, judge_guarded
from zhiyin.pipeline.policy_kinds import policy_class_name
from zhiyin.service.placements import Placements
from zhiyin.service.policy_controls import Controls, PolicyConflictError, PolicyControls
from zhiyin.store.store import Store
from zhiyin.store.tables import POLICIES

# The newest decisions of a store that the gate reads, and how many at once.
GATE_DECISIONS, GATE_BATCH = 50_000, 1_000


class UnknownPolicyError(ConfigError):
    """A placement that has no policy, or a policy without such a snapshot."""


class PromotionRefusedError(PolicyConflictError):
    """The log does not show that the policy is better."""


class PolicyAdministration:
    """See the module. Any number of threads may use one."""

    def __init__(self, store: Store, placements: Placements, controls: PolicyControls | None = None) -> None:
        self.store, self.placements, self.controls = store, placements, controls or PolicyControls(store)

    # -- how they do --------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Placements that have a policy."""
        self.placements.refresh()
        return [name for name, (_, setting) in sorted(self.placements.usable().items()) if setting.policy is not None]

    def setting(self, name: str) -> tuple[int, PolicySettings]:
        """Version of a placement, and the settings of its policy. Raises UnknownPolicyError where it has none."""
        self.placements.refresh()
        version, setting = self.placements.get(name)
        if setting.policy is None:
            raise UnknownPolicyError(f"placement {name!r} has no policy", remedy=f"PUT /v1/placements/{name} with one")
        return version, setting.policy

    def summary(self, name: str) -> dict[str, Any]:
        """How a policy does, as its snapshots and controls say."""
        version, setting = self.setting(name)
        self.controls.refresh()
        controls, newest = self.controls.get(name), self.store.newest_policy_states().get(name, 0)
        number = newest if controls.snapshot is None else controls.snapshot
        state = self.store.policy_state(name, number) if number else None
        info = {} if state is None else state.info
        reason = (
            "killed" if controls.killed else "frozen" if controls.keeps_snapshot else "" if state else "no_snapshot"
        )
        return {
            "name": name,
            "placement_version": version,
            "kind": policy_class_name(setting.kind),
            "actions": setting.actions,
            "mode": controls.mode_under(setting.mode),
            "settings_mode": setting.mode,
            "frozen": controls.frozen,
            "killed": controls.killed,
            "snapshot": number if state else 0,
            "newest_snapshot": newest,
            "reason": reason,
            "loss_spent": None,  # a service counts it
            "loss_per_day": setting.exploration.loss_per_day,
            "learned": {key: info[f"n_{key}"] for key in ("decisions", "outcomes", "skipped") if f"n_{key}" in info},
            "guard": dict(info.get("guard") or {}),
            "monitors": dict(info.get("monitors") or {}),
        }

    def details(self, name: str) -> dict[str, Any]:
        """`summary` with the settings, and what was decided, newest first."""
        summary = self.summary(name)
        history = [
            {"version": version, "time": when, **dataclasses.asdict(Controls.of(columns, version))}
            for version, columns, when in self.store.versions(POLICIES, name)
            if columns is not None
        ]
        return summary | {"settings": self.setting(name)[1].model_dump(exclude_defaults=True), "history": history}

    # -- what is decided ----------------------------------------------------------------------------------------------

    def promote(self, name: str, mode: PolicyMode | None = None, force: bool = False) -> GateResult | None:
        """Let a policy decide more. Returns what it was judged by; None where nothing had to be.

        Raises PromotionRefusedError where the log does not show that it is better, unless `force`.
        """
        present = self._mode(name)
        at = POLICY_MODES.index(present)
        if mode is None:
            if at + 1 == len(POLICY_MODES):
                raise PolicyConflictError(
                    f"policy {name!r} is online already", remedy="rollback takes back a promotion"
                )
            mode = POLICY_MODES[at + 1]
        gate = self.judge(name, present, mode)
        if gate is not None and not gate.passed and not force:
            raise PromotionRefusedError(
                f"policy {name!r} is not promoted from {present} to {mode}: {'; '.join(gate.reasons)}",
                remedy="log more in mode apprentice, or promote it by force",
            )
        self.controls.change(name, "promote", mode=mode)
        return gate

    def judge(self, name: str, present: PolicyMode, mode: PolicyMode) -> GateResult | None:
        """What the log says of a promotion; None where the policy gets to decide no more than it does."""
        if POLICY_MODES.index(mode) <= max(POLICY_MODES.index(present), POLICY_MODES.index("apprentice")):
            return None
        if present == "guarded":
            newest = self.store.policy_state(name)
            return judge_guarded({} if newest is None else newest.info.get("guard") or {})
        return judge_apprentice(self._closed_decisions(name))

    def rollback(self, name: str, snapshot: int | None = None) -> Controls:
        """Take back the last promotion or choice of a snapshot; or have an older snapshot decide, until `unfreeze`.

        Whether the policy is frozen or killed stays as it is.
        """
        self.setting(name)
        if snapshot is None:
            return self.controls.take_back(name)
        if snapshot and self.store.policy_state(name, snapshot) is None:
            stored = ", ".join(str(number) for number, _ in self.store.policy_state_numbers(name)) or "none"
            raise UnknownPolicyError(
                f"policy {name!r} has no snapshot {snapshot}", remedy=f"stored are {stored}, and 0"
            )
        return self.controls.change(name, "rollback", snapshot=snapshot)

    def freeze(self, name: str) -> Controls:
        """Learn nothing from now on; the snapshot that decides now goes on deciding."""
        self.setting(name)
        self.controls.refresh()
        present = self.controls.get(name).snapshot
        snapshot = self.store.newest_policy_states().get(name, 0) if present is None else present
        return self.controls.change(name, "freeze", frozen=True, snapshot=snapshot)

    def unfreeze(self, name: str) -> Controls:
        """Learn again; the newest snapshot decides."""
        self.setting(name)
        return self.controls.change(name, "unfreeze", frozen=False, snapshot=None)

    def kill(self, name: str) -> Controls:
        """Have the baseline make every list."""
        self.setting(name)
        return self.controls.change(name, "kill", killed=True)

    def revive(self, name: str) -> Controls:
        """Let a killed policy decide again."""
        self.setting(name)
        return self.controls.change(name, "revive", killed=False)

    def _mode(self, name: str) -> PolicyMode:
        setting = self.setting(name)[1]
        self.controls.refresh()
        return self.controls.get(name).mode_under(setting.mode)

    def _closed_decisions(self, name: str) -> Iterator[tuple[DecisionRecord, Sequence[float | None]]]:
        """The newest closed decisions of a policy, with the reward of each slot."""
        after = self.store.last_closed_seq(name, skip=GATE_DECISIONS)
        while rows := self.store.closed_decisions(name, after, GATE_BATCH):
            after = rows[-1].seq
            for row in rows:
                record = decode_decision(row.trace.head, row.trace.arrays)
                if record is not None and row.rewards is not None:
                    yield record, row.rewards
