"""Requests in item codes: raw ids, histories and columns of users become a `RequestBatch`."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import UnknownItemError
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.models.training_context import TrainingContext
from zhiyin.pipeline.cold_start import NewItems
from zhiyin.pipeline.request import MAX_EXCLUDED, Request, encode_known
from zhiyin.pipeline.slate import RequestBatch


class RequestEncoder:
    """Encodes requests for one model and catalogue.

    Parameters
    ----------
    context: what the model was trained with.
    ids: of all items, new ones behind those of the model.
    users: the columns of users, row = user code; None: none.
    has_times: whether histories have times, and so a `now`.
    """

    def __init__(
        self, context: TrainingContext, ids: Ids, users: pl.DataFrame | None, new_items: NewItems, has_times: bool
    ) -> None:
        self.context, self.ids, self.users, self.new_items, self.has_times = context, ids, users, new_items, has_times

    def history(self, request: Request) -> tuple[Histories, np.ndarray]:
        """The history in codes of the model, and int32, codes of what else counts as seen."""
        seen = self.ids.encode(list(request.seen))
        if request.history is None:
            history = self.context.histories.take(self.context.user_ids.encode([request.user]))
        elif isinstance(request.history, Histories):
            history = request.history
        else:
            items = self.ids.encode(list(request.history))
            seen = np.concatenate([seen, items])
            codes = self.new_items.nearest_known_items(items)
            codes = codes[codes >= 0]
            history = Histories.of(np.array([0, len(codes)]), codes)
        now = time.time_ns() // 1000 if request.now is None else request.now
        if self.has_times:
            history = dataclasses.replace(history, now=np.array([now], dtype=np.int64))
        return history, seen[seen >= 0]

    def one(self, request: Request, history: Histories, visible: np.ndarray | None) -> RequestBatch:
        """A batch of one. visible: bool[n_items], items that may be shown at this moment; None: all."""
        user: dict[str, Any] = {}
        number = int(self.context.user_ids.encode([request.user])[0]) if request.user is not None else -1
        if self.users is not None and number >= 0:
            user = self.users.row(number, named=True)
        user |= request.user_columns
        counts = zip(self.ids.encode(list(request.shown)).tolist(), request.shown.values())
        return RequestBatch.one(
            now=time.time_ns() // 1000 if request.now is None else request.now,
            user_number=number,
            visit=request.visit,
            history=history,
            shown={code: n for code, n in counts if code >= 0},
            user=user,
            context=request.context,
            include=None if request.include is None else encode_known(self.ids, request.include).tolist(),
            exclude=encode_known(self.ids, request.exclude, MAX_EXCLUDED).tolist(),
            pins=self._pins(request),
            closed=request.closed,
            allowed=visible,
            deficits=None if request.deficits is None else np.asarray(request.deficits, np.float64),
            seed=request.seed,
        )

    def many(
        self,
        request: Request,
        histories: Histories,
        users: np.ndarray,
        visible: np.ndarray | None,
        positions: np.ndarray,
    ) -> RequestBatch:
        """The same request for many users, int64[n] by code. positions: int64[n], theirs among all users; added to the
        seed."""
        n = len(users)
        one = self.one(dataclasses.replace(request, user=None), histories, visible)
        context = None
        if request.context:
            context = pl.DataFrame({name: [value] for name, value in request.context.items()})[np.zeros(n, np.int64)]
        lists = {name: part.repeated(n) for name in ("include", "exclude", "pins")
                 if (part := getattr(one, name)) is not None}  # fmt: skip
        return dataclasses.replace(
            one,
            n=n,
            now=request.now,
            users=users,
            visits=None,
            user=None if self.users is None else _rows_or_null(self.users, users),
            context=context,
            seeds=np.uint64(request.seed % 2**64) + positions.astype(np.uint64),
            **lists,
        )

    def users_by_columns(self, users: np.ndarray, columns: frozenset[tuple[str, str]]) -> list[np.ndarray]:
        """int64: positions of users, by code, that have the same values in the given (scope, name) columns of users."""
        names = [name for scope, name in columns if scope == "user"]
        names = [name for name in names if self.users is not None and name in self.users.columns]
        if not names or self.users is None:
            return [np.arange(len(users))]
        frame = _rows_or_null(self.users.select(names), users).with_row_index("position of user")
        groups = frame.group_by(names, maintain_order=True).agg("position of user")
        return [np.asarray(rows, dtype=np.int64) for rows in groups["position of user"].to_list()]

    def _pins(self, request: Request) -> dict[int, int]:
        """Item codes by slot. Raises UnknownItemError for an item that is not known."""
        unknown = [str(item) for item in request.pins.values() if self.ids.encode([item])[0] < 0]
        if unknown:
            raise UnknownItemError(f"item {unknown[0]!r} is pinned and not known", remedy="pin items of the catalogue")
        return {slot: int(self.ids.encode([item])[0]) for slot, item in request.pins.items()}


def _rows_or_null(frame: pl.DataFrame, rows: np.ndarray) -> pl.DataFrame:
    """Rows of a frame; row -1 is all null."""
    positions = pl.Series(rows)
    return frame.select(pl.all().gather(positions.set(positions < 0, None)))
