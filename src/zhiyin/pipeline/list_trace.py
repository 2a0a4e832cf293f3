"""What `list_kernels.make_lists` writes for a batch, and the trace that is made of it where rules changed something."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from zhiyin.pipeline import list_kernels as kernels
from zhiyin.pipeline.choosing_stage import ChosenLists, ListChooser
from zhiyin.pipeline.pinning import Pins
from zhiyin.pipeline.slate import plain_list
from zhiyin.pipeline.slot_allocation import BY_PIN, BY_SHARE, BY_YIELDING, SlotAssignment

if TYPE_CHECKING:
    from zhiyin.pipeline.list_plan import ListInputs
    from zhiyin.pipeline.rulebook import Rulebook

_NO_INT64, _NO_INT32, _NO_CHANGES = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros((0, 0))
_NO_VARIED = np.zeros((2, 0, 0), np.int32)
_NO_SLOTS = SlotAssignment(
    np.zeros((0, 0), np.int64), np.zeros((0, 0), np.int8), np.zeros((0, 0), np.int16), np.zeros((0, 0), np.int64),
    np.zeros(0, np.int16),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class ListState:
    """Arrays of n requests with lists of k items. A slate is a request's candidates, with what fills them up.

    Parameters
    ----------
    room: int64[n + 1]; the slate of request r is from room[r] on, and shorter than room[r + 1] - room[r].
    items, scores: int32 and float32, of the slates before slots are assigned.
    pins: int64, the slot of each row of slates, or -1; empty without pins.
    changes: float64[boosts + exposure targets, rows], what each added to a score, NaN where nothing, of `before`.
    before: int32, the items of slates before that.
    rotated_from: int32, the row of its slate that each item comes from.
    varied_from: int32[2, n, k], the row that each of the first items of a varied slate comes from, and the item.
    slots: as `slot_allocation` assigns them; rows are those of the slate of a request, from 0.
    list_items, list_scores: int32[n, k] and float32[n, k].
    counts: int64[n, N_COUNTS] of `list_kernels`.
    """

    room: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    pins: np.ndarray
    changes: np.ndarray
    before: np.ndarray
    rotated_from: np.ndarray
    varied_from: np.ndarray
    slots: SlotAssignment
    list_items: np.ndarray
    list_scores: np.ndarray
    counts: np.ndarray

    @classmethod
    def empty(
        cls, room: np.ndarray, k: int, *, n_changes: int = 0, is_rotated: bool = False, is_varied: bool = False,
        is_pinned: bool = False, n_shares: int = 0, is_constrained: bool = False,
    ) -> ListState:  # fmt: skip
        """Arrays for what is to be done."""
        n, m = len(room) - 1, int(room[-1])
        slots = _NO_SLOTS
        if is_constrained:
            slots = SlotAssignment(np.empty((n, k), np.int64), np.empty((n, k), np.int8), np.empty((n, k), np.int16),
                                   np.empty((n, n_shares), np.int64), np.empty(m, np.int16))  # fmt: skip
        return cls(
            room,
            np.zeros(m, np.int32),
            np.empty(m, np.float32),
            np.empty(m, np.int64) if is_pinned else _NO_INT64,
            np.empty((n_changes, m)) if n_changes else _NO_CHANGES,
            np.empty(m, np.int32) if n_changes else _NO_INT32,
            np.empty(m, np.int32) if is_rotated else _NO_INT32,
            np.full((2, n, k), -1, np.int32) if is_varied else _NO_VARIED,
            slots,
            np.empty((n, k), np.int32),
            np.empty((n, k), np.float32),
            np.zeros((n, kernels.N_COUNTS), np.int64),
        )

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """In the order in which `make_lists` takes them."""
        slots = self.slots
        return (
            self.room, self.items, self.scores, self.pins, self.changes, self.before, self.rotated_from,
            self.varied_from, slots.rows, slots.reasons, slots.causes, slots.missing, slots.blocked_by,
            self.list_items, self.list_scores, self.counts,
        )  # fmt: skip


class ListTrace:
    """What each step did to the lists of a batch, as plain dicts with "step", and mostly "items", which are codes.

    Parameters
    ----------
    slots: of lists that a policy chose: their slots, with rows of the slates that are consecutive, by `slot_offsets`.
    """

    def __init__(
        self,
        rulebook: Rulebook,
        inputs: ListInputs,
        pins: Pins | None,
        state: ListState,
        *,
        chooser: ListChooser | None = None,
        chosen: ChosenLists | None = None,
        slots: SlotAssignment | None = None,
        slot_offsets: np.ndarray | None = None,
    ) -> None:
        self.rulebook, self.inputs, self.pins, self.state = rulebook, inputs, pins, state
        self.chooser, self.chosen, self.slots, self.slot_offsets = chooser, chosen, slots, slot_offsets

    def of(self, request: int) -> list[dict[str, Any]]:
        """Of one request, in the order of the steps."""
        state, pins, inputs = self.state, self.pins, self.inputs
        flags = int(state.counts[request, kernels.FLAGS])
        trace: list[dict[str, Any]] = []
        first = int(state.room[request])
        size = int(state.counts[request, kernels.SIZE_BEFORE_PINS])
        if flags & kernels.ADJUSTED:
            self._adjustments(request, slice(first, first + size), trace)
        if flags & kernels.VARIED:
            came_from, items = state.varied_from[:, request]
            places = np.flatnonzero(came_from > np.arange(len(came_from)))  # who moved up; the others made room
            trace.append({"step": inputs.variety.name, "balance": inputs.variety.balance,
                          "items": items[places].tolist(), "place": (places + 1).tolist(),
                          "came_from": (came_from[places] + 1).tolist()})  # fmt: skip
        rotation = self.rulebook.rules.rotation
        if flags & kernels.ROTATED and rotation is not None:
            came_from = state.rotated_from[first : first + size]
            places = np.flatnonzero(came_from != np.arange(size))
            if len(places):
                trace.append({"step": "rotate", "strength": rotation.strength,
                              "items": state.items[first + places].tolist(), "place": (places + 1).tolist(),
                              "came_from": (came_from[places] + 1).tolist()})  # fmt: skip
        if pins is not None and len(pins.dropped_items):
            dropped = pins.dropped_items[pins.dropped_owners == request]
            if len(dropped):
                trace.append({"step": "pin dropped", "items": dropped.tolist()})
        if self.slots is not None or flags & kernels.CONSTRAINED:
            self._slots(request, trace)
        return trace

    # -- inside -----------------------------------------------------------------------------------------------------

    def _adjustments(self, request: int, rows: slice, trace: list[dict[str, Any]]) -> None:
        """Boosts and exposure targets that changed scores."""
        rulebook, deficits = self.rulebook, self.inputs.requests.deficits
        facts: list[dict[str, Any]] = [{"step": "boost", "when": boost.when} for boost, *_ in rulebook.boosts]
        for (target, _), deficit in zip(rulebook.exposure, () if deficits is None else deficits):
            facts.append({"step": "exposure", "of": target.of, "deficit": round(float(deficit), 6)})
        items = self.state.before[rows]
        for number, fact in enumerate(facts):
            changes = self.state.changes[number, rows]
            changed = np.flatnonzero(~np.isnan(changes))
            if len(changed):
                trace.append(fact | {"items": items[changed].tolist(), "change": plain_list(changes[changed])})

    def _slots(self, request: int, trace: list[dict[str, Any]]) -> None:
        """Pins, caps, shares and the policy."""
        state, k, rules = self.state, self.inputs.k, self.rulebook.rules
        if self.slots is None or self.slot_offsets is None:
            slots, first, base = state.slots, int(state.room[request]), 0
            blocked_by = slots.blocked_by[first : first + int(state.counts[request, kernels.SIZE])]
        else:
            slots, base, first = self.slots, int(self.slot_offsets[request]), int(state.room[request])
            blocked_by = slots.blocked_by[base : int(self.slot_offsets[request + 1])]
        items = state.items[first : first + len(blocked_by)]
        rows = slots.rows[request]
        rows = rows[rows >= 0] - base
        reasons, causes = slots.reasons[request, : len(rows)], slots.causes[request, : len(rows)]

        def add(step: str, places: np.ndarray, facts: dict[str, Any], **more: Any) -> None:
            """What some slots have."""
            if len(places):
                listed_items = items[rows[places]].tolist()
                trace.append({"step": step, **facts, "items": listed_items, "slot": (places + 1).tolist(), **more})

        add("pin", np.flatnonzero(reasons == BY_PIN), {})
        caps: list[tuple[str, dict[str, Any]]] = [("dedupe", {"by": rules.dedupe})] if rules.dedupe else []
        caps += [("cap", {"per": cap.per, "at_most": cap.at_most, "first": cap.first or k}) for cap in rules.caps]
        if caps and ((blocked_by >= 0).any() or (reasons == BY_YIELDING).any()):
            listed = np.zeros(len(items), dtype=bool)
            listed[rows] = True
            for number, (step, facts) in enumerate(caps):
                blocked = blocked_by == number
                for name, some in ((step, blocked & ~listed), (step + " moved down", blocked & listed)):
                    if some.any():
                        trace.append({"step": name, **facts, "items": items[some].tolist()})
                add(step + " yielded", np.flatnonzero((reasons == BY_YIELDING) & (causes == number)), facts)
        for number, share in enumerate(rules.shares):
            facts = {"of": share.of, "at_least": share.at_least}
            add("share", np.flatnonzero((reasons == BY_SHARE) & (causes == number)), facts)
            if slots.missing[request, number]:
                trace.append({"step": "share missed", **facts, "missing": [int(slots.missing[request, number])]})
        chosen, chooser = self.chosen, self.chooser
        if chosen is not None and len(chosen.owners):
            mine = chosen.owners == request
            step = "explore" if chooser is not None and chooser.policy.policy is None else "policy"
            add(step, chosen.slots[mine], {}, instead_of=chosen.displaced[mine].tolist())
        if len(rows) < min(k, len(items)):
            trace.append({"step": "short", "asked": k, "given": [len(rows)]})
