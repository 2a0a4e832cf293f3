"""The streamed state in Redis. A file is applied in parts; each part and the mark of how far the file has come are one
script, so that after a kill the next attempt goes on where the last one ended.

Scripts never calculate with sequence numbers or times, which a double might not hold: these are texts of 20 digits,
compared as texts, or summed by Redis itself (HINCRBY). Events of a user are members of a sorted set that begin with
such a number, all of one score: Redis keeps them in the order of the text.

Keys never expire, since a history that expired could not be told from one that is empty. Users of whom nothing was
heard for IDLE_SECONDS are dropped by `maintain`, and known as dropped: their histories say that they lack events.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import ConfigError, MissingExtraError
from zhiyin.store.records import Event
from zhiyin.store.segment_files import Segment
from zhiyin.store.stream_definitions import (
    HISTORY_EVENT,
    MAX_COVISITS,
    MAX_HISTORY_EVENTS,
    MAX_SESSION_BUCKETS,
    MAX_TRENDING_ITEMS,
    covisit_log_scores,
    trending_log_scores,
)
from zhiyin.store.stream_state import (
    BUCKETS_FRAME,
    CLICK_THROUGH_FRAME,
    COVISITS_FRAME,
    TRENDING_FRAME,
    StreamState,
    StreamStateAwayError,
    checked_name,
    history_of_rows,
)

try:
    import redis
except ImportError:
    raise MissingExtraError("redis", "redis", "the streamed state in Redis") from None

# Rows of one script, which holds Redis up for some milliseconds; users that one script drops.
ROWS_PER_SCRIPT, USERS_PER_SCRIPT = 5_000, 500
# Seconds that Redis may take to answer.
TIMEOUT_SECONDS = 10.0
# Seconds after which a user of whom nothing was heard is dropped.
IDLE_SECONDS = 30 * 86_400.0
_DONE = "done"
_ZERO = "0" * 20

# What every script begins with. KEYS: marks of the files of a job, versions. ARGV: file, the mark that is expected (the
# number of rows that were applied), the mark afterwards, job, prefix of keys, number of the first argument of the rest.
# Returns 0 where the mark is another one.
_BEGIN = """
local mark = redis.call('HGET', KEYS[1], ARGV[1]) or '0'
if mark ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HINCRBY', KEYS[2], ARGV[4], 1)
local prefix = ARGV[5]
local function merge_log_score(key, member, added)
  local old = redis.call('ZSCORE', key, member)
  if old then
    local high, low = tonumber(old), tonumber(added)
    if high < low then high, low = low, high end
    added = string.format('%.17g', high + math.log(1 + 2 ^ (low - high)) / math.log(2))
  end
  redis.call('ZADD', key, added, member)
end
local function is_forgotten(user, seq)
  local upto = redis.call('HGET', prefix .. 'forgotten', user)
  return upto and seq <= upto
end
"""
# ARGV: most items, then item and log score.
_TRENDING = """
local key = prefix .. 'trending'
for i = 7, #ARGV, 2 do merge_log_score(key, ARGV[i], ARGV[i + 1]) end
local most, size = tonumber(ARGV[6]), redis.call('ZCARD', key)
if size > most + most / 16 then redis.call('ZREMRANGEBYRANK', key, 0, size - most - 1) end
return 1
"""
# ARGV: most others of an item, then item, other and log score.
_COVISITS = """
local most = tonumber(ARGV[6])
for i = 7, #ARGV, 3 do
  local key = prefix .. 'covisits:' .. ARGV[i]
  merge_log_score(key, ARGV[i + 1], ARGV[i + 2])
  if redis.call('ZCARD', key) > 2 * most then redis.call('ZREMRANGEBYRANK', key, 0, -(most + 1)) end
end
return 1
"""
# Segments are a hash: by the number before their first, their last number and how many rows they have.
_ADVANCE_MARK = """
local upto = redis.call('GET', prefix .. 'mark') or string.rep('0', 20)
while true do
  local segment = redis.call('HGET', prefix .. 'segments', upto)
  if not segment then break end
  if tonumber(redis.call('HGET', prefix .. 'applied', upto) or '0') < tonumber(string.sub(segment, 22)) then break end
  redis.call('HDEL', prefix .. 'segments', upto)
  redis.call('HDEL', prefix .. 'applied', upto)
  upto = string.sub(segment, 1, 20)
  redis.call('SET', prefix .. 'mark', upto)
end
"""
# ARGV: most events of a user, now, twice the number of segments, segment and rows of each, then user and event.
_HISTORIES = (
    """
local most, now, first = tonumber(ARGV[6]), ARGV[7], 9 + tonumber(ARGV[8])
for i = 9, first - 1, 2 do redis.call('HINCRBY', prefix .. 'applied', ARGV[i], ARGV[i + 1]) end
for i = first, #ARGV, 2 do
  local user, event = ARGV[i], ARGV[i + 1]
  if not is_forgotten(user, string.sub(event, 1, 20)) then
    local key = prefix .. 'history:' .. user
    redis.call('ZADD', key, 0, event)
    redis.call('ZADD', prefix .. 'active', now, user)
    if redis.call('ZCARD', key) > 2 * most then redis.call('ZREMRANGEBYRANK', key, 0, -(most + 1)) end
  end
end
"""
    + _ADVANCE_MARK
    + "return 1"
)
# ARGV: most buckets of a user, now, then user, bucket, first, last, number of events, lowest sequence number.
_SESSIONS = """
local most, now = tonumber(ARGV[6]), ARGV[7]
for i = 8, #ARGV, 6 do
  local user, bucket = ARGV[i], ARGV[i + 1]
  if not is_forgotten(user, ARGV[i + 5]) then
    local key = prefix .. 'sessions:' .. user
    local first, last = redis.call('HGET', key, 'f' .. bucket), redis.call('HGET', key, 'l' .. bucket)
    if not first or ARGV[i + 2] < first then redis.call('HSET', key, 'f' .. bucket, ARGV[i + 2]) end
    if not last or ARGV[i + 3] > last then redis.call('HSET', key, 'l' .. bucket, ARGV[i + 3]) end
    redis.call('HINCRBY', key, 'n' .. bucket, ARGV[i + 4])
    redis.call('ZADD', prefix .. 'active', now, user)
    if redis.call('HLEN', key) > 6 * most then
      local buckets = {}
      for _, field in ipairs(redis.call('HKEYS', key)) do
        if string.sub(field, 1, 1) == 'n' then table.insert(buckets, tonumber(string.sub(field, 2))) end
      end
      table.sort(buckets)
      for n = 1, #buckets - most do
        local old = string.format('%d', buckets[n])
        redis.call('HDEL', key, 'f' .. old, 'l' .. old, 'n' .. old)
      end
    end
  end
end
return 1
"""
# ARGV: placement, item, shown, clicked.
_CLICK_THROUGH = """
for i = 6, #ARGV, 4 do
  local key = prefix .. 'clicks:' .. ARGV[i]
  redis.call('HINCRBY', key, 's' .. ARGV[i + 1], ARGV[i + 2])
  redis.call('HINCRBY', key, 'c' .. ARGV[i + 1], ARGV[i + 3])
end
return 1
"""
# ARGV: prefix, then the number before each segment, and its last number and rows.
_SET_SEGMENTS = (
    """
local prefix = ARGV[1]
local mark = redis.call('GET', prefix .. 'mark') or string.rep('0', 20)
for i = 2, #ARGV, 2 do
  if ARGV[i] >= mark then redis.call('HSETNX', prefix .. 'segments', ARGV[i], ARGV[i + 1]) end
end
"""
    + _ADVANCE_MARK
)
# ARGV: prefix, user, sequence number.
_FORGET = """
local prefix, user, seq = ARGV[1], ARGV[2], ARGV[3]
local before = redis.call('HGET', prefix .. 'forgotten', user)
if before and before > seq then seq = before end
redis.call('HSET', prefix .. 'forgotten', user, seq)
redis.call('ZREMRANGEBYLEX', prefix .. 'history:' .. user, '-', '[' .. seq .. ';')
redis.call('DEL', prefix .. 'sessions:' .. user)
redis.call('SREM', prefix .. 'dropped', user)
redis.call('HINCRBY', prefix .. 'versions', 'histories', 1)
redis.call('HINCRBY', prefix .. 'versions', 'sessions', 1)
"""
# ARGV: prefix, seconds before which a user is idle, most users. Returns how many were dropped.
_DROP_IDLE = """
local prefix = ARGV[1]
local users = redis.call('ZRANGEBYSCORE', prefix .. 'active', '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
for _, user in ipairs(users) do
  redis.call('SADD', prefix .. 'dropped', user)
  redis.call('DEL', prefix .. 'history:' .. user, prefix .. 'sessions:' .. user)
  redis.call('ZREM', prefix .. 'active', user)
end
return #users
"""


class RedisStreamState(StreamState):
    """Keys `zs:NAME:...` of one Redis, not a cluster. Its memory policy must not evict keys (noeviction, volatile-…).

    Parameters
    ----------
    url: "redis://[user:password@]host:port/0", "rediss://…" or "unix://…".
    name: of the store.
    clock: seconds; for tests.
    rows_per_script: rows of a file that are applied at once.

    Raises ConfigError for an address that is not valid and for a password that is refused, and StreamStateAwayError
    where Redis does not answer.
    """

    def __init__(
        self,
        url: str,
        name: str,
        clock: Callable[[], float] = time.time,
        rows_per_script: int = ROWS_PER_SCRIPT,
    ) -> None:
        self._prefix, self._clock, self._rows = f"zs:{checked_name(name)}:", clock, rows_per_script
        try:
            self._redis: Any = redis.Redis.from_url(
                url, decode_responses=True, protocol=2, socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
            )  # fmt: skip
        except (ValueError, TypeError):
            raise ConfigError("the address of Redis cannot be read", remedy="redis://host:6379/0") from None
        bodies = {
            "trending": _TRENDING, "covisits": _COVISITS, "histories": _HISTORIES, "sessions": _SESSIONS,
            "click_through": _CLICK_THROUGH,
        }  # fmt: skip
        self._scripts = {job: self._redis.register_script(_BEGIN + body) for job, body in bodies.items()}
        self._set_segments, self._forget, self._drop_idle = (
            self._redis.register_script(text) for text in (_SET_SEGMENTS, _FORGET, _DROP_IDLE)
        )
        with self._translated():
            self._redis.ping()

    # -- writing ------------------------------------------------------------------------------------------------------

    def _apply(self, job: str, file: str, rows: pl.DataFrame) -> bool:
        is_new = False
        with self._translated():
            while (mark := self._redis.hget(self._key("files:" + job), file)) != _DONE:
                start = int(mark or 0)
                end = start + self._rows
                after = _DONE if end >= len(rows) else str(end)
                args = [file, str(start), after, job, self._prefix, *self._arguments(job, rows[start:end])]
                keys = [self._key("files:" + job), self._key("versions")]
                is_new = bool(self._scripts[job](keys=keys, args=args)) or is_new
        return is_new

    def _arguments(self, job: str, rows: pl.DataFrame) -> Iterable[Any]:
        """The arguments of the script of a job for some of the rows of a file."""
        if job == "trending":
            return [MAX_TRENDING_ITEMS, *_flat(trending_log_scores(rows))]
        if job == "covisits":
            return [MAX_COVISITS, *_flat(covisit_log_scores(rows))]
        if job == "histories":
            counts = self._rows_by_segment(rows["seq"])
            event = pl.concat_str(_digits("seq"), pl.lit(":"), pl.struct(*HISTORY_EVENT).struct.json_encode())
            events = rows.select(_hashes(rows["user"]), event=event)
            return [MAX_HISTORY_EVENTS, self._clock(), len(counts), *counts, *_flat(events)]
        if job == "sessions":
            of_rows = rows.select(
                _hashes(rows["user"]), pl.col("bucket").cast(pl.String), _digits("first"), _digits("last"), "n",
                _digits("seq"),
            )  # fmt: skip
            return [MAX_SESSION_BUCKETS, self._clock(), *_flat(of_rows)]
        sums = rows.group_by("placement", "item").agg(pl.col("shown", "clicked").sum())
        return _flat(sums.select("placement", "item", "shown", "clicked"))

    def _rows_by_segment(self, seqs: pl.Series) -> list[str]:
        """For each segment that is not complete and has some of these rows: its name in the script, and how many."""
        segments = sorted(
            (int(before), int(value[:20])) for before, value in self._redis.hgetall(self._key("segments")).items()
        )
        if not segments or seqs.is_empty():
            return []
        before, last = (np.array(numbers, dtype=np.int64) for numbers in zip(*segments, strict=True))
        numbers = seqs.to_numpy()
        places = np.searchsorted(before, numbers, side="left") - 1
        within = (places >= 0) & (numbers <= last[places])
        counts = np.bincount(places[within], minlength=len(segments)).tolist()
        return [text for place, n in enumerate(counts) if n for text in (f"{segments[place][0]:020d}", str(n))]

    def applied_files(self, job: str) -> set[str]:
        with self._translated():
            return {file for file, mark in self._redis.hgetall(self._key("files:" + job)).items() if mark == _DONE}

    def remove_marks(self, job: str, files: Sequence[str]) -> None:
        with self._translated():
            for start in range(0, len(files), ROWS_PER_SCRIPT):
                self._redis.hdel(self._key("files:" + job), *files[start : start + ROWS_PER_SCRIPT])

    def set_segments(self, names: Iterable[str]) -> None:
        segments = [segment for name in names if (segment := Segment.of_name(name)) and segment.kind == "events"]
        with self._translated():
            mark = self._read_mark()
            for start in range(0, len(segments), ROWS_PER_SCRIPT):
                args = [
                    text
                    for one in segments[start : start + ROWS_PER_SCRIPT]
                    if one.last > mark
                    for text in (f"{one.first - 1:020d}", f"{one.last:020d}:{one.rows}")
                ]
                if args:
                    self._set_segments(args=[self._prefix, *args])

    def forget(self, user: str, seq: int) -> None:
        with self._translated():
            self._forget(args=[self._prefix, _hash(user), f"{seq:020d}"])

    def has_forgotten(self, user: str) -> bool:
        with self._translated():
            return bool(self._redis.hexists(self._key("forgotten"), _hash(user)))

    def clear(self) -> None:
        kept = {self._key("forgotten"), self._key("versions")}
        with self._translated():
            keys = (key for key in self._redis.scan_iter(self._prefix + "*", count=1_000) if key not in kept)
            while part := list(itertools.islice(keys, 1_000)):
                self._redis.unlink(*part)
            for job in self._scripts:
                self._redis.hincrby(self._key("versions"), job, 1)

    def maintain(self) -> None:
        oldest = self._clock() - IDLE_SECONDS
        with self._translated():
            while self._drop_idle(args=[self._prefix, oldest, USERS_PER_SCRIPT]) == USERS_PER_SCRIPT:
                pass

    # -- reading ------------------------------------------------------------------------------------------------------

    def trending(self, n: int) -> pl.DataFrame:
        if n <= 0:
            return pl.DataFrame(schema=TRENDING_FRAME)
        with self._translated():
            rows = self._redis.zrevrange(self._key("trending"), 0, n - 1, withscores=True)
        return pl.DataFrame(rows, schema=TRENDING_FRAME, orient="row").sort(-pl.col("log_score"), "item")

    def _covisits(self, items: list[str], n: int) -> pl.DataFrame:
        if n <= 0 or not items:
            return pl.DataFrame(schema=COVISITS_FRAME)
        with self._translated(), self._redis.pipeline(transaction=False) as pipe:
            for item in items:
                pipe.zrevrange(self._key("covisits:" + item), 0, n - 1, withscores=True)
            replies = pipe.execute()
        rows = [(item, *row) for item, reply in zip(items, replies, strict=True) for row in reply]
        return pl.DataFrame(rows, schema=COVISITS_FRAME, orient="row")

    def history(self, user: str, limit: int = MAX_HISTORY_EVENTS) -> tuple[list[Event], int]:
        user_hash = _hash(user)
        with self._translated(), self._redis.pipeline(transaction=True) as pipe:
            pipe.zrevrangebylex(self._key("history:" + user_hash), "+", "-", start=0, num=limit)
            pipe.get(self._key("mark"))
            pipe.sismember(self._key("dropped"), user_hash)
            texts, mark, is_dropped = pipe.execute()
        events = json.loads("[" + ",".join(text[21:] for text in texts) + "]")
        rows = ([event.get(name) for name in HISTORY_EVENT] for event in events)
        return history_of_rows(user, rows), 0 if is_dropped else int(mark or 0)

    def _session_buckets(self, user: str) -> pl.DataFrame:
        with self._translated():
            fields = self._redis.hgetall(self._key("sessions:" + _hash(user)))
        buckets = sorted((int(field[1:]) for field in fields if field[0] == "n"), reverse=True)[:MAX_SESSION_BUCKETS]
        rows = [(bucket, *(int(fields[f"{part}{bucket}"]) for part in "fln")) for bucket in buckets]
        return pl.DataFrame(rows, schema=BUCKETS_FRAME, orient="row")

    def click_through(self, placement: str) -> pl.DataFrame:
        with self._translated():
            fields = self._redis.hgetall(self._key("clicks:" + placement))
        items = sorted(field[1:] for field in fields if field[0] == "s")
        rows = [(item, int(fields["s" + item]), int(fields["c" + item])) for item in items]
        return pl.DataFrame(rows, schema=CLICK_THROUGH_FRAME, orient="row")

    def version(self, job: str) -> int:
        with self._translated():
            return int(self._redis.hget(self._key("versions"), job) or 0)

    @property
    def mark(self) -> int:
        with self._translated():
            return self._read_mark()

    @property
    def is_incomplete(self) -> bool:
        with self._translated():
            return bool(self._redis.exists(self._key("incomplete")))

    def set_incomplete(self) -> None:
        with self._translated():
            self._redis.set(self._key("incomplete"), 1)

    def close(self) -> None:
        self._redis.close()

    def _read_mark(self) -> int:
        return int(self._redis.get(self._key("mark")) or 0)

    def _key(self, name: str) -> str:
        return self._prefix + name

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except redis.AuthenticationError:
            raise ConfigError("Redis refuses the password", remedy="redis://user:password@host:6379/0") from None
        except redis.ResponseError as error:  # it answers, and refuses
            raise StreamStateAwayError(
                f"the streamed state cannot be used: Redis refuses it: {str(error).splitlines()[0][:200]}",
                remedy="see [service] streams, and the settings of Redis",
            ) from None
        except redis.RedisError as error:
            raise StreamStateAwayError(
                f"the streamed state cannot be used: Redis does not answer ({type(error).__name__})",
                remedy="see whether Redis runs, and [service] streams",
            ) from None


def _hash(user: str) -> str:
    """A hash of a user, which bounds the length of keys and keeps ids out of them."""
    return hashlib.sha256(user.encode()).hexdigest()[:32]


def _hashes(users: pl.Series) -> pl.Series:
    """`_hash` of each user."""
    distinct = users.unique()
    return users.replace_strict(distinct, pl.Series([_hash(user) for user in distinct], dtype=pl.String)).alias("user")


def _digits(column: str) -> pl.Expr:
    """Numbers from 0 on as texts of 20 digits, whose order is that of the numbers."""
    return pl.col(column).cast(pl.String).str.zfill(20).alias(f"{column} digits")


def _flat(rows: pl.DataFrame) -> Iterable[Any]:
    """All values, row by row."""
    return itertools.chain.from_iterable(rows.iter_rows())
