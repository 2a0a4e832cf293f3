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
from zhiyin.data.learned_links import FRIENDS, LINK_KINDS, LearnedLinks, link_columns
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
    links: between users; None: there are none.
    reads_links: whether the model reads the links of users.
    """

    def __init__(
        self,
        context: TrainingContext,
        ids: Ids,
        users: pl.DataFrame | None,
        new_items: NewItems,
        has_times: bool,
        links: LearnedLinks | None = None,
        reads_links: bool = False,
    ) -> None:
        self.context, self.ids, self.users, self.new_items, self.has_times = context, ids, users, new_items, has_times
        self.links, self.reads_links = links, reads_links

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
        if request.user_columns:
            history = with_user_columns(history, request.user_columns, self.context.histories.features)
        if self.has_times:
            history = history.at(now)
        if self.reads_links and FRIENDS in request.user_columns:
            history = _with_links(history, request.user_columns)
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
        if self.links is not None and user >= 0 and FRIENDS not in columns:
            columns = {**link_columns(self.links.friends(user), self.links.followers(user)), **columns}
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
            user=self._columns_of(users),
            context=context,
            seeds=np.uint64(request.seed % 2**64) + positions.astype(np.uint64),
            **lists,
        )

    def _columns_of(self, users: np.ndarray) -> pl.DataFrame | None:
        """Columns of users by code, one row each; None where users have none."""
        own = None if self.users is None else _rows_or_null(self.users, users)
        if self.links is None:
            return own
        linked = self.links.columns_of(users)
        return linked if own is None else own.hstack(linked.drop(own.columns, strict=False))

    def users_by_columns(self, users: np.ndarray, columns: frozenset[tuple[str, str]]) -> list[np.ndarray]:
        """int64: positions of users, by code, that have the same values in the given (scope, name) columns of users."""
        names = [name for scope, name in columns if scope == "user"]
        described = [] if self.users is None else self.users.columns
        linked = [] if self.links is None else [*LINK_KINDS]
        names = [name for name in names if name in described or name in linked]
        whole = self._columns_of(users) if names else None
        if whole is None:
            return [np.arange(len(users))]
        frame = whole.select(names).with_row_index("position of user")
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


def with_user_columns(history: Histories, columns: Mapping[str, Any], learned: pl.DataFrame | None) -> Histories:
    """One history with values of its user's columns as they are now, which models read as they read learned ones.

    learned: the columns of the training users; None: no model reads any. Values take their types; one that does not
    fit counts as unknown.
    """
    names = [] if learned is None else [name for name in learned.columns if name in columns]
    if learned is None or not names:
        return history
    own = history.features
    if own is None:
        own = learned.clear(1)
    changed = own.with_columns(_typed(name, columns[name], learned.schema[name]) for name in names)
    return dataclasses.replace(history, features=changed)


def _typed(name: str, value: Any, dtype: Any) -> pl.Series:
    """One value of a column in its type; null where it does not fit."""
    try:
        return pl.Series(name, [value]).cast(dtype, strict=False)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        return pl.Series(name, [None], dtype=dtype)


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


def _with_links(history: Histories, columns: Mapping[str, Any]) -> Histories:
    """A history of one row with the columns of the user's links among its features."""
    types = {"texts": pl.List(pl.String), "numbers": pl.List(pl.Float64)}
    links = pl.DataFrame(
        {name: [columns[name]] for name in LINK_KINDS if name in columns},
        schema={name: types[kind] for name, kind in LINK_KINDS.items() if name in columns},
    )
    features = history.features
    if features is not None:
        links = features.drop(links.columns, strict=False).hstack(links)
    return dataclasses.replace(history, features=links)


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
