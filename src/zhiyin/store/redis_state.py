"""Live state in Redis, shared by processes and machines. The store stays the truth; Redis may go and come at any time.

Of each user there is a list: a head (epoch and when they were forgotten), the events that were loaded in one piece,
and after it those heard since. Who reads puts them in order, so that a write is one RPUSH; a list that has grown by
SLACK is dropped and loaded anew.

Three things keep it from ever serving what is old:

- a lease: who misses takes one, loads, and may fill only while the lease stands. Whatever is heard of the user
  meanwhile removes it, and then the next reader loads.
- a tombstone: for GRACE_SECONDS after a user was forgotten nothing of them is held.
- the epoch: a token shared by all. A list of another epoch does not count, nor does a lease. A process takes a new
  epoch when it starts (one that died may have committed what it could not tell), when Redis answers again after a
  failure (what was heard meanwhile is missing from the lists), and when the server behind the address is another than
  before (one restarted from an old snapshot, or a replica that took over).

While a process cannot reach Redis and another can, the other does not hear what the first commits until the first is
back; at the latest TTL after the list was loaded it is read from the store again.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from itertools import starmap
from math import ceil
from typing import Any, TypeVar

from zhiyin.core.errors import ConfigError, MissingExtraError
from zhiyin.core.run import log
from zhiyin.store.live_state import (
    DAY_SECONDS,
    GRACE_SECONDS,
    MAX_SHOWINGS_PER_USER,
    MAX_TALLIES,
    TTL_SECONDS,
    LiveState,
    Recent,
    Showings,
)
from zhiyin.store.records import Event

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError:
    raise MissingExtraError("redis", "redis", "the live state in Redis") from None

# Events that a list may grow by before it is loaded anew; users and events of one script.
MAX_APPENDED_EVENTS, MAX_EVENTS_PER_SCRIPT = 250, 500
# Seconds that Redis may take to answer; that a load may take; between two tries to reach it again, first and longest.
TIMEOUT_SECONDS, LEASE_SECONDS, FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.25, 30, 0.05, 2.0
# Seconds after which sums of this process are brought together with those of the others.
SYNC_SECONDS = 0.5
# Seconds of a mean answer, over so many calls, beyond which Redis is slower than the store that it spares; answers in a
# row that are quick, after which it is asked again.
SLOW_SECONDS, MEAN_LATENCY_CALLS, PINGS = 0.05, 8, 3
# Seconds that clocks of machines may differ.
MAX_CLOCK_SKEW_SECONDS = 5.0
# Connections of a process at most; users forgotten while Redis was away, whose keys are removed when it is back.
MAX_CONNECTIONS, MAX_OWED_FORGETS = 512, 10_000

T = TypeVar("T")

# KEYS: epoch, then list, lease and tombstone of each user, and the showings of one. ARGV: a new token, seconds of a
# lease, 1 where the last key is of showings, and how many of these.
# -> of each user head and events of the list, or a lease to fill it by, or "" for one forgotten a moment ago; showings.
_READ = """
local epoch = redis.call('HGET', KEYS[1], 'token')
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[1], 'token', epoch)
end
local found, last = {}, #KEYS - tonumber(ARGV[3])
for n = 2, last, 3 do
  local head = redis.call('LINDEX', KEYS[n], 0)
  if head and string.sub(head, 1, #epoch) == epoch then
    table.insert(found, {head, table.concat(redis.call('LRANGE', KEYS[n], 1, -1), ',')})
  elseif redis.call('EXISTS', KEYS[n + 2]) == 1 then
    table.insert(found, '')
  else
    local lease = redis.call('GET', KEYS[n + 1])
    if not lease or string.sub(lease, 1, #epoch) ~= epoch then
      lease = epoch .. ':' .. ARGV[1]
      redis.call('SET', KEYS[n + 1], lease, 'EX', ARGV[2])
    end
    table.insert(found, lease)
  end
end
if last < #KEYS then table.insert(found, redis.call('LRANGE', KEYS[#KEYS], 0, ARGV[4] - 1)) end
return found
"""
# The lease has done its work: readers who hold the same one need not write the same list again.
# -> 1 filled, 0 the lease is gone, -1 the user was forgotten.
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
# KEYS: epoch, index, then list and lease of each user. ARGV: longest list, then of each user: hash, how many, events.
_HEARD = """
local epoch = redis.call('HGET', KEYS[1], 'token')
local at = 2
for n = 3, #KEYS, 2 do
  local user, many = ARGV[at], tonumber(ARGV[at + 1])
  redis.call('DEL', KEYS[n + 1])
  local head = redis.call('LINDEX', KEYS[n], 0)
  if head then
    local size = redis.call('LLEN', KEYS[n])
    if epoch and string.sub(head, 1, #epoch) == epoch and size + many <= tonumber(ARGV[1]) then
      redis.call('RPUSH', KEYS[n], unpack(ARGV, at + 2, at + 1 + many))
    else
      redis.call('DEL', KEYS[n])
      redis.call('ZREM', KEYS[2], user)
    end
  end
  at = at + 2 + many
end
"""
_SHOW = """
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
# Sums that decay. ARGV: now, seconds to keep them, then of each sum what is added and its half-life. -> the sums.
_TALLY = """
local held = redis.call('HMGET', KEYS[1], 'at', 'sums')
local now, at = tonumber(ARGV[1]), tonumber(held[1] or ARGV[1])
local sums = held[2] and cjson.decode(held[2]) or {}
local passed, after = math.max(0, now - at), {}
for n = 1, (#ARGV - 2) / 2 do
  after[n] = (sums[n] or 0) * 0.5 ^ (passed / tonumber(ARGV[2 * n + 2])) + tonumber(ARGV[2 * n + 1])
end
redis.call('HSET', KEYS[1], 'at', tostring(math.max(now, at)), 'sums', cjson.encode(after))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return cjson.encode(after)
"""
_SAME_SERVER = """
if redis.call('HGET', KEYS[1], 'server') ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'server', ARGV[1], 'token', ARGV[2])
end
"""


class _AwayError(Exception):
    """Redis cannot be asked now."""


class RedisState(LiveState):
    """Shared by all processes that name the same Redis and the same `name`. One Redis, not a cluster.

    While Redis does not answer, or only slowly, `recent` asks the store and showings are counted in this process; that
    is said once in the log. One failure is enough: from then on a thread of its own tries again, and no request waits
    for it.

    Parameters
    ----------
    url: "redis://[user:password@]host:port/0", "rediss://…" or "unix://…". name: of the tenant; no other sees its keys.
    ttl: seconds that what was loaded may be used. clock: seconds; for tests.

    Raises ConfigError for an address that cannot be and for a password that is refused; not where Redis is away.
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
                retry=Retry(NoBackoff(), 0), redis_connect_func=self._connected,
            )  # fmt: skip
        except (ValueError, TypeError):
            raise ConfigError("the address of Redis cannot be read", remedy="redis://host:6379/0") from None
        self._epoch, self._index = f"{self._name}:epoch", f"{self._name}:users"
        self._read, self._fill, self._append_script, self._show, self._tally = (
            self._redis.register_script(text) for text in (_READ, _FILL, _HEARD, _SHOW, _TALLY)
        )
        # Of each name: sums as Redis had them, what was added since, and when they were brought together.
        self._sums: dict[str, tuple[list[float], list[float], float]] = {}
        self._summing = threading.Lock()
        self._lock, self._stop, self._away = threading.Lock(), threading.Event(), False
        self._mean = 0.0  # seconds that it took to answer lately
        self._mender: threading.Thread | None = None
        self._owed: dict[str, int] = {}  # forgotten while Redis was away: hash, moment
        self._showings = Showings(100_000, clock)  # of this process, while Redis is away
        try:
            with self._lock:
                self._mend()
        except redis.AuthenticationError:
            self._redis.close()
            raise ConfigError("Redis refuses the password", remedy="redis://user:password@host:6379/0") from None
        except redis.RedisError as error:
            self._lost(error)

    # -- what users did ---------------------------------------------------------------------------------------------

    def recent(self, user: str, load: Callable[[], Recent]) -> Recent:
        return self.recent_and_showings([user], lambda _: load())[0][0]

    def recent_and_showings(
        self,
        users: Sequence[str],
        load: Callable[[str], Recent],
        shown_to: str | None = None,
        window: float = DAY_SECONDS,
    ) -> tuple[list[Recent], dict[str, int]]:
        """As of all states: one round trip, and another for each user who is loaded."""
        keys = [self._epoch, *(key for user in users for key in self._keys_of(user))]
        if shown_to is not None:
            keys.append(self._key("shown", _hash(shown_to)))
        args: list[Any] = [uuid.uuid4().hex, LEASE_SECONDS, int(shown_to is not None), MAX_SHOWINGS_PER_USER]
        try:
            replies = self._ask(partial(self._read, keys, args))
        except _AwayError:
            counts = {} if shown_to is None else self._showings.counts(shown_to, window)
            return [load(user).tidy() for user in users], counts
        counts = {} if shown_to is None else self._counted(replies.pop(), window)
        return [self._recent(user, held, load) for user, held in zip(users, replies, strict=True)], counts

    def _recent(self, user: str, reply: Any, load: Callable[[str], Recent]) -> Recent:
        """What `_READ` gave of a user, or what is loaded, and Redis filled with it."""
        if isinstance(reply, list):
            held = Recent((), int(reply[0].partition(":")[2]))
            return held.merged_with(starmap(partial(Event, user), json.loads(f"[{reply[1]}]")))
        loaded = load(user).tidy()
        if not reply:
            return loaded
        now = self._clock()
        args: list[Any] = [reply, loaded.forgotten, self._ttl, now, now + self._ttl, _hash(user)]
        args.append(",".join(map(_json, loaded.events)))
        try:
            filled = self._ask(partial(self._fill, [self._epoch, *self._keys_of(user), self._index], args))
        except _AwayError:
            return loaded
        if filled >= 0:
            return loaded
        return self.recent_and_showings([user], load)[0][0]  # forgotten meanwhile: what was loaded may be from before

    def add_events(self, events: Sequence[Event]) -> None:
        of: dict[str, list[str]] = {}
        for event in events:
            of.setdefault(event.user, []).append(_json(event))
        keys: list[str] = []
        args: list[str] = []
        for user, new in of.items():
            who = _hash(user)
            for at in range(0, len(new), MAX_EVENTS_PER_SCRIPT):
                piece = new[at : at + MAX_EVENTS_PER_SCRIPT]
                if keys and len(keys) + len(args) + len(piece) > 4 * MAX_EVENTS_PER_SCRIPT:
                    self._append(keys, args)
                    keys, args = [], []
                keys += [self._key("recent", who), self._key("lease", who)]
                args += [who, str(len(piece)), *piece]
        if keys:
            self._append(keys, args)

    def _append(self, keys: list[str], args: list[str]) -> None:
        longest = str(2 + MAX_APPENDED_EVENTS)
        with suppress(_AwayError):  # the epoch changes before Redis is asked again
            self._tell(partial(self._append_script, [self._epoch, self._index, *keys], [longest, *args]))

    def forget(self, user: str, moment: int) -> None:
        """As of all states; while Redis is away: what it holds of the user cannot be read again once it is back, and is
        removed then. Where this process ends before: it goes with its TTL_SECONDS, showings within their window."""
        who = _hash(user)
        self._showings.drop(user)
        with self._lock:
            self._owed[who] = moment
            while len(self._owed) > MAX_OWED_FORGETS:
                self._owed.pop(next(iter(self._owed)))
        try:
            self._tell(lambda: self._bury(who, moment))
        except _AwayError:
            return
        with self._lock:
            if self._owed.get(who) == moment:
                del self._owed[who]

    def forget_all(self, forgotten: Collection[str] | None = None) -> None:
        """As of all states; showings of others stay. `zhiyin forget` tells Redis itself whom it has forgotten."""
        if forgotten is None:
            self._showings.clear()
        else:
            self._showings.drop_hashes(forgotten)
        with suppress(_AwayError):
            self._tell(lambda: self._redis.hset(self._epoch, "token", uuid.uuid4().hex))

    def _bury(self, who: str, moment: int) -> None:
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(self._key("gone", who), moment, px=int(GRACE_SECONDS * 1000))
            pipe.delete(*(self._key(kind, who) for kind in ("recent", "lease", "shown")))
            pipe.zrem(self._index, who)
            pipe.execute()

    # -- what users were shown --------------------------------------------------------------------------------------

    def record_showings(self, user: str, items: Sequence[str], window: float = DAY_SECONDS) -> None:
        if not items:
            return
        who, now = _hash(user), self._clock()
        args: list[Any] = [
            MAX_SHOWINGS_PER_USER,
            ceil(window) + 60,
            now - window,
            *(f"{now}:{item}" for item in items[-MAX_SHOWINGS_PER_USER:]),
        ]
        try:
            self._ask(partial(self._show, [self._key("shown", who), self._key("gone", who)], args))
        except _AwayError:
            self._showings.add(user, items, window)

    def showing_counts(self, user: str, window: float = DAY_SECONDS) -> dict[str, int]:
        return self.recent_and_showings([], lambda _: Recent(), user, window)[1]

    def _counted(self, entries: Sequence[str], window: float) -> dict[str, int]:
        """How often each item stands among showings of the last `window` seconds."""
        now = self._clock()
        parts = (text.partition(":") for text in entries)
        # Machines' clocks differ a little; what a clock that ran ahead dated into the future counts no more.
        return dict(
            Counter(item for moment, _, item in parts if now - window < float(moment) <= now + MAX_CLOCK_SKEW_SECONDS)
        )

    # -- sums -------------------------------------------------------------------------------------------------------

    def tally(self, name: str, more: Sequence[float], half_lives: Sequence[float]) -> list[float]:
        """As of all states; what other processes add is known SYNC_SECONDS later, and after Redis was away."""
        now = self._clock()
        with self._summing:
            sums, added, at = self._sums.get(name, ([0.0] * len(more), [0.0] * len(more), now - SYNC_SECONDS))
            added = [total + part for total, part in zip(added, more)]
            if now - at >= SYNC_SECONDS:
                numbers = [part for pair in zip(added, half_lives) for part in pair]
                args: list[Any] = [now, ceil(20 * max(half_lives, default=1.0)), *map(repr, map(float, numbers))]
                with suppress(_AwayError):
                    sums_now = self._ask(partial(self._tally, [self._key("tally", name)], args))
                    sums, added, at = [float(part) for part in json.loads(sums_now)], [0.0] * len(more), now
            self._sums.pop(name, None)
            self._sums[name] = sums, added, at
            while len(self._sums) > MAX_TALLIES:
                self._sums.pop(next(iter(self._sums)))
            return [total + part for total, part in zip(sums, added)]

    # -- whole ------------------------------------------------------------------------------------------------------

    @property
    def users(self) -> int:
        """Of how many users of this name Redis holds events; 0 while it is away."""
        try:
            return int(self._ask(lambda: self._redis.zcount(self._index, self._clock(), "+inf")))
        except _AwayError:
            return 0

    @property
    def away(self) -> bool:
        """Whether Redis does not answer at the moment."""
        return self._away

    def close(self) -> None:
        """Let the connections go; what is in Redis stays for the others."""
        self._stop.set()
        if self._mender is not None:
            self._mender.join()
        self._redis.close()

    def _keys_of(self, user: str) -> list[str]:
        """List, lease and tombstone of a user."""
        who = _hash(user)
        return [self._key("recent", who), self._key("lease", who), self._key("gone", who)]

    def _key(self, kind: str, who: str) -> str:
        return f"{self._name}:{kind}:{who}"

    # -- away and back ----------------------------------------------------------------------------------------------

    def _ask(self, do: Callable[[], T]) -> T:
        if self._away:
            raise _AwayError
        return self._do(do)

    def _tell(self, do: Callable[[], T]) -> T:
        """As `_ask`, for what must not be missed: who finds Redis away here finds it so before the new epoch."""
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
            self._lost(error)
            raise _AwayError from None
        # A mean over some calls: one slow answer is an accident, many are a Redis that holds up every list.
        took = time.monotonic() - begun
        self._mean += (took - self._mean) / MEAN_LATENCY_CALLS
        if self._mean > SLOW_SECONDS:
            self._lost(TimeoutError("slow"))
        return result

    def _lost(self, error: Exception) -> None:
        with self._lock:
            if self._away or self._stop.is_set():
                return
            self._away, self._mean = True, 0.0
            self._mender = threading.Thread(target=self._try_again, name="zhiyin-redis", daemon=True)
            self._mender.start()
        log.warning("live state: Redis does not answer (%s); the store is asked until it does", type(error).__name__)

    def _try_again(self) -> None:
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
                    self._mend()
                    self._away = False
            except redis.RedisError:
                continue
            self._showings.clear()
            log.warning("live state: Redis answers again")
            return

    def _mend(self) -> None:
        """Nothing that Redis holds counts any more; under the lock."""
        for who, moment in list(self._owed.items()):
            self._bury(who, moment)
            del self._owed[who]
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._epoch, "token", uuid.uuid4().hex)
            pipe.delete(self._index)
            pipe.execute()

    def _connected(self, connection: Any) -> None:
        """Of every new connection: is the server the one that the lists were written to?"""
        connection.on_connect()
        connection.send_command("INFO", "server")
        info = connection.read_response()
        info = info.decode() if isinstance(info, bytes) else info
        run = re.search(r"run_id:(\w+)", info)
        connection.send_command("EVAL", _SAME_SERVER, 1, self._epoch, run[1] if run else "", uuid.uuid4().hex)
        connection.read_response()


def _hash(user: str) -> str:
    """Bounds the length of a key, and keeps names out of what lists keys."""
    return hashlib.sha256(user.encode()).hexdigest()[:32]


def _json(event: Event) -> str:
    # As Event's fields follow on the user.
    fields = [event.item, event.time, event.kind, event.value, event.id, event.list_id, event.seq]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
