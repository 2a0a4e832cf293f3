"""Live state in Redis, shared by processes and machines. The store stays the truth; Redis may go and come at any time.

Each user has a list: a head (the epoch, and when the user was forgotten), the events that were loaded, in one element,
and those added since. Readers sort them, so that a write is one RPUSH; a list that has grown by MAX_APPENDED_EVENTS is
dropped and loaded again.

Three things keep it from ever returning outdated events:

- a lease: a reader who finds no list takes one, loads, and may fill the list only while the lease stands. An event that
  is added meanwhile removes the lease, and then the next reader loads.
- a tombstone: for GRACE_SECONDS after a user was forgotten nothing of them is held.
- the epoch: a token shared by all. Lists and leases of another epoch do not count. A process sets a new epoch when it
  starts (one that died may have committed events without adding them here), when Redis answers again after a failure
  (events of meanwhile are missing from the lists), and when the server behind the address is another than before (one
  restarted from an old snapshot, or a replica that took over).

While one process cannot reach Redis and another can, the other misses what the first commits until the first is back;
at the latest TTL_SECONDS after a list was loaded it is read from the store again.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from math import ceil
from typing import Any, TypeVar

from zhiyin.core.errors import ConfigError, MissingExtraError
from zhiyin.core.run import log
from zhiyin.store.frequency_counts import DAY_SECONDS, MAX_SHOWINGS_PER_USER, Showings
from zhiyin.store.live_state import GRACE_SECONDS, MAX_TALLIES, TTL_SECONDS, LiveState, Recent
from zhiyin.store.records import EVENT_FIELDS, Event, events_from_rows

try:
    import cachetools
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    extra = "redis" if error.name == "redis" else "serve"
    raise MissingExtraError(error.name or "redis", extra, "the live state in Redis") from None

# Events that a list may grow by before it is loaded again; users and events of one script.
MAX_APPENDED_EVENTS, MAX_EVENTS_PER_SCRIPT = 250, 500
# Seconds that Redis may take to answer, and that a load may take.
TIMEOUT_SECONDS, LEASE_SECONDS = 0.25, 30
# Seconds between two attempts to reach Redis again: at first, and at most.
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.05, 2.0
# Seconds after which tallies of this process are merged with those of the others.
SYNC_SECONDS = 0.5
# Mean latency, over so many calls, from which on Redis is slower than the store; quick answers in a row after which it
# is used again.
SLOW_SECONDS, MEAN_LATENCY_CALLS, PINGS = 0.05, 8, 3
# Seconds that clocks of machines may differ.
MAX_CLOCK_SKEW_SECONDS = 5.0
# Connections of a process at most; users forgotten while Redis was away, whose keys are removed when it is back.
MAX_CONNECTIONS, MAX_PENDING_FORGETS = 512, 10_000

T = TypeVar("T")

# KEYS: epoch, then list, lease and tombstone of each user, and the showings of one. ARGV: a new token, seconds of a
# lease, 1 where the last key is of showings, and how many of these.
# Returns for each user head and events of the list, or a lease to fill it by, or "" for one forgotten a moment ago; and
# the showings.
_READ = """
local epoch = redis.call('HGET', KEYS[1], 'token')
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[1], 'token', epoch)
end
local replies, last = {}, #KEYS - tonumber(ARGV[3])
for n = 2, last, 3 do
  local head = redis.call('LINDEX', KEYS[n], 0)
  if head and string.sub(head, 1, #epoch) == epoch then
    table.insert(replies, {head, table.concat(redis.call('LRANGE', KEYS[n], 1, -1), ',')})
  elseif redis.call('EXISTS', KEYS[n + 2]) == 1 then
    table.insert(replies, '')
  else
    local lease = redis.call('GET', KEYS[n + 1])
    if not lease or string.sub(lease, 1, #epoch) ~= epoch then
      lease = epoch .. ':' .. ARGV[1]
      redis.call('SET', KEYS[n + 1], lease, 'EX', ARGV[2])
    end
    table.insert(replies, lease)
  end
end
if last < #KEYS then table.insert(replies, redis.call('LRANGE', KEYS[#KEYS], 0, ARGV[4] - 1)) end
return replies
"""
# Removes the lease: readers who hold the same one need not write the same list again.
# Returns 1: filled; 0: there is no such lease any more; -1: the user was forgotten.
_FILL = """
if redis.call('EXISTS', KEYS[4]) == 1 then return -1 end
local epoch = redis.call('HGET', KEYS[1], 'token')
if redis.call('GET', KEYS[3]) ~= ARGV[1] or not epoch or string.sub(ARGV[1], 1, #epoch) ~= epoch then return 0 end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('RPUSH', KEYS[2], epoch .. ':' .. ARGV[2])
if ARGV[7] ~= '' then redis.call('RPUSH', KEYS[2], ARGV[7]) end
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[5], ARGV[5], ARGV[6])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', ARGV[4])
return 1
"""
# KEYS: epoch, index, then list and lease of each user. ARGV: longest list, then for each user hash, number of events,
# events.
_ADD_EVENTS = """
local epoch = redis.call('HGET', KEYS[1], 'token')
local at = 2
for n = 3, #KEYS, 2 do
  local user, n_events = ARGV[at], tonumber(ARGV[at + 1])
  redis.call('DEL', KEYS[n + 1])
  local head = redis.call('LINDEX', KEYS[n], 0)
  if head then
    local size = redis.call('LLEN', KEYS[n])
    if epoch and string.sub(head, 1, #epoch) == epoch and size + n_events <= tonumber(ARGV[1]) then
      redis.call('RPUSH', KEYS[n], unpack(ARGV, at + 2, at + 1 + n_events))
    else
      redis.call('DEL', KEYS[n])
      redis.call('ZREM', KEYS[2], user)
    end
  end
  at = at + 2 + n_events
end
"""
_ADD_SHOWINGS = """
if redis.call('EXISTS', KEYS[2]) == 1 then return end
redis.call('LPUSH', KEYS[1], unpack(ARGV, 4))
redis.call('LTRIM', KEYS[1], 0, ARGV[1] - 1)
local last = redis.call('LINDEX', KEYS[1], -1)
while last and tonumber(string.match(last, '^[^:]+')) <= tonumber(ARGV[3]) do
  redis.call('RPOP', KEYS[1])
  last = redis.call('LINDEX', KEYS[1], -1)
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
# Sums that decay. ARGV: now, their TTL in seconds, then for each sum what is added and its half-life. Returns the sums.
_TALLY = """
local stored = redis.call('HMGET', KEYS[1], 'at', 'sums')
local now, at = tonumber(ARGV[1]), tonumber(stored[1] or ARGV[1])
local sums = stored[2] and cjson.decode(stored[2]) or {}
local elapsed, decayed = math.max(0, now - at), {}
for n = 1, (#ARGV - 2) / 2 do
  decayed[n] = (sums[n] or 0) * 0.5 ^ (elapsed / tonumber(ARGV[2 * n + 2])) + tonumber(ARGV[2 * n + 1])
end
redis.call('HSET', KEYS[1], 'at', tostring(math.max(now, at)), 'sums', cjson.encode(decayed))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return cjson.encode(decayed)
"""
_SAME_SERVER = """
if redis.call('HGET', KEYS[1], 'server') ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'server', ARGV[1], 'token', ARGV[2])
end
"""


class _AwayError(Exception):
    """Redis is not used at the moment."""


class RedisState(LiveState):
    """Shared by all processes that name the same Redis and the same `name`. One Redis, not a cluster.

    While Redis does not answer, or only slowly, `recent` reads the store and showings are counted in this process; that
    is logged once. One failure is enough: from then on a thread of its own tries to reach Redis, and no request waits.

    Parameters
    ----------
    url: "redis://[user:password@]host:port/0", "rediss://…" or "unix://…".
    name: of the tenant; no other sees its keys.
    ttl: seconds that what was loaded may be used.
    clock: seconds; for tests.

    Raises ConfigError for an address that is not valid and for a password that is refused; not where Redis is away.
    """

    def __init__(
        self, url: str, name: str = "default", ttl: float = TTL_SECONDS, clock: Callable[[], float] = time.time
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            raise ConfigError(f"{name[:80]!r} is no name for live state", remedy="1 to 64 letters, digits, _ . and -")
        if ttl < 1:
            raise ConfigError(f"ttl = {ttl} is too short", remedy="one second or more")
        self._name, self._ttl, self._clock = f"zy:{name}", int(ttl), clock
        try:
            self._redis: Any = redis.Redis.from_url(
                url, decode_responses=True, protocol=2, socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS, max_connections=MAX_CONNECTIONS,
                retry=Retry(NoBackoff(), 0), redis_connect_func=self._on_connect,
            )  # fmt: skip
        except (ValueError, TypeError):
            raise ConfigError("the address of Redis cannot be read", remedy="redis://host:6379/0") from None
        self._epoch, self._index = f"{self._name}:epoch", f"{self._name}:users"
        self._read, self._fill, self._append_script, self._show, self._tally = (
            self._redis.register_script(text) for text in (_READ, _FILL, _ADD_EVENTS, _ADD_SHOWINGS, _TALLY)
        )
        # By name: sums as Redis had them, what was added since, and when they were merged.
        self._sums: cachetools.LRUCache[str, tuple[list[float], list[float], float]] = cachetools.LRUCache(MAX_TALLIES)
        self._tally_lock = threading.Lock()
        self._lock, self._stop, self._away = threading.Lock(), threading.Event(), False
        self._mean_latency = 0.0  # seconds
        self._reconnector: threading.Thread | None = None
        # Users forgotten while Redis was away: time by hash.
        self._pending_forgets: cachetools.FIFOCache[str, int] = cachetools.FIFOCache(MAX_PENDING_FORGETS)
        self._showings = Showings(clock=clock)  # of this process, while Redis is away
        try:
            with self._lock:
                self._start_epoch()
        except redis.AuthenticationError:
            self._redis.close()
            raise ConfigError("Redis refuses the password", remedy="redis://user:password@host:6379/0") from None
        except redis.RedisError as error:
            self._go_away(error)

    # -- events -------------------------------------------------------------------------------------------------------

    def recent(self, user: str, load: Callable[[], Recent]) -> Recent:
        return self.recent_and_showings([user], lambda _: load())[0][0]

    def recent_and_showings(
        self,
        users: Sequence[str],
        load: Callable[[str], Recent],
        shown_to: str | None = None,
        window: float = DAY_SECONDS,
    ) -> tuple[list[Recent], dict[str, int]]:
        """As `LiveState`'s, by one round trip, and another for each user who is loaded."""
        keys = [self._epoch, *(key for user in users for key in self._keys_of(user))]
        if shown_to is not None:
            keys.append(self._key("shown", _hash(shown_to)))
        args: list[Any] = [uuid.uuid4().hex, LEASE_SECONDS, int(shown_to is not None), MAX_SHOWINGS_PER_USER]
        try:
            replies = self._call(partial(self._read, keys, args))
        except _AwayError:
            counts = {} if shown_to is None else self._showings.counts(shown_to, window)
            return [load(user).tidy() for user in users], counts
        counts = {} if shown_to is None else self._count_showings(replies.pop(), window)
        return [self._recent(user, reply, load) for user, reply in zip(users, replies, strict=True)], counts

    def _recent(self, user: str, reply: Any, load: Callable[[str], Recent]) -> Recent:
        """The events of a user by the reply of `_READ`: those of the list, or loaded ones, which then fill the list."""
        if isinstance(reply, list):
            stored = Recent((), int(reply[0].partition(":")[2]))
            rows = json.loads(f"[{reply[1]}]")
            return stored.merged_with(events_from_rows((user, *row[: len(_FIELDS)]) for row in rows))
        loaded = load(user).tidy()
        if not reply:
            return loaded
        now = self._clock()
        args: list[Any] = [reply, loaded.forgotten, self._ttl, now, now + self._ttl, _hash(user)]
        args.append(",".join(map(_json, loaded.events)))
        try:
            filled = self._call(partial(self._fill, [self._epoch, *self._keys_of(user), self._index], args))
        except _AwayError:
            return loaded
        if filled >= 0:
            return loaded
        return self.recent_and_showings([user], load)[0][0]  # forgotten meanwhile: what was loaded may be from before

    def add_events(self, events: Sequence[Event]) -> None:
        by_user: dict[str, list[str]] = {}
        for event in events:
            by_user.setdefault(event.user, []).append(_json(event))
        keys: list[str] = []
        args: list[str] = []
        for user, new in by_user.items():
            user_hash = _hash(user)
            for at in range(0, len(new), MAX_EVENTS_PER_SCRIPT):
                piece = new[at : at + MAX_EVENTS_PER_SCRIPT]
                if keys and len(keys) + len(args) + len(piece) > 4 * MAX_EVENTS_PER_SCRIPT:
                    self._append(keys, args)
                    keys, args = [], []
                keys += [self._key("recent", user_hash), self._key("lease", user_hash)]
                args += [user_hash, str(len(piece)), *piece]
        if keys:
            self._append(keys, args)

    def _append(self, keys: list[str], args: list[str]) -> None:
        longest = str(2 + MAX_APPENDED_EVENTS)
        with suppress(_AwayError):  # the epoch changes before Redis is asked again
            self._call_in_order(partial(self._append_script, [self._epoch, self._index, *keys], [longest, *args]))

    def forget(self, user: str, time: int) -> None:
        """Drop a user whom the store has forgotten. While Redis is away, what it holds of the user is removed when it
        is back, before it is read again. Where this process ends earlier, it expires by TTL_SECONDS, and showings by
        their window."""
        user_hash = _hash(user)
        self._showings.drop(user)
        with self._lock:
            self._pending_forgets[user_hash] = time
        try:
            self._call_in_order(lambda: self._remove_user(user_hash, time))
        except _AwayError:
            return
        with self._lock:
            if self._pending_forgets.get(user_hash) == time:
                del self._pending_forgets[user_hash]

    def forget_all(self, forgotten: Collection[str] | None = None) -> None:
        """As `LiveState`'s; showings in Redis stay, since `zhiyin forget` removes those of the user itself."""
        if forgotten is None:
            self._showings.clear()
        else:
            self._showings.drop_hashes(forgotten)
        with suppress(_AwayError):
            self._call_in_order(lambda: self._redis.hset(self._epoch, "token", uuid.uuid4().hex))

    def _remove_user(self, user_hash: str, time: int) -> None:
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(self._key("gone", user_hash), time, px=int(GRACE_SECONDS * 1000))
            pipe.delete(*(self._key(kind, user_hash) for kind in ("recent", "lease", "shown")))
            pipe.zrem(self._index, user_hash)
            pipe.execute()

    # -- showings -----------------------------------------------------------------------------------------------------

    def record_showings(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None:
        if not items:
            return
        user_hash, now = _hash(user), self._clock()
        args: list[Any] = [
            MAX_SHOWINGS_PER_USER,
            ceil(window) + 60,
            now - window,
            *(f"{now}:{item}" for item in items[-MAX_SHOWINGS_PER_USER:]),
        ]
        try:
            self._call(partial(self._show, [self._key("shown", user_hash), self._key("gone", user_hash)], args))
        except _AwayError:
            self._showings.add(user, items, window)

    def showing_counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]:
        return self.recent_and_showings([], lambda _: Recent(), user, window)[1]

    def _count_showings(self, entries: Sequence[str], window: float) -> dict[str, int]:
        """How often each item is among the showings of the last `window` seconds."""
        now = self._clock()
        parts = (text.partition(":") for text in entries)
        # Machines' clocks differ a little; what a clock that ran ahead dated into the future counts no more.
        return dict(
            Counter(
                item for shown_at, _, item in parts if now - window < float(shown_at) <= now + MAX_CLOCK_SKEW_SECONDS
            )
        )

    # -- tallies ------------------------------------------------------------------------------------------------------

    def tally(self, name: str, added: Sequence[float], half_lives: Sequence[float]) -> list[float]:
        """As `LiveState`'s; what other processes add counts SYNC_SECONDS later, and after Redis was away."""
        now = self._clock()
        with self._tally_lock:
            zeros = [0.0] * len(added)
            sums, pending, synced = self._sums.get(name) or (zeros, zeros, now - SYNC_SECONDS)
            pending = [total + part for total, part in zip(pending, added)]
            if now - synced >= SYNC_SECONDS:
                numbers = [part for pair in zip(pending, half_lives) for part in pair]
                args: list[Any] = [now, ceil(20 * max(half_lives, default=1.0)), *map(repr, map(float, numbers))]
                with suppress(_AwayError):
                    stored = self._call(partial(self._tally, [self._key("tally", name)], args))
                    sums, pending, synced = [float(part) for part in json.loads(stored)], zeros, now
            self._sums[name] = sums, pending, synced
            return [total + part for total, part in zip(sums, pending)]

    # -- the whole ----------------------------------------------------------------------------------------------------

    @property
    def users(self) -> int:
        """The number of users of this name whose events Redis holds; 0 while it is away."""
        try:
            return int(self._call(lambda: self._redis.zcount(self._index, self._clock(), "+inf")))
        except _AwayError:
            return 0

    @property
    def away(self) -> bool:
        """Whether Redis does not answer at the moment."""
        return self._away

    def close(self) -> None:
        """Close the connections; what is in Redis stays for the others."""
        self._stop.set()
        if self._reconnector is not None:
            self._reconnector.join()
        self._redis.close()

    def _keys_of(self, user: str) -> list[str]:
        """Keys of the list, lease and tombstone of a user."""
        user_hash = _hash(user)
        return [self._key("recent", user_hash), self._key("lease", user_hash), self._key("gone", user_hash)]

    def _key(self, kind: str, user_hash: str) -> str:
        return f"{self._name}:{kind}:{user_hash}"

    # -- reachable or not ---------------------------------------------------------------------------------------------

    def _call(self, do: Callable[[], T]) -> T:
        if self._away:
            raise _AwayError
        return self._do(do)

    def _call_in_order(self, do: Callable[[], T]) -> T:
        """As `_call`, for what Redis must not miss: where it is away here, it is so before the new epoch."""
        with self._lock:
            away = self._away
        if away:
            raise _AwayError
        return self._do(do)

    def _do(self, do: Callable[[], T]) -> T:
        begun = time.monotonic()
        try:
            result = do()
        except redis.RedisError as error:
            self._go_away(error)
            raise _AwayError from None
        # A mean over some calls: one slow answer is an accident, many are a Redis that holds up every list.
        elapsed = time.monotonic() - begun
        self._mean_latency += (elapsed - self._mean_latency) / MEAN_LATENCY_CALLS
        if self._mean_latency > SLOW_SECONDS:
            self._go_away(TimeoutError("slow"))
        return result

    def _go_away(self, error: Exception) -> None:
        with self._lock:
            if self._away or self._stop.is_set():
                return
            self._away, self._mean_latency = True, 0.0
            self._reconnector = threading.Thread(target=self._reconnect, name="zhiyin-redis", daemon=True)
            self._reconnector.start()
        log.warning("live state: Redis does not answer (%s); the store is asked until it does", type(error).__name__)

    def _reconnect(self) -> None:
        pause = FIRST_RETRY_SECONDS
        while not self._stop.wait(pause):
            pause = min(2 * pause, MAX_RETRY_SECONDS)
            try:
                for _ in range(PINGS):
                    begun = time.monotonic()
                    self._redis.ping()
                    if time.monotonic() - begun > SLOW_SECONDS:
                        raise redis.TimeoutError("it answers, but slowly")
                with self._lock:  # so that nothing is missed between the new epoch and the end of being away
                    self._start_epoch()
                    self._away = False
            except redis.RedisError:
                continue
            self._showings.clear()
            log.warning("live state: Redis answers again")
            return

    def _start_epoch(self) -> None:
        """Remove users that are to be forgotten and set a new epoch: no list in Redis counts then. Under the lock."""
        for user_hash, forgotten_at in list(self._pending_forgets.items()):
            self._remove_user(user_hash, forgotten_at)
            del self._pending_forgets[user_hash]
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._epoch, "token", uuid.uuid4().hex)
            pipe.delete(self._index)
            pipe.execute()

    def _on_connect(self, connection: Any) -> None:
        """Set a new epoch where a connection leads to another server than the one that lists were written to."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        info = connection.read_response()
        info = info.decode() if isinstance(info, bytes) else info
        run = re.search(r"run_id:(\w+)", info)
        connection.send_command("EVAL", _SAME_SERVER, 1, self._epoch, run[1] if run else "", uuid.uuid4().hex)
        connection.read_response()


def _hash(user: str) -> str:
    """A hash of a user, which bounds the length of keys and keeps ids out of them."""
    return hashlib.sha256(user.encode()).hexdigest()[:32]


# Fields of an event in its entry. An entry of another release may end earlier, or later.
_FIELDS = tuple(name for name in EVENT_FIELDS if name != "user")
_field_values = operator.attrgetter(*_FIELDS)


def _json(event: Event) -> str:
    """The entry of an event: its fields but the user, in their order."""
    return json.dumps(_field_values(event), ensure_ascii=False, separators=(",", ":"))
