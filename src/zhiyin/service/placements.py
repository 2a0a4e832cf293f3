"""Placements: named settings of lists, changed while the service runs, checked before they apply, with versions.

They stand in `[placements.NAME]` of zhiyin.toml or come by HTTP; the last change counts. The store keeps all versions,
so that every list can be told what it was made by.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zhiyin.api.requests import Setting
from zhiyin.core.errors import ConfigError, ZhiyinError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.run import log
from zhiyin.core.texts import text
from zhiyin.data.project_config import parse_usable, read_text
from zhiyin.pipeline.answers import Answers
from zhiyin.service.health_issues import HealthIssue
from zhiyin.service.request_building import request_of_options
from zhiyin.store.database import Store

TABLE, DEFAULT, MOST = "placements", "default", 1_000
_FILE, _HTTP = "file", "http"


class Placements:
    """All placements of a store. `look` takes up what other processes and the settings file changed."""

    def __init__(self, store: Store, config: Path | None, answers: Answers | None) -> None:
        self.store, self.config = store, config
        self._known: dict[str, tuple[int, Setting]] = {}
        self._old: dict[tuple[str, int], Setting] = {}
        self._seq = -1
        self._changed: object = None
        # What cannot be used: settings that cannot be read, and those that the version in use does not allow.
        self._broken: dict[str, HealthIssue] = {}
        self._unfit: dict[str, HealthIssue] = {}
        # Of the settings file: those that were not taken up, and the file where it cannot be read.
        self._rejected: dict[str, HealthIssue] = {}
        self._looked: object = None
        self._lock = threading.RLock()
        self.look(answers)

    def get(self, name: str) -> tuple[int, Setting]:
        """Version and settings. Raises UnknownPlacementError; the default one always is."""
        found = self._known.get(name)
        if found is not None:
            return found
        broken = self._broken.get(name)
        if broken is not None:
            raise ConfigError(f"placement {name!r} cannot be used: {broken.reason}", remedy=broken.remedy)
        if name == DEFAULT:
            return 0, _PLAIN
        raise UnknownPlacementError(f"there is no placement {name!r}", remedy=f"PUT /v1/placements/{name} first")

    def at(self, name: str, version: int) -> Setting:
        """Settings of an old version."""
        if version == 0:
            return _PLAIN
        key = (name, version)
        if key not in self._old:
            for number, columns, _ in self.store.versions(TABLE, name):
                if columns is not None and len(self._old) < 10 * MOST:
                    with contextlib.suppress(ValidationError, KeyError):
                        self._old[name, number] = _read(columns)
        if key not in self._old:
            raise UnknownPlacementError(f"placement {name!r} has no version {version}", remedy="look at its versions")
        return self._old[key]

    def all(self) -> list[dict[str, Any]]:
        return [said(name, version, setting) for name, (version, setting) in sorted(self._known.items())]

    def put(self, name: str, settings: Mapping[str, Any], answers: Answers) -> int:
        """Check settings and write them as a new version. Raises ConfigError, and nothing changes."""
        text(name, "placement", MAX_ID_CHARS)
        made = checked(name, settings, answers)
        with self._lock:
            if name not in self._known and len(self._known) >= MOST:
                raise TooManyPlacementsError(f"there are {MOST:,} placements", remedy="delete one first")
            version = self.store.put(TABLE, {name: {"settings": _json(made), "by": _HTTP}})[name]
            self._take()
        return version

    def delete(self, name: str) -> None:
        self.refresh()
        self.get(name)
        with self._lock:
            self.store.put(TABLE, {name: None})
            self._take()

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Newest first; settings None: deleted."""
        found = self.store.versions(TABLE, name)
        if not found:
            self.get(name)
        return [{"version": number, "time": when, "by": None if columns is None else columns["by"],
                 "settings": None if columns is None else json.loads(columns["settings"])}
                for number, columns, when in found]  # fmt: skip

    def rollback(self, name: str, version: int, answers: Answers) -> int:
        """Write an old version's settings as a new one."""
        return self.put(name, self.at(name, version).model_dump(exclude_defaults=True), answers)

    def look(self, answers: Answers | None) -> None:
        """Take up the settings file where it changed, and the store."""
        with self._lock:
            if answers is not None and self.config is not None and self.config.is_file():
                changed = (
                    self.config.stat().st_mtime_ns,
                    (id(answers.model), answers.schema) if self._rejected else (),
                )
                if changed != self._changed:
                    self._changed = changed
                    self._read(self.config, answers)
            if self.store.last_change(TABLE) != self._seq:
                self._take()
            if answers is not None and self._looked != (looked := (id(answers.model), answers.schema, self._seq)):
                self._looked, self._unfit = looked, self._unusable(answers)

    def refresh(self) -> None:
        """Take up what other processes changed in the store."""
        with self._lock:
            if self.store.last_change(TABLE) != self._seq:
                self._take()

    def health_issues(self) -> list[HealthIssue]:
        """Placements, or versions of them, that are not used, and why."""
        return [*self._rejected.values(), *self._broken.values(), *self._unfit.values()]

    def _unusable(self, answers: Answers) -> dict[str, HealthIssue]:
        """Those that the version in use does not allow: requests for them are refused with the reason."""
        found = {}
        for name, (_, setting) in self._known.items():
            try:
                request = request_of_options(setting)
                answers.rulebook(request.filter, request.boosts)
            except ConfigError as error:
                reason = error.message.splitlines()[0]
                found[name] = HealthIssue(f"placement {name!r}", reason, f"PUT /v1/placements/{name}")
                if name not in self._unfit:
                    log.warning("placements: %r cannot be used by the version in use: %s", name, found[name].reason)
        return found

    def _read(self, file: Path, answers: Answers) -> None:
        """What the file says differently than it did counts, whatever came in between; the rest of it does not."""
        usable, rejected = placements_of(file, answers)
        for name, made in usable.items():
            old = next((columns["settings"] for _, columns, _ in self.store.versions(TABLE, name)
                        if columns is not None and columns["by"] == _FILE), None)  # fmt: skip
            if old != made:
                self.store.put(TABLE, {name: {"settings": made, "by": _FILE}})
        self._reject(rejected)

    def _reject(self, rejected: dict[str, HealthIssue]) -> None:
        """Note what of the file is not taken up; in the log once."""
        for name, entry in rejected.items():
            if self._rejected.get(name) != entry:
                log.warning("placements: %s is not taken up: %s; %s", entry.what, entry.reason, entry.remedy)
        self._rejected = rejected

    def _take(self) -> None:
        seq = self.store.last_change(TABLE)
        found, _ = self.store.changes_since(TABLE)
        known, broken = {}, {}
        for name, columns in found.items():
            if columns is None:
                continue
            number, setting, reason = self._usable(name)
            if setting is not None:
                known[name] = (number, setting)
            if reason:
                goes_on = "" if setting is None else f"; version {number} is used"
                broken[name] = HealthIssue(f"placement {name!r}", reason + goes_on, f"PUT /v1/placements/{name}")
                if name not in self._broken:
                    log.warning("placements: %r: %s", name, broken[name].reason)
        self._known, self._seq, self._broken = known, seq, broken

    def _usable(self, name: str) -> tuple[int, Setting | None, str]:
        """The newest version of a placement that can be read, and why a newer one cannot."""
        reason = ""
        for number, columns, _ in self.store.versions(TABLE, name):
            try:
                if columns is not None:
                    return number, _read(columns), reason
            except (ValidationError, KeyError) as error:
                what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it has no settings"
                reason = reason or f"version {number} cannot be read ({what})"
        return 0, None, reason or "it cannot be read"


class TooManyPlacementsError(ConfigError):
    """There are as many placements as there may be."""


class UnknownPlacementError(ConfigError):
    """A placement that there is not."""


_PLAIN = Setting()


def _read(columns: Mapping[str, Any]) -> Setting:
    """Settings as the store keeps them. Raises ValidationError or KeyError where they cannot be read."""
    return Setting.model_validate_json(columns["settings"])


def said(name: str, version: int, setting: Setting) -> dict[str, Any]:
    return {"name": name, "version": version, "settings": setting.model_dump(exclude_defaults=True)}


def _json(setting: Setting) -> str:
    return setting.model_dump_json(exclude_defaults=True)


def checked(name: str, settings: Mapping[str, Any], answers: Answers) -> Setting:
    """Settings that a list can be made by: a stranger is given one. Raises ConfigError that names what is wrong."""
    try:
        made = Setting.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"placement {name!r}: {place}: {first['msg']}", column=place,
            remedy=f"settings are {', '.join(Setting.model_fields)}",
        ) from None  # fmt: skip
    answers.ask(request_of_options(made))
    return made


def placements_of(file: Path, answers: Answers) -> tuple[dict[str, str], dict[str, HealthIssue]]:
    """Placements of a settings file as the store keeps them, by name; and what of the file cannot be taken up."""
    usable: dict[str, str] = {}
    rejected: dict[str, HealthIssue] = {}
    try:
        config, wrong = parse_usable(read_text(file), file)
    except ConfigError as error:
        reason = f"{error.message}: placements stay as they are"
        what = f"[placements] of {file.name}"
        return {}, {what: HealthIssue(what, reason, error.remedy or "mend it")}
    for place, why in wrong.items():
        if place[0] == TABLE:
            what = f"[{'.'.join(place)}]"
            rejected[what] = HealthIssue(what, "it is no table", f"{file.name}: {why.remedy}")
    for name, settings in config.placements.items():
        try:
            usable[name] = _json(checked(text(name, "placement", MAX_ID_CHARS), settings, answers))
        except ZhiyinError as error:
            what = f"[placements.{name[:64]}]"
            rejected[what] = HealthIssue(what, error.message.splitlines()[0], f"mend it in {file.name}")
    return usable, rejected
