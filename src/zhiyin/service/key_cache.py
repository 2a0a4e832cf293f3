"""Keys: the access keys of a shop in memory, by hash; they follow the store, so that a change applies in every process.

A key is random, shown once, and stored as its SHA-256. A request's key is hashed once and looked up by that hash, whose
bytes reveal nothing about how near a guess was; the final comparison takes constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from zhiyin.core.durations import UNITS, microseconds
from zhiyin.core.errors import ConfigError, ZhiyinError, suggest
from zhiyin.core.limits import MAX_LIFETIME_MICROSECONDS
from zhiyin.core.page_tokens import key_hash
from zhiyin.core.run import log
from zhiyin.service.health_issues import HealthIssue
from zhiyin.store.access_keys import AccessKey, KeyTable
from zhiyin.store.store import Store

# What a key may do: read lists and histories, send events, sign tokens for pages, everything.
SCOPES = ("read", "events", "page", "admin")
# Seconds between two reads of the store: a revoked key is refused everywhere within about this time.
POLL_SECONDS = 0.5
_DAY = UNITS["d"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OLD_SCOPES = ("read", "events", "admin")


class Keys:
    """The keys of one shop; any number of threads may use it.

    Parameters
    ----------
    clock: seconds since 1970.
    """

    def __init__(self, table: KeyTable, clock: Callable[[], float] = time.time) -> None:
        self.table, self._clock = table, clock
        self._by_hash: dict[bytes, AccessKey] = {}
        self._by_id: dict[str, AccessKey] = {}
        self._keys: list[AccessKey] = []
        self._used: dict[str, int] = {}
        self._store_failed, self._lock = False, threading.Lock()
        self._old_file: HealthIssue | None = None
        # Names of damaged rows of the store, which are no keys.
        self.damaged: list[str] = []
        # Seconds after which a change applies in every process.
        self.settling_seconds = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.follow()

    @classmethod
    def open(cls, store: Store, old: Path | None = None, *, first: bool = True) -> tuple[Keys, dict[str, str]]:
        """The keys of a store, and those that were made just now, by scope, to be shown once.

        Parameters
        ----------
        old: keys.json of an earlier version; its keys are written to the store once. A file that cannot be read is a
            health issue.
        first: make one key for each scope where the store never had any.
        """
        table = KeyTable(store)
        now = int(time.time() * 1e6)
        unreadable: HealthIssue | None = None
        if old is not None and old.exists():
            try:
                added = table.import_once(_old_keys(old, now))
                if added:
                    log.info("keys: %d of %s are in the store now, and the file is no longer needed", added, old)
            except ConfigError as error:
                unreadable = HealthIssue(old.name, error.message, error.remedy or "")
                log.warning("keys: %s: %s; %s", old, unreadable.reason, unreadable.remedy)
        keys_by_scope = {scope: new_key(scope) for scope in SCOPES} if first else {}
        rows = [AccessKey(scope, frozenset({scope}), key_hash(key), now) for scope, key in keys_by_scope.items()]
        new_keys = keys_by_scope if first and table.add_first(rows) else {}
        keys = cls(table)
        keys._old_file = unreadable
        return keys, new_keys

    def health_issues(self) -> list[HealthIssue]:
        """The old file of keys where it cannot be read, and damaged rows of the store."""
        issues = [] if self._old_file is None else [self._old_file]
        if self.damaged:
            reason = f"{len(self.damaged)} rows in the store are damaged: they open nothing"
            issues.append(HealthIssue("keys", reason, "zhiyin key list names them; zhiyin key revoke NAME removes one"))
        return issues

    # -- lookups ----------------------------------------------------------------------------------------------------

    def find(self, digest: bytes) -> AccessKey | None:
        """The key with a SHA-256, expired or not; None for an unknown one."""
        key = self._by_hash.get(digest)
        return key if key is not None and hmac.compare_digest(digest, bytes.fromhex(key.hash)) else None

    def signer(self, id: str) -> AccessKey | None:
        """The key with an id, if it signs tokens; None otherwise."""
        key = self._by_id.get(id)
        return key if key is not None and "page" in key.scopes else None

    def expired(self, key: AccessKey) -> bool:
        """Whether a key has expired."""
        return key.expired(self.now())

    def use(self, key: AccessKey) -> None:
        """Note that a key was used today; written to the store with the next poll."""
        today = self.now() // _DAY * _DAY
        if (key.used or 0) < today:
            self._used[key.hash] = today

    def now(self) -> int:
        """Microseconds UTC."""
        return int(self._clock() * 1e6)

    def page_key(self) -> AccessKey | None:
        """The newest key that signs tokens; None where there is none."""
        now = self.now()
        signers = [key for key in self._by_id.values() if "page" in key.scopes and not key.expired(now)]
        return max(signers, key=lambda key: key.created, default=None)

    def shares(self, other: Keys) -> bool:
        """Whether a key of one is a key of the other."""
        return not self._by_hash.keys().isdisjoint(other._by_hash)

    # -- changes ----------------------------------------------------------------------------------------------------

    def all(self) -> list[AccessKey]:
        """All keys by name, expired ones too."""
        return self._read()

    def add(self, name: str, scopes: Iterable[str], expires: str | None = None) -> tuple[AccessKey, str]:
        """Make a key. Returns what is stored of it, and the key itself, which cannot be read again.

        Parameters
        ----------
        expires: a duration from now, such as "90d"; None: never.

        Raises ConfigError for an invalid name, scope or duration, KeyConflictError for a name in use.
        """
        wanted = frozenset(scopes)
        check_key(name, wanted)
        now = self.now()
        until = None if expires is None else now + microseconds(expires)
        if until is not None and until > now + MAX_LIFETIME_MICROSECONDS:
            raise ConfigError(
                f"{expires!r} is too long", column="expires", remedy="such as 90d; leave it out for never"
            )
        secret = new_key(max(wanted, key=SCOPES.index))
        key = AccessKey(name, wanted, key_hash(secret), now, until)
        self.table.add(key)
        self._read()
        return key, secret

    def revoke(self, name: str, *, last_admin: bool = False) -> AccessKey:
        """Remove a key, and with it the tokens that it signed: here at once, in other processes with their next poll.

        Raises UnknownKeyError, and KeyConflictError for the last admin key unless `last_admin`.
        """
        key = self.table.remove(name, self.now(), last_admin=last_admin)
        self._read()
        return key

    # -- following the store ----------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Read the keys of the store, and write which were used."""
        self._read()
        used, self._used = self._used, {}
        newer = {hash: day for hash, day in used.items() if self._is_newer(hash, day)}
        if newer:
            self.table.record_use(newer)

    def watch(self, seconds: float | None = None) -> None:
        """Follow the store by a thread of its own, so that nothing else, such as loading, delays a revocation.

        Parameters
        ----------
        seconds: between two polls; None: `POLL_SECONDS`.
        """
        pause = POLL_SECONDS if seconds is None else seconds
        self.settling_seconds = 2 * pause

        def work() -> None:
            while not self._stop.wait(pause):
                try:
                    self.follow()
                    self._store_failed = False
                except Exception as error:  # the known keys stay valid
                    if not self._store_failed:
                        log.warning("keys: the store cannot be read, those known go on to hold: %s", error)
                    self._store_failed = True

        self._thread = threading.Thread(target=work, name="zhiyin-keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write which keys were used, and stop following the store."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.follow()
        except ZhiyinError:
            log.warning("keys: which were used could not be written")

    def _read(self) -> list[AccessKey]:
        with self._lock:  # or what was read before a change would overwrite what was read after it
            keys, damaged = self.table.read()
            if damaged != self.damaged:
                log.warning(
                    "keys: %d rows in the store are damaged and open nothing; see zhiyin key list", len(damaged)
                )
            self.damaged = damaged
            if keys == self._keys:
                return keys
            self._keys = keys
            self._by_hash = {bytes.fromhex(key.hash): key for key in keys}
            self._by_id = {key.id: key for key in keys}
        return keys

    def _is_newer(self, hash: str, day: int) -> bool:
        key = self._by_hash.get(bytes.fromhex(hash))
        return key is not None and (key.used or 0) < day


def digest_of(key: str) -> bytes:
    """SHA-256 of a key that a request brings."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def new_key(scope: str) -> str:
    """A key of 256 random bits, whose beginning tells people what it is."""
    return f"zy_{scope}_{secrets.token_urlsafe(32)}"


def check_key(name: str, scopes: frozenset[str]) -> None:
    """Raises ConfigError for an invalid name or invalid scopes."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name[:80]!r} is no name of a key", column="name",
                          remedy="1 to 64 letters, digits, dots, hyphens, underscores, not first a sign")  # fmt: skip
    for scope in sorted(scopes - set(SCOPES)):
        raise ConfigError(f"there is no scope {scope[:80]!r}", column="scopes", remedy=suggest(scope, list(SCOPES)))
    if not scopes:
        raise ConfigError("a key without a scope may do nothing", column="scopes", remedy=f"of {', '.join(SCOPES)}")
    if "page" in scopes and len(scopes) > 1:
        raise ConfigError("a key for pages signs tokens and does nothing else", column="scopes",
                          remedy="make another key for the other scopes")  # fmt: skip


def _old_keys(file: Path, now: int) -> list[AccessKey]:
    """Keys of a file {"read": hash, "events": hash, "admin": hash}, as versions before the store of keys wrote it."""
    try:
        content = json.loads(file.read_bytes())
        hashes = {scope: content[scope].lower() for scope in _OLD_SCOPES}
        if not all(re.fullmatch("[0-9a-f]{64}", hash) for hash in hashes.values()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(
            "the keys of this file cannot be read", file=file,
            remedy="bring it back whole from a backup, or delete it: keys that the store has hold without it, "
            "and zhiyin key add makes new ones",
        ) from None  # fmt: skip
    return [AccessKey(scope, frozenset({scope}), hash, now) for scope, hash in hashes.items()]
