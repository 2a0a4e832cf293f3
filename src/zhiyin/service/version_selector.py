"""Which version answers: the one that is promoted, verified and loaded; where it cannot be used, another one.

A version that cannot be used is verified and loaded once, and again when its files or the types of columns have
changed. One that the system refused to read, for want of open files, memory or permission, is tried again after a
pause. Until then `rejected` tells why it is not used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from zhiyin.core.errors import DataError
from zhiyin.core.run import log
from zhiyin.pipeline.bundles import Bundle, Bundles
from zhiyin.pipeline.rules_config import hides_everything
from zhiyin.service.health_issues import HealthIssue, one_line_reason
from zhiyin.service.system_errors import describe_system_error
from zhiyin.service.version_view import View
from zhiyin.store.errors import StoreAwayError

RULES_REMEDY = "mend [rules] in zhiyin.toml, or the types of its columns: PUT /v1/schema"
_VERSION_REMEDY = "zhiyin rollback, or zhiyin train"
_CURRENT_REMEDY = "zhiyin promote VERSION"
_CURRENT_FILE = "the file that names the version in use"
# The key of the file `current` among versions that were rejected; versions begin with 1.
_CURRENT = 0
# Seconds before a version is tried again that the system refused to read: doubled each time, and at most.
PAUSE, LONGEST = 1.0, 60.0


class VersionSelector:
    """Chooses among the versions of a folder. One thread may use it at a time; `rejected` any.

    Parameters
    ----------
    make_view: verifies and loads a version; gives its view and the last change of items in it.
    """

    def __init__(self, bundles: Bundles, make_view: Callable[[Bundle], tuple[View, int]]) -> None:
        self.bundles, self._make_view = bundles, make_view
        self._rejected: dict[int, HealthIssue] = {}
        # By version: its files and the stored types that it was rejected with.
        self._failed: dict[int, object] = {}
        # Of those that the system refused to read: when each is tried again (monotonic seconds), and the pause before.
        self._retries: dict[int, tuple[float, float]] = {}
        self._said_none = False

    @property
    def rejected(self) -> list[HealthIssue]:
        """Versions that are not used, by number, and why."""
        return [entry for _, entry in sorted(self._rejected.copy().items())]

    def clear(self) -> None:
        """Forget which versions were rejected: what they were rejected for has changed."""
        self._rejected.clear()
        self._failed.clear()
        self._retries.clear()

    def first(self, schema_version: int) -> tuple[View, int] | None:
        """A view to begin with: of the version in use, else of the newest other one that can be used.

        A version on which a rule that says what may be shown cannot be used is the last choice: it shows nothing.
        None where there is none. schema_version: of the stored types.
        """
        closed: tuple[View, int] | None = None
        for version in self._candidates():
            made = self._attempt(version, schema_version)
            if made is None:
                continue
            if not made[0].closed or hides_everything(made[0].loaded.unreadable):  # no other version would show more
                return made
            self._reject_rules(made[0])
            closed = closed or made
        if closed is not None:
            self._rejected.pop(closed[0].version, None)
        elif not self._said_none:
            log.warning("service: no version can answer: lists are refused, events are kept")
        self._said_none = closed is None
        return closed

    def replacement(self, serving: View, schema_version: int) -> tuple[View, int] | None:
        """A view of the version in use, where it is not the one that serves and can be used; None: the serving one
        goes on. schema_version: of the stored types."""
        try:
            number = self.bundles.current_number
        except DataError as error:
            if _CURRENT not in self._rejected:
                log.warning("service: version %d goes on answering: %s", serving.version, error)
            self._rejected[_CURRENT] = HealthIssue(_CURRENT_FILE, one_line_reason(error), _CURRENT_REMEDY)
            return None
        self._rejected.pop(_CURRENT, None)
        if number is None:
            return None
        if number == serving.version:
            self.clear()
            return None
        made = self._attempt(number, schema_version)
        if made is not None and made[0].closed and not serving.closed:
            self._reject_rules(made[0])
            self._failed[number] = self._state_of(number, schema_version)
            return None
        return made

    def _candidates(self) -> list[int]:
        """Versions by which could be answered: the one in use, then the others, the newest first."""
        try:
            number = self.bundles.current_number
        except DataError as error:
            self._reject(_CURRENT, one_line_reason(error), _CURRENT_REMEDY)
            return self.bundles.versions()[::-1]
        if number is None:
            return []  # none was ever put in use: what was trained waits for somebody to choose it
        return [number, *(version for version in reversed(self.bundles.versions()) if version != number)]

    def _attempt(self, version: int, schema_version: int) -> tuple[View, int] | None:
        """A view of a version; None where it cannot be used, or could not and has not changed since."""
        state = self._state_of(version, schema_version)
        due, pause = self._retries.get(version, (float("inf"), PAUSE / 2))
        if self._failed.get(version) == state and time.monotonic() < due:
            return None
        try:
            made = self._make_view(self.bundles.get(version))
        except StoreAwayError:  # no fault of the version
            raise
        except Exception as error:  # whatever is wrong with it, another one may do
            self._failed[version] = state
            refused = describe_system_error(error)
            if refused is not None:
                pause = min(2 * pause, LONGEST)
                self._retries[version] = time.monotonic() + pause, pause
            else:
                self._retries.pop(version, None)
            self._reject(version, *(refused or (one_line_reason(error), _VERSION_REMEDY)))
            return None
        self._failed.pop(version, None)
        self._retries.pop(version, None)
        self._rejected.pop(version, None)
        return made

    def _reject(self, version: int, reason: str, remedy: str) -> None:
        """Note why a version is not used; in the log once."""
        entry = HealthIssue(f"version {version}" if version else _CURRENT_FILE, reason, remedy)
        if self._rejected.get(version) != entry:
            self._rejected[version] = entry
            log.warning("service: %s is not used: %s; %s", entry.what, reason, remedy)

    def _reject_rules(self, view: View) -> None:
        name, reason = next(iter(view.unruled.items()))
        self._reject(view.version, f"[rules] {name}: {reason}", RULES_REMEDY)

    def _state_of(self, version: int, schema_version: int) -> object:
        return schema_version, _fingerprint(self.bundles.folder_of(version))


def _fingerprint(folder: Path) -> list[tuple[str, int, int, int]]:
    """Name, size, time of change and inode of each file below a folder: another one when a file was replaced."""
    found = []
    for path in folder.rglob("*"):
        try:
            stat = path.stat()
        except OSError:  # gone since it was listed
            continue
        found.append((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return sorted(found)
