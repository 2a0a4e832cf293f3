"""A client of the HTTP service for programs in Python: `Client`, `AsyncClient`, and `Events`, which waits for nothing.

Every call is built and read by a plain function (`recommend`, `put_item`, ...) that knows nothing of the network; the
two clients only send. Needs the extra `client`.

>>> from zhiyin.client import Client
>>> with Client("http://127.0.0.1:8000", "zy_read_...") as zy:  # doctest: +SKIP
...     zy.event("alice", "film-7", kind="view")
...     for row in zy.recommend(user="alice", k=5, explain=True):
...         print(row.item, row.sentence)
"""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import functools
import inspect
import itertools
import json
import logging
import random
import threading
import time as clock
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar
from urllib.parse import quote, urlsplit

from zhiyin.core.errors import ConfigError, MissingExtraError, ZhiyinError
from zhiyin.core.fresh import fresh_id

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("zhiyin")

# Events in a request; lines and bytes in a request of items or users.
BATCH, LINES, BYTES = 1_000, 1_000, 1 << 20
# Answers that are worth another try; seconds of the longest wait between two tries.
AGAIN, LONGEST = frozenset({429, 502, 503, 504}), 10.0

T = TypeVar("T")
P = ParamSpec("P")
Columns = Mapping[str, Any]
Moment = int | datetime
Diversity = Literal["none", "mmr", "dpp", "calibrate"]


class ApiError(ZhiyinError):
    """The service said no, or nothing.

    Parameters
    ----------
    status: of the answer; 0 where none came.
    message, remedy: in the words of the service.
    field: the part of the request that is wrong, where the service names it.
    """

    def __init__(self, status: int, message: str, remedy: str = "", field: str | None = None) -> None:
        super().__init__(message, column=field, remedy=remedy or None)
        self.status, self.field = status, field

    @property
    def worth_another_try(self) -> bool:
        """Whether the same request may succeed later: nobody answered, or the service is busy."""
        return self.status == 0 or self.status in AGAIN


# -- what goes in and comes out --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Event:
    """What a user did with an item. The id is made here, so that an event sent twice is kept once.

    time: microseconds UTC, or a datetime with its zone; None for the moment of arrival. value: a rating, a price.
    list_id: of the list that the item was shown in.
    """

    user: str
    item: str
    kind: str = "event"
    time: Moment | None = None
    value: float | None = None
    id: str = dataclasses.field(default_factory=fresh_id)
    list_id: str | None = None


@dataclasses.dataclass(frozen=True)
class Fate:
    """What became of an event: "accepted", "known" (kept before), or "rejected" with its reason."""

    id: str
    status: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What became of events, in the order sent; `rejected` of them were not kept."""

    events: list[Fate]
    rejected: int


@dataclasses.dataclass(frozen=True)
class Item:
    """A row of a list. score: None for one that could not be scored. columns: those asked for with `fields`.

    sentence, reason, sources: why it is there, with `explain=True`.
    """

    item: str
    score: float | None = None
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    sentence: str = ""
    reason: Any = None
    sources: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Recommendations:
    """A list, best first; iterating gives its items.

    list_id: names the list in events and impressions; "" for lists that are not kept. version: of the model.
    next: for `client.more(this)`; None at the end. degraded: stages left out for lack of time.
    removed: what rules took out, with `explain=True`. ask: the request, as it was sent.
    """

    items: list[Item]
    list_id: str = ""
    version: int = 0
    next: str | None = None
    method: str = ""
    placement: str | None = None
    degraded: list[str] = dataclasses.field(default_factory=list)
    removed: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    milliseconds: float | None = None
    ask: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclasses.dataclass(frozen=True)
class Thing:
    """An item or a user with its columns; version: how often it was written."""

    id: str
    columns: dict[str, Any]
    version: int


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of many items or users: `rejected` holds {"line": from 1 over all that was sent, "reason"}."""

    accepted: int
    rejected: list[dict[str, Any]]


# -- calls: requests built and answers read, without a network -------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how its answer is read."""

    method: str
    path: str
    read: Callable[[Any], T]
    params: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes | None = None
    type: str = "application/json"
    tries: bool = True

    def request(self) -> dict[str, Any]:
        """Arguments of `httpx.Client.request`."""
        headers = {"Content-Type": self.type} if self.body is not None else {}
        return {
            "method": self.method,
            "url": self.path,
            "params": self.params,
            "content": self.body,
            "headers": headers,
        }

    def result(self, answer: httpx.Response | Exception) -> T:
        """The value of an answer. Raises ApiError for one that is no success."""
        if isinstance(answer, Exception):
            raise ApiError(0, f"the service did not answer ({type(answer).__name__})", "is it running at this address?")
        try:
            said = answer.json()
        except ValueError:
            said = None
        # Rows of which all were rejected are a 400 that tells each one's fate.
        told = isinstance(said, dict) and answer.status_code == 400 and "rejected" in said
        if answer.is_success or told:
            try:
                return self.read(said)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise ApiError(
                    answer.status_code, "the answer cannot be understood", "is this the address of a Zhiyin service?"
                ) from None
        said = said if isinstance(said, dict) else {}
        message = str(said.get("error") or f"the service answered {answer.status_code}")
        raise ApiError(answer.status_code, message, str(said.get("remedy") or ""), said.get("field"))


@dataclasses.dataclass(frozen=True)
class Calls(Generic[T]):
    """Requests that follow each other, and how their values become one."""

    calls: Iterator[Call[Any]]
    join: Callable[[list[Any]], T]


def _path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"this cannot be sent as JSON: {error}", remedy="use texts, finite numbers, lists") from None


def _said(**values: Any) -> dict[str, Any]:
    """What was given; the service has its own defaults for the rest."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v is not None}


def _params(**values: Any) -> dict[str, str]:
    texts = {name: ",".join(value) if isinstance(value, list) else value for name, value in _said(**values).items()}
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in texts.items()}


def _as_it_is(said: Any) -> dict[str, Any]:
    return dict(said)


def _version(said: Any) -> int:
    return int(said["version"])


def _fields(kind: type[Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What a dataclass knows of an answer: a newer service may say more."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in said.items() if name in names and value is not None}


def _lists(ask: dict[str, Any]) -> Callable[[Any], Recommendations]:
    def read(said: Any) -> Recommendations:
        rows = [Item(**_fields(Item, row)) for row in said["items"]]
        return Recommendations(**_fields(Recommendations, said) | {"items": rows, "ask": ask})

    return read


def _event(event: Event | Columns) -> dict[str, Any]:
    said = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)} if isinstance(event, Event) else event
    said = _said(**{"id": fresh_id(), **said})
    if isinstance(moment := said.get("time"), datetime):
        said["time"] = _microseconds(moment)
    return said


def _microseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise ConfigError("a time without its zone", remedy="datetime.now(timezone.utc), or microseconds UTC")
    return round(moment.timestamp() * 1e6)


def _fates(said: Any) -> Kept:
    rows = [Fate(row.get("id") or "", row["status"], row.get("reason") or "") for row in said["events"]]
    return Kept(rows, int(said["rejected"]))


def event(
    user: str,
    item: str,
    *,
    kind: str = "event",
    time: Moment | None = None,
    value: float | None = None,
    id: str | None = None,
    list_id: str | None = None,
) -> Call[Fate]:
    """Bring one event; answered once it is on the disk. Raises ApiError for one that is rejected."""

    def read(said: Any) -> Fate:
        fate = _fates(said).events[0]
        if fate.status == "rejected":
            raise ApiError(400, f"the event was rejected: {fate.reason}")
        return fate

    made = _event(Event(user, item, kind, time, value, id or fresh_id(), list_id))
    return Call("POST", "/v1/events", read, body=_json({"events": [made]}))


def events(events: Iterable[Event | Columns]) -> Calls[Kept]:
    """Bring many events, a thousand at a time. Of a mapping without an id one is made before the first try.

    Where this raises, some may be kept: bring the same `Event` objects (or ids) again, and none is kept twice.
    """

    def calls() -> Iterator[Call[Kept]]:
        rows = iter(events)
        while batch := [_event(row) for row in itertools.islice(rows, BATCH)]:
            yield Call("POST", "/v1/events", _fates, body=_json({"events": batch}))

    def join(kept: list[Kept]) -> Kept:
        return Kept([fate for part in kept for fate in part.events], sum(part.rejected for part in kept))

    return Calls(calls(), join)


def recommend(
    *,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    placement: str | None = None,
    k: int | None = None,
    filter: str | None = None,
    boosts: Sequence[Columns] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    pins: Mapping[int, str] | None = None,
    exclude_seen: bool | None = None,
    diversity: Diversity | None = None,
    balance: float | None = None,
    context: Columns | None = None,
    explain: bool | None = None,
    language: Literal["en", "zh"] | None = None,
    fields: Sequence[str] | None = None,
    page: str | None = None,
    now: Moment | None = None,
) -> Call[Recommendations]:
    """The best items for a user, a session, a visitor with a history (items, oldest first), or a stranger.

    filter: "price < 50 and genre = 'Drama'". boosts: {"when", "multiply", "add"} each. pins: {slot from 1: item}.
    balance: 0 variety alone, 1 score alone. fields: columns wanted of each item. now: needs an admin key.
    """
    ask = _said(user=user, session=session, history=history, placement=placement, k=k, filter=filter, boosts=boosts,
                include=include, exclude=exclude, exclude_seen=exclude_seen, diversity=diversity, balance=balance,
                context=context, explain=explain, language=language, fields=fields, page=page,
                pins=None if pins is None else {str(slot): item for slot, item in pins.items()},
                now=_microseconds(now) if isinstance(now, datetime) else now)  # fmt: skip
    return Call("POST", "/v1/recommendations", _lists(ask), body=_json(ask))


def more(found: Recommendations) -> Call[Recommendations]:
    """The items that follow a list from `recommend`. Raises ConfigError at its end: look at `found.next`."""
    if found.next is None:
        raise ConfigError("this list has no next page", remedy="ask while found.next is not None")
    ask = found.ask | {"page": found.next}
    return Call("POST", "/v1/recommendations", _lists(ask), body=_json(ask))


def rank(
    items: Sequence[str],
    *,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    context: Columns | None = None,
) -> Call[Recommendations]:
    """The given items in the best order; those that the version does not know come last, without a score."""
    ask = _said(user=user, session=session, history=history, items=list(items), context=context)
    return Call("POST", "/v1/rank", _lists(ask), body=_json(ask))


def similar(
    item: str, *, k: int | None = None, filter: str | None = None, fields: Sequence[str] | None = None
) -> Call[Recommendations]:
    """What goes with an item."""
    asked = _params(k=k, filter=filter, fields=None if fields is None else list(fields))
    return Call("GET", _path("items", item, "similar"), _lists({}), asked)


def similar_users(user: str, *, k: int | None = None) -> Call[list[tuple[str, float]]]:
    """Users of like taste, with their scores."""

    def read(said: Any) -> list[tuple[str, float]]:
        return [(row["user"], float(row["score"])) for row in said["users"]]

    return Call("GET", _path("users", user, "similar"), read, _params(k=k))


def popular(
    *, k: int | None = None, filter: str | None = None, fields: Sequence[str] | None = None
) -> Call[Recommendations]:
    """What many take."""
    asked = _params(k=k, filter=filter, fields=None if fields is None else list(fields))
    return Call("GET", "/v1/popular", _lists({}), asked)


def trending(
    *, k: int | None = None, filter: str | None = None, fields: Sequence[str] | None = None
) -> Call[Recommendations]:
    """What more and more take."""
    asked = _params(k=k, filter=filter, fields=None if fields is None else list(fields))
    return Call("GET", "/v1/trending", _lists({}), asked)


def pages(
    widgets: Sequence[Columns],
    *,
    user: str | None = None,
    session: str | None = None,
    history: Sequence[str] | None = None,
    context: Columns | None = None,
    fields: Sequence[str] | None = None,
) -> Call[dict[str, Recommendations]]:
    """Several lists for one page, by name; no item is on it twice.

    widgets: {"name", "placement", "k", "filter", "similar_to", "kind"} each; only the name is needed.
    """
    ask = _said(user=user, session=session, history=history, context=context, fields=fields, widgets=list(widgets))

    def read(said: Any) -> dict[str, Recommendations]:
        return {widget["name"]: _lists({})(widget) for widget in said["widgets"]}

    return Call("POST", "/v1/pages", read, body=_json(ask))


def impressions(list_id: str, items: Sequence[str]) -> Call[dict[str, Any]]:
    """Tell what was really shown of a list, in order: {"list_id", "kept", "inserted", "dropped"}."""
    return Call("POST", _path("impressions", list_id), _as_it_is, body=_json({"items": list(items)}))


def history(user: str, *, most: int | None = None) -> Call[list[Event]]:
    """Events of a user, oldest first."""

    def read(said: Any) -> list[Event]:
        return [Event(**_fields(Event, row) | {"user": said["user"]}) for row in said["events"]]

    return Call("GET", _path("users", user, "history"), read, _params(most=most))


def list_(list_id: str) -> Call[dict[str, Any]]:
    """A list as it was kept: request, items with their sources, impressions, events. Needs an admin key."""
    return Call("GET", _path("lists", list_id), _as_it_is)


def replay(list_id: str) -> Call[dict[str, Any]]:
    """Make a list again: {"same": bool, "items", "reason"}. Needs an admin key."""
    return Call("POST", _path("lists", list_id, "replay"), _as_it_is)


# -- items and users ------------------------------------------------------------------------------------------------


def _thing(said: Any) -> Thing:
    return Thing(said["id"], said["columns"], said["version"])


def _found(said: Any) -> list[Item]:
    return [Item(row["item"], columns=row.get("columns") or {}) for row in said["items"]]


def _many(table: str, things: Iterable[tuple[str, Columns | None]]) -> Calls[Written]:
    def calls() -> Iterator[Call[tuple[int, Written]]]:
        lines: list[bytes] = []
        size = 0
        for key, columns in things:
            line = _json({"id": key, "columns": columns if columns is None else dict(columns)}) + b"\n"
            if lines and (len(lines) == LINES or size + len(line) > BYTES):
                yield call(lines)
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        if lines:
            yield call(lines)

    def call(lines: list[bytes]) -> Call[tuple[int, Written]]:
        def read(said: Any) -> tuple[int, Written]:
            return len(lines), Written(int(said["accepted"]), list(said["rejected"]))

        return Call("POST", _path(table), read, body=b"".join(lines), type="application/x-ndjson")

    def join(parts: list[tuple[int, Written]]) -> Written:
        before, rejected = 0, []
        for sent, part in parts:
            rejected += [row | {"line": row["line"] + before} for row in part.rejected]
            before += sent
        return Written(sum(part.accepted for _, part in parts), rejected)

    return Calls(calls(), join)


def put_item(id: str, columns: Columns) -> Call[int]:
    """Write all columns of an item; its version. Hidden by `{"hidden": True}`."""
    return Call("PUT", _path("items", id), _version, body=_json(dict(columns)))


def patch_item(id: str, columns: Columns) -> Call[int]:
    """Change the columns named, leave the others; its version."""
    return Call("PATCH", _path("items", id), _version, body=_json(dict(columns)))


def get_item(id: str) -> Call[Thing]:
    """Columns and version of an item."""
    return Call("GET", _path("items", id), _thing)


def delete_item(id: str) -> Call[int]:
    """No longer shown; its version."""
    return Call("DELETE", _path("items", id), _version)


def put_items(items: Iterable[tuple[str, Columns | None]]) -> Calls[Written]:
    """Write many items, sent as they are read; None for columns deletes."""
    return _many("items", items)


def search(text: str, *, k: int | None = None, fields: Sequence[str] | None = None) -> Call[list[Item]]:
    """Items that a text finds."""
    asked = _params(search=text, k=k, fields=None if fields is None else list(fields))
    return Call("GET", "/v1/items", _found, asked)


def put_user(id: str, columns: Columns) -> Call[int]:
    """Write all columns of a user; its version."""
    return Call("PUT", _path("users", id), _version, body=_json(dict(columns)))


def patch_user(id: str, columns: Columns) -> Call[int]:
    """Change the columns named, leave the others; its version."""
    return Call("PATCH", _path("users", id), _version, body=_json(dict(columns)))


def get_user(id: str) -> Call[Thing]:
    """Columns and version of a user."""
    return Call("GET", _path("users", id), _thing)


def delete_user(id: str) -> Call[dict[str, Any]]:
    """Remove all of a user; the proof."""
    return Call("DELETE", _path("users", id), lambda said: dict(said["proof"]))


def put_users(users: Iterable[tuple[str, Columns | None]]) -> Calls[Written]:
    """Write many users, sent as they are read."""
    return _many("users", users)


# -- placements and state --------------------------------------------------------------------------------------------


def placements() -> Call[list[dict[str, Any]]]:
    """All placements: {"name", "version", "settings"} each."""
    return Call("GET", "/v1/placements", lambda said: list(said["placements"]))


def placement(name: str) -> Call[dict[str, Any]]:
    """One placement."""
    return Call("GET", _path("placements", name), _as_it_is)


def put_placement(name: str, settings: Columns) -> Call[dict[str, Any]]:
    """Write the settings of a placement, as its next version."""
    return Call("PUT", _path("placements", name), _as_it_is, body=_json(dict(settings)))


def delete_placement(name: str) -> Call[dict[str, Any]]:
    """Remove a placement."""
    return Call("DELETE", _path("placements", name), _as_it_is)


def placement_versions(name: str) -> Call[dict[str, Any]]:
    """All versions of a placement."""
    return Call("GET", _path("placements", name, "versions"), _as_it_is)


def rollback_placement(name: str, version: int) -> Call[dict[str, Any]]:
    """Put an older version of a placement in use."""
    return Call("POST", _path("placements", name, "rollback"), _as_it_is, body=_json({"version": version}))


def health() -> Call[dict[str, Any]]:
    """Whether the process lives; asked once, without another try."""
    return Call("GET", "/health", _as_it_is, tries=False)


def ready() -> Call[dict[str, Any]]:
    """Whether it can answer; asked once. Raises ApiError with status 503 where it cannot yet."""
    return Call("GET", "/ready", _as_it_is, tries=False)


# -- the two clients ------------------------------------------------------------------------------------------------


def pause(answer: httpx.Response | Exception, attempt: int, retries: int) -> float | None:
    """Seconds before another try; None where there is none.

    attempt: from 0. What the service asks for with Retry-After is kept to; where it asks for more than `LONGEST`, there
    is no other try.
    """
    if attempt >= retries:
        return None
    if not isinstance(answer, Exception):
        if answer.status_code not in AGAIN:
            return None
        said = answer.headers.get("Retry-After", "")
        if said.isdecimal():
            return float(said) if float(said) <= LONGEST else None
    # Spread out, so that many clients do not come back at one moment.
    return min(LONGEST, 0.1 * 2.0**attempt) * random.uniform(0.5, 1.0)


def _settings(url: str, key: str, timeout: float, transport: Any) -> dict[str, Any]:
    """Arguments of an httpx client. Raises ConfigError for an address or a key that cannot be one; shows no key."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ConfigError("this is no address of a service", remedy="such as http://127.0.0.1:8000")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("this is no key", remedy="zhiyin serve shows its keys at the first start")
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
    return {"base_url": url, "timeout": timeout, "headers": headers, "transport": transport}


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise MissingExtraError("httpx", "client", "the client") from None
    return httpx


def _named(method: Any, build: Callable[..., Any]) -> Any:
    """The method with the name, words and arguments of the function that builds its call."""
    functools.update_wrapper(method, build)
    method.__name__ = build.__name__.rstrip("_")
    whole = inspect.signature(build)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = whole.replace(parameters=[own, *whole.parameters.values()])
    return method


def _now(build: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.send(build(*args, **kwargs))

    return _named(method, build)


def _now_all(build: Callable[P, Calls[T]]) -> Callable[Concatenate[Client, P], T]:
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        made = build(*args, **kwargs)
        return made.join([self.send(call) for call in made.calls])

    return _named(method, build)


def _later(build: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.send(build(*args, **kwargs))

    return _named(method, build)


def _later_all(build: Callable[P, Calls[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        made = build(*args, **kwargs)
        return made.join([await self.send(call) for call in made.calls])

    return _named(method, build)


class Client:
    """Asks a service; any number of threads may use one.

    Parameters
    ----------
    url: such as "http://127.0.0.1:8000". key: as `zhiyin serve` shows it; it is never printed.
    timeout: seconds for each try. retries: further tries where the service is busy or out of reach; nothing is done
    twice by them.

    Every method raises ApiError for an answer that is no success. Raises MissingExtraError without httpx.
    """

    def __init__(
        self,
        url: str,
        key: str,
        timeout: float = 2.0,
        retries: int = 2,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http: httpx.Client = _httpx().Client(**_settings(url, key, timeout, transport))
        self._errors = _httpx().TransportError
        self.url, self.retries = url, retries

    def send(self, call: Call[T]) -> T:
        """Send a call, again while that helps."""
        for attempt in itertools.count():
            answer: httpx.Response | Exception
            try:
                answer = self._http.request(**call.request())
            except self._errors as error:
                answer = error
            wait = pause(answer, attempt, self.retries if call.tries else 0)
            if wait is None:
                return call.result(answer)
            clock.sleep(wait)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    event, events = _now(event), _now_all(events)
    recommend, more, rank = _now(recommend), _now(more), _now(rank)
    similar, similar_users = _now(similar), _now(similar_users)
    popular, trending, pages = _now(popular), _now(trending), _now(pages)
    impressions, history = _now(impressions), _now(history)
    list, replay = _now(list_), _now(replay)
    put_item, patch_item, get_item, delete_item = _now(put_item), _now(patch_item), _now(get_item), _now(delete_item)
    put_items, search = _now_all(put_items), _now(search)
    put_user, patch_user, get_user, delete_user = _now(put_user), _now(patch_user), _now(get_user), _now(delete_user)
    put_users = _now_all(put_users)
    placements, placement = _now(placements), _now(placement)
    put_placement, delete_placement = _now(put_placement), _now(delete_placement)
    placement_versions, rollback_placement = _now(placement_versions), _now(rollback_placement)
    health, ready = _now(health), _now(ready)


class AsyncClient:
    """As `Client`, for programs that await."""

    def __init__(
        self,
        url: str,
        key: str,
        timeout: float = 2.0,
        retries: int = 2,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http: httpx.AsyncClient = _httpx().AsyncClient(**_settings(url, key, timeout, transport))
        self._errors = _httpx().TransportError
        self.url, self.retries = url, retries

    async def send(self, call: Call[T]) -> T:
        """Send a call, again while that helps."""
        for attempt in itertools.count():
            answer: httpx.Response | Exception
            try:
                answer = await self._http.request(**call.request())
            except self._errors as error:
                answer = error
            wait = pause(answer, attempt, self.retries if call.tries else 0)
            if wait is None:
                return call.result(answer)
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    event, events = _later(event), _later_all(events)
    recommend, more, rank = _later(recommend), _later(more), _later(rank)
    similar, similar_users = _later(similar), _later(similar_users)
    popular, trending, pages = _later(popular), _later(trending), _later(pages)
    impressions, history = _later(impressions), _later(history)
    list, replay = _later(list_), _later(replay)
    put_item, patch_item = _later(put_item), _later(patch_item)
    get_item, delete_item = _later(get_item), _later(delete_item)
    put_items, search = _later_all(put_items), _later(search)
    put_user, patch_user = _later(put_user), _later(patch_user)
    get_user, delete_user = _later(get_user), _later(delete_user)
    put_users = _later_all(put_users)
    placements, placement = _later(placements), _later(placement)
    put_placement, delete_placement = _later(put_placement), _later(delete_placement)
    placement_versions, rollback_placement = _later(placement_versions), _later(rollback_placement)
    health, ready = _later(health), _later(ready)


# -- events in the background ----------------------------------------------------------------------------------------


class EventsFullError(ZhiyinError):
    """More events wait to be sent than `Events` may hold."""


class Events:
    """Sends events from a thread of its own, so that a request of the shop never waits for them.

    Parameters
    ----------
    client: is used, and not closed.
    most: events that may wait. full: what `add` does beyond: "raise" EventsFullError, or "drop" the new event.
    batch, every: it sends as soon as so many wait, and else after so many seconds.

    While the service is out of reach events wait and are tried again; ids keep each from being kept twice. `sent`,
    `rejected` (by the service) and `dropped` (here) count. Use it with `with`, or call `close`.
    """

    def __init__(
        self,
        client: Client,
        most: int = 10_000,
        full: Literal["raise", "drop"] = "raise",
        *,
        batch: int = 100,
        every: float = 1.0,
    ) -> None:
        if most < 1 or not 1 <= batch <= BATCH or every <= 0 or full not in ("raise", "drop"):
            raise ConfigError("most, full, batch or every is out of range", remedy=f"batch is 1 to {BATCH}")
        self.sent = self.rejected = self.dropped = 0
        self._client, self._most, self._full, self._batch, self._every = client, most, full, batch, every
        self._waiting: deque[Event] = deque()
        self._going: list[Event] = []
        self._closed = self._hurry = False
        self._until = float("inf")
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="zhiyin-events", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def add(
        self,
        user: str,
        item: str,
        *,
        kind: str = "event",
        time: Moment | None = None,
        value: float | None = None,
        id: str | None = None,
        list_id: str | None = None,
    ) -> str:
        """Take an event, to be sent soon; its id. Without a time it is given this moment."""
        moment = clock.time_ns() // 1000 if time is None else time
        event = Event(user, item, kind, moment, value, id or fresh_id(), list_id)
        _json(_event(event))  # what cannot be sent is said here, to who brings it
        with self._change:
            if self._closed:
                raise EventsFullError("events are no longer taken: this was closed")
            if len(self._waiting) + len(self._going) >= self._most:
                if self._full == "raise":
                    raise EventsFullError(f"{self._most} events wait to be sent", remedy='or Events(..., full="drop")')
                self.dropped += 1
                return event.id
            self._waiting.append(event)
            if len(self._waiting) >= self._batch:
                self._change.notify_all()
        return event.id

    def flush(self, timeout: float = 5.0) -> bool:
        """Send what waits now; whether all was sent within so many seconds."""
        with self._change:
            self._hurry = True
            self._change.notify_all()
            return self._change.wait_for(lambda: not self._waiting and not self._going, timeout)

    def close(self, timeout: float = 5.0) -> int:
        """Send what waits, then end; how many events could not be sent within so many seconds."""
        with self._change:
            self._closed, self._until = True, clock.monotonic() + timeout
            self._change.notify_all()
        self._thread.join(timeout + 1)
        atexit.unregister(self.close)
        left = len(self._waiting) + len(self._going)
        if left:
            log.warning("events: %d could not be sent", left)
        return left

    def __enter__(self) -> Events:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        failed = 0
        while True:
            with self._change:
                if not failed:
                    self._change.wait_for(
                        lambda: self._closed or self._hurry or len(self._waiting) >= self._batch, self._every
                    )
                    self._going = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
                if not self._going:
                    self._hurry = False
                    self._change.notify_all()
                    if self._closed:
                        return
                    continue
            failed = 0 if self._try() else failed + 1
            with self._change:
                if failed:  # the same events again, a little later each time
                    wait = min(30.0, self._every * 2.0 ** min(failed - 1, 10))
                    self._change.wait_for(lambda: self._closed, min(wait, max(0.0, self._until - clock.monotonic())))
                    if self._closed and clock.monotonic() >= self._until:
                        return
                    if self._closed:  # the end is near: once more, without a hurry that heats the machine
                        self._change.wait(min(0.2, max(0.0, self._until - clock.monotonic())))

    def _try(self) -> bool:
        """Send what goes; whether that is settled, one way or the other."""
        try:
            kept = self._client.events(self._going)
        except ApiError as error:
            if error.worth_another_try:
                return False
            log.warning("events: %d were refused with status %d", len(self._going), error.status)
            lost = len(self._going)
        else:
            lost = kept.rejected
        with self._change:
            self.sent += len(self._going) - lost
            self.rejected += lost
            self._going = []
        return True
