"""Requests in item codes: raw ids, histories and columns of users become a `RequestBatch`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import UnknownItemError
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.models.training_context import TrainingContext
from zhiyin.pipeline.cold_start import NewItems
from zhiyin.pipeline.request import MAX_EXCLUDED, Request, encode_known
from zhiyin.pipeline.slate import Ragged, RequestBatch

_NO_CODES = np.zeros(0, dtype=np.int32)


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

    def one(self, request: Request, visible: np.ndarray | None) -> tuple[Histories, np.ndarray, RequestBatch]:
        """One request in codes.

        Parameters
        ----------
        visible: bool[n_items], items that may be shown at this moment; None: all.

        Returns
        -------
        The history in codes of the model; int32, codes of what else counts as seen; the rest as a batch of one.
        """
        user = -1 if request.user is None else int(self.context.user_ids.encode([request.user])[0])
        now = time.time_ns() // 1000 if request.now is None else request.now
        history, seen = self._history(request, user)
        if self.has_times:
            history = history.at(now)
        return history, seen, self._batch(request, history, user, now, visible)

    def _history(self, request: Request, user: int) -> tuple[Histories, np.ndarray]:
        """The history, and codes of what else counts as seen. user: the code of the request's user, or -1."""
        seen = _NO_CODES if _is_empty(request.seen) else self.ids.encode(list(request.seen))
        if request.history is None:
            history = self.context.histories.row(user)
        elif isinstance(request.history, Histories):
            history = request.history
        else:
            items = self.ids.encode(list(request.history))
            seen = np.concatenate([seen, items])
            codes = self.new_items.nearest_known_items(items)
            codes = codes[codes >= 0]
            history = Histories.of(np.array([0, len(codes)]), codes)
        return history, seen[seen >= 0] if len(seen) else seen

    def _batch(
        self, request: Request, history: Histories, user: int, now: int, visible: np.ndarray | None
    ) -> RequestBatch:
        """A batch of one, by the code of its user, or -1, and its moment."""
        columns: Mapping[str, Any] = request.user_columns
        if self.users is not None and user >= 0:
            columns = _UserColumns(self.users, user, columns)
        include = request.include
        excluded = _NO_CODES if _is_empty(request.exclude) else encode_known(self.ids, request.exclude, MAX_EXCLUDED)
        return RequestBatch(
            1,
            np.array([now], dtype=np.int64),
            np.array([user], dtype=np.int64),
            None if request.visit is None else np.array([request.visit], dtype=np.int64),
            history,
            self._shown(request) if request.shown else None,
            columns,
            request.context,
            None if include is None else _one_list(encode_known(self.ids, include)),
            _one_list(excluded) if len(excluded) else None,
            self._pins(request) if request.pins else None,
            request.closed,
            visible,
            None if request.deficits is None else np.asarray(request.deficits, np.float64),
            np.array([request.seed % 2**64], dtype=np.uint64),
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
        one = self._batch(request, histories, -1, 0, visible)
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

    def _shown(self, request: Request) -> Ragged | None:
        """Codes of the known items that were shown and, paired, how often; None where there are none."""
        codes = self.ids.encode(list(request.shown)).tolist()
        counts = {code: n for code, n in zip(codes, request.shown.values()) if code >= 0}
        return Ragged.of([counts.keys()], [counts.values()]) if counts else None

    def _pins(self, request: Request) -> Ragged:
        """Item codes and, paired, slots. Raises UnknownItemError for an item that is not known."""
        raw = list(request.pins.values())
        codes = self.ids.encode(raw)
        if codes.min() < 0:
            unknown = str(raw[int(np.argmax(codes < 0))])
            raise UnknownItemError(f"item {unknown!r} is pinned and not known", remedy="pin items of the catalogue")
        return _one_list(codes, np.array(list(request.pins), dtype=np.int64))


class _UserColumns(Mapping[str, Any]):
    """The columns of one user, read when an expression asks for one; values that a request gives come before them."""

    def __init__(self, frame: pl.DataFrame, row: int, given: Mapping[str, Any]) -> None:
        self._frame, self._row, self._given = frame, row, given
        self._values: dict[str, Any] | None = None

    def _read(self) -> dict[str, Any]:
        if self._values is None:
            self._values = self._frame.row(self._row, named=True) | dict(self._given)
        return self._values

    def __getitem__(self, name: str) -> Any:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __bool__(self) -> bool:
        return True


def _is_empty(raw: Any) -> bool:
    """Whether ids are an empty tuple or list, as where a request gives none."""
    return isinstance(raw, tuple | list) and not raw


def _one_list(codes: np.ndarray, paired: np.ndarray | None = None) -> Ragged:
    """The list of one request."""
    return Ragged(np.array([0, len(codes)], dtype=np.int64), codes.astype(np.int64), paired)


def _rows_or_null(frame: pl.DataFrame, rows: np.ndarray) -> pl.DataFrame:
    """Rows of a frame; row -1 is all null."""
    positions = pl.Series(rows)
    return frame.select(pl.all().gather(positions.set(positions < 0, None)))
