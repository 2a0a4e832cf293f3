"""VersionLoader: which version answers, the promoted one or, where that cannot be used, another one.

A version that cannot be used is verified and loaded once, and again when its files or the types of columns have
changed. A version that the system refused to read, for lack of open files, memory or permission, is tried again after a
pause. Until then `rejected` says why it is not used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from zhiyin.core.errors import DataError
from zhiyin.core.run import log
from zhiyin.pipeline.answer_settings import hides_everything
from zhiyin.pipeline.model_versions import Bundle, Bundles
from zhiyin.service.health_issues import HealthIssue, one_line_reason
from zhiyin.service.system_errors import describe_system_error
from zhiyin.service.version_view import View
from zhiyin.store.errors import StoreAwayError

RULES_REMEDY = "mend [rules] in zhiyin.toml, or the types of its columns: PUT /v1/schema"
_VERSION_REMEDY = "zhiyin rollback, or zhiyin train"
_CURRENT_REMEDY = "zhiyin promote VERSION"
_CURRENT_FILE = "the file that names the version in use"
# Key of the file `current` among rejected versions, whose numbers begin with 1.
_CURRENT = 0
# Seconds before a version that the system refused to read is tried again: at first, doubled each time, and at most.
RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 60.0


class VersionLoader:
    """Chooses among the versions of a folder. One thread may use it at a time; `rejected` any.

    Parameters
    ----------
    make_view: verifies and loads a version; returns its view and the number of the last change of items in it.
    """

    def __init__(self, bundles: Bundles, make_view: Callable[[Bundle], tuple[View, int]]) -> None:
        self.bundles, self._make_view = bundles, make_view
        self._rejected: dict[int, HealthIssue] = {}
        # By version: fingerprint of the files and version of the stored types with which it was rejected.
        self._failed: dict[int, object] = {}
        # By version that the system refused to read: when it is tried again (monotonic seconds), and the pause before.
        self._retries: dict[int, tuple[float, float]] = {}
        self._logged_none = False

    @property
    def rejected(self) -> list[HealthIssue]:
        """Issues of the versions that are not used, by number."""
        return [entry for _, entry in sorted(self._rejected.copy().items())]

    def clear(self) -> None:
        """Forget which versions were rejected, since what they were rejected for has changed."""
        self._rejected.clear()
        self._failed.clear()
        self._retries.clear()

    def first(self, schema_version: int) -> tuple[View, int] | None:
        """The first view to serve: of the version in use, or else of the newest other one that can be used.

        A version with an unusable rule about what may be listed is the last choice: it shows nothing. Returns None
        where no version can be used.

        Parameters
        ----------
        schema_version: version of the stored types.
        """
        fallback: tuple[View, int] | None = None
        for version in self._candidates():
            result = self._attempt(version, schema_version)
            if result is None:
                continue
            if not result[0].shows_nothing or hides_everything(result[0].loaded.unreadable):  # no other shows more
                return result
            self._reject_rules(result[0])
            fallback = fallback or result
        if fallback is not None:
            self._rejected.pop(fallback[0].version, None)
        elif not self._logged_none:
            log.warning("service: no version can answer: lists are refused, events are kept")
        self._logged_none = fallback is None
        return fallback

    def replacement(self, serving: View, schema_version: int) -> tuple[View, int] | None:
        """A view of the version in use, where another one serves and it can be used; None: the serving one goes on.

        Parameters
        ----------
        schema_version: version of the stored types.
        """
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
        result = self._attempt(number, schema_version)
        if result is not None and result[0].shows_nothing and not serving.shows_nothing:
            self._reject_rules(result[0])
            self._failed[number] = self._fingerprint_of(number, schema_version)
            return None
        return result

    def _candidates(self) -> list[int]:
        """Versions in the order in which they are tried: the one in use, then the others, newest first."""
        try:
            number = self.bundles.current_number
        except DataError as error:
            self._reject(_CURRENT, one_line_reason(error), _CURRENT_REMEDY)
            return self.bundles.versions()[::-1]
        if number is None:
            return []  # none was ever promoted: what was trained waits for a choice
        return [number, *(version for version in reversed(self.bundles.versions()) if version != number)]

    def _attempt(self, version: int, schema_version: int) -> tuple[View, int] | None:
        """A view of a version; None where it cannot be used, or could not be and has not changed since."""
        state = self._fingerprint_of(version, schema_version)
        due, pause = self._retries.get(version, (float("inf"), RETRY_SECONDS / 2))
        if self._failed.get(version) == state and time.monotonic() < due:
            return None
        try:
            result = self._make_view(self.bundles.get(version))
        except StoreAwayError:  # no fault of the version
            raise
        except Exception as error:  # whatever is wrong with it, another one may do
            self._failed[version] = state
            refused = describe_system_error(error)
            if refused is not None:
                pause = min(2 * pause, MAX_RETRY_SECONDS)
                self._retries[version] = time.monotonic() + pause, pause
            else:
                self._retries.pop(version, None)
            self._reject(version, *(refused or (one_line_reason(error), _VERSION_REMEDY)))
            return None
        self._failed.pop(version, None)
        self._retries.pop(version, None)
        self._rejected.pop(version, None)
        return result

    def _reject(self, version: int, reason: str, remedy: str) -> None:
        """Note why a version is not used, and log it once."""
        entry = HealthIssue(f"version {version}" if version else _CURRENT_FILE, reason, remedy)
        if self._rejected.get(version) != entry:
            self._rejected[version] = entry
            log.warning("service: %s is not used: %s; %s", entry.what, reason, remedy)

    def _reject_rules(self, view: View) -> None:
        name, reason = next(iter(view.unusable_rules.items()))
        self._reject(view.version, f"[rules] {name}: {reason}", RULES_REMEDY)

    def _fingerprint_of(self, version: int, schema_version: int) -> object:
        return schema_version, _fingerprint(self.bundles.folder_of(version))


def _fingerprint(folder: Path) -> list[tuple[str, int, int, int]]:
    """Name, size, modification time and inode of each file below a folder; changes when a file is replaced."""
    files = []
    for path in folder.rglob("*"):
        try:
            stat = path.stat()
        except OSError:  # deleted since it was listed
            continue
        files.append((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return sorted(files)
