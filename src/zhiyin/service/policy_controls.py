"""Controls of policies: what people have decided about a policy while it runs, over its settings.

They are versions in the store's table of policies, one row of columns by name, and act on the next request of every
worker: promoted to another mode, frozen at a snapshot, killed.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from typing import Any, cast

from zhiyin.api.requests import POLICY_MODES, PolicyMode
from zhiyin.core.errors import ConfigError
from zhiyin.store.store import Store
from zhiyin.store.tables import POLICIES

# Column of a row that takes back another one: its version.
TAKES_BACK = "takes_back"
# What can be taken back: promotions, and choices of a snapshot.
_TAKEN_BACK = frozenset({"promote", "rollback"})


@dataclasses.dataclass(frozen=True)
class Controls:
    """What was decided about one policy.

    Parameters
    ----------
    mode: in place of that of the settings; None: that of the settings.
    frozen: nothing is learned.
    killed: the baseline makes every list.
    snapshot: number of the newest snapshot that may decide; 0: the prior; None: any.
    by: what wrote it: "promote", "rollback", "freeze", "unfreeze", "kill" or "revive".
    version: of the row; 0: nothing was ever decided.
    """

    mode: PolicyMode | None = None
    frozen: bool = False
    killed: bool = False
    snapshot: int | None = None
    by: str = ""
    version: int = 0

    def mode_under(self, setting: PolicyMode) -> PolicyMode:
        """The mode that applies, where the settings say `setting`."""
        return self.mode or setting

    @property
    def keeps_snapshot(self) -> bool:
        """Whether newer snapshots do not decide."""
        return self.frozen or self.snapshot is not None

    def columns(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "version"}

    @classmethod
    def of(cls, columns: Mapping[str, Any], version: int) -> Controls:
        """Controls of a row; what cannot be read counts as not decided."""
        mode, snapshot = columns.get("mode"), columns.get("snapshot")
        return cls(
            cast(PolicyMode, mode) if mode in POLICY_MODES else None,
            columns.get("frozen") is True,
            columns.get("killed") is True,
            snapshot if type(snapshot) is int else None,
            str(columns.get("by", "")),
            version,
        )


class PolicyConflictError(ConfigError):
    """A change that the present controls do not allow."""


class PolicyControls:
    """Controls of all policies of a store. Any number of threads may use one."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._by_name: dict[str, Controls] = {}
        self._seq = -1
        self._lock = threading.Lock()
        self.refresh()

    def get(self, name: str) -> Controls:
        """Controls of a policy as of the last `refresh`."""
        return self._by_name.get(name, _NOTHING)

    def refresh(self) -> None:
        """Take in what was decided, in this process and in others."""
        if self.store.last_change(POLICIES) == self._seq:
            return
        with self._lock:
            seq = self.store.last_change(POLICIES)
            if seq == self._seq:
                return
            changed, seq = self.store.changes_since(POLICIES, max(0, self._seq))
            by_name = dict(self._by_name)
            for name in changed:
                row = self.store.get(POLICIES, name)
                by_name[name] = _NOTHING if row is None else Controls.of(*row)
            self._by_name, self._seq = by_name, seq

    def change(self, name: str, by: str, **fields: Any) -> Controls:
        """Change some of the controls of a policy, as its next version. Returns them all."""

        def combine(_: str, old: dict[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
            return {**(old or _NOTHING.columns()), TAKES_BACK: None, **new}

        self.store.change(POLICIES, {name: {**fields, "by": by}}, combine)
        self.refresh()
        return self.get(name)

    def take_back(self, name: str) -> Controls:
        """Take back the last promotion, or choice of a snapshot, that was not taken back yet.

        `frozen` and `killed` stay as they are. Raises PolicyConflictError where there is none.
        """
        self.refresh()
        rows = [
            (version, columns) for version, columns, _ in self.store.versions(POLICIES, name) if columns is not None
        ]
        taken_back, present = {columns.get(TAKES_BACK) for _, columns in rows}, self.get(name).snapshot
        for place, (version, columns) in enumerate(rows):
            if columns.get("by") not in _TAKEN_BACK or columns.get(TAKES_BACK) is not None or version in taken_back:
                continue
            if columns["by"] == "rollback" and columns.get("snapshot") != present:
                continue  # another command has changed it since
            before = Controls.of(rows[place + 1][1], 0) if place + 1 < len(rows) else _NOTHING
            field = "mode" if columns["by"] == "promote" else "snapshot"
            return self.change(name, "rollback", **{field: getattr(before, field), TAKES_BACK: version})
        raise PolicyConflictError(
            f"nothing was decided about policy {name!r} that rollback takes back",
            remedy="it takes back promotions and choices of a snapshot; revive and unfreeze are commands of their own",
        )


_NOTHING = Controls()
