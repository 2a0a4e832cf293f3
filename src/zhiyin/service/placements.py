"""Placements: named settings of lists that change while the service runs, validated and versioned.

They are written in `[placements.NAME]` of zhiyin.toml or come over HTTP; the last change applies. The store has all
versions, so that every list can be replayed with its own.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zhiyin.api.requests import PlacementSettings
from zhiyin.core.errors import ConfigError, ZhiyinError, closest_name
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.run import log
from zhiyin.core.text_validation import text
from zhiyin.core.validation_errors import first_field_error
from zhiyin.data.project_config import parse_usable, read_text
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.policy_kinds import make_policy
from zhiyin.service.health_issues import HealthIssue
from zhiyin.service.request_building import request_of_options
from zhiyin.service.settings_file_issues import rejected_table
from zhiyin.store.store import Store

TABLE, DEFAULT, MAX_PLACEMENTS = "placements", "default", 1_000
# Old versions that are cached.
MAX_OLD_VERSIONS = 10 * MAX_PLACEMENTS
_FILE, _HTTP = "file", "http"


class Placements:
    """All placements of a store. `update` applies changes of the settings file and of other processes."""

    def __init__(self, store: Store, config: Path | None, answers: Answers | None) -> None:
        self.store, self.config = store, config
        self._usable: dict[str, tuple[int, PlacementSettings]] = {}
        self._old: dict[tuple[str, int], PlacementSettings] = {}
        self._seq = -1
        self._file_state: object = None
        # Settings that cannot be read, and those that the version in use does not allow.
        self._unreadable: dict[str, HealthIssue] = {}
        self._not_allowed: dict[str, HealthIssue] = {}
        # Of the settings file: placements that cannot be used, or the file itself.
        self._rejected: dict[str, HealthIssue] = {}
        self._checked_for: object = None
        self._lock = threading.RLock()
        self.update(answers)

    def get(self, name: str) -> tuple[int, PlacementSettings]:
        """Version and settings of a placement; the default one always exists.

        Raises UnknownPlacementError, and ConfigError for one that cannot be used.
        """
        entry = self._usable.get(name)
        if entry is not None:
            return entry
        issue = self._unreadable.get(name)
        if issue is not None:
            raise ConfigError(f"placement {name!r} cannot be used: {issue.reason}", remedy=issue.remedy)
        if name == DEFAULT:
            return 0, _NO_SETTINGS
        near = closest_name(name, list(self._usable))
        remedy = f"PUT /v1/placements/{name} first" if near is None else f"did you mean {near!r}?"
        raise UnknownPlacementError(f"there is no placement {name!r}", remedy=remedy)

    @property
    def seq(self) -> int:
        """Number of the last change of the store's placements that is applied."""
        return self._seq

    def at(self, name: str, version: int) -> PlacementSettings:
        """Settings of an old version."""
        if version == 0:
            return _NO_SETTINGS
        key = (name, version)
        if key not in self._old:
            for number, columns, _ in self.store.versions(TABLE, name):
                if columns is not None and len(self._old) < MAX_OLD_VERSIONS:
                    with contextlib.suppress(ValidationError, KeyError):
                        self._old[name, number] = _parse(columns)
        if key not in self._old:
            raise UnknownPlacementError(f"placement {name!r} has no version {version}", remedy="look at its versions")
        return self._old[key]

    def usable(self) -> Mapping[str, tuple[int, PlacementSettings]]:
        """Version and settings of all placements that can be used, by name."""
        return self._usable

    def all(self) -> list[dict[str, Any]]:
        return [placement_json(name, version, setting) for name, (version, setting) in sorted(self._usable.items())]

    def put(self, name: str, settings: Mapping[str, Any], answers: Answers) -> int:
        """Validate settings and write them as a new version. Raises ConfigError, and then nothing changes."""
        text(name, "placement", MAX_ID_CHARS)
        setting = validate_setting(name, settings, answers)
        with self._lock:
            if name not in self._usable and len(self._usable) >= MAX_PLACEMENTS:
                raise TooManyPlacementsError(f"there are {MAX_PLACEMENTS:,} placements", remedy="delete one first")
            version = self.store.put(TABLE, {name: {"settings": _json(setting), "by": _HTTP}})[name]
            self._read_store()
        return version

    def delete(self, name: str) -> None:
        self.refresh()
        self.get(name)
        with self._lock:
            self.store.put(TABLE, {name: None})
            self._read_store()

    def versions(self, name: str) -> list[dict[str, Any]]:
        """All versions of a placement, newest first; settings None: deleted."""
        versions = self.store.versions(TABLE, name)
        if not versions:
            self.get(name)
        return [{"version": number, "time": when, "by": None if columns is None else columns["by"],
                 "settings": None if columns is None else json.loads(columns["settings"])}
                for number, columns, when in versions]  # fmt: skip

    def rollback(self, name: str, version: int, answers: Answers) -> int:
        """Write an old version's settings as a new one."""
        return self.put(name, self.at(name, version).model_dump(exclude_defaults=True), answers)

    def update(self, answers: Answers | None) -> None:
        """Apply the settings file where it has changed, and the store."""
        with self._lock:
            if answers is not None and self.config is not None and self.config.is_file():
                state = (
                    self.config.stat().st_mtime_ns,
                    (id(answers.model), answers.schema) if self._rejected else (),
                )
                if state != self._file_state:
                    self._file_state = state
                    self._read_file(self.config, answers)
            if self.store.last_change(TABLE) != self._seq:
                self._read_store()
            if answers is not None and self._checked_for != (
                checked_for := (id(answers.model), answers.schema, self._seq)
            ):
                self._checked_for, self._not_allowed = checked_for, self._check_allowed(answers)

    def refresh(self) -> None:
        """Apply changes of other processes in the store."""
        with self._lock:
            if self.store.last_change(TABLE) != self._seq:
                self._read_store()

    def health_issues(self) -> list[HealthIssue]:
        """Placements, or versions of them, that are not used."""
        return [*self._rejected.values(), *self._unreadable.values(), *self._not_allowed.values()]

    def _check_allowed(self, answers: Answers) -> dict[str, HealthIssue]:
        """Issues of placements that the version in use does not allow: requests for them are refused."""
        issues = {}
        for name, (_, setting) in self._usable.items():
            try:
                check_policy(setting)
                request = request_of_options(setting)
                answers.rulebook(request.filter, request.boosts)
            except ConfigError as error:
                reason = error.message.splitlines()[0]
                issues[name] = HealthIssue(f"placement {name!r}", reason, f"PUT /v1/placements/{name}")
                if name not in self._not_allowed:
                    log.warning("placements: %r cannot be used by the version in use: %s", name, issues[name].reason)
        return issues

    def _read_file(self, file: Path, answers: Answers) -> None:
        """Write the placements of the file that have changed in it; others stay as HTTP requests may have set them."""
        usable, rejected = placements_of(file, answers)
        for name, text_of_setting in usable.items():
            old = next((columns["settings"] for _, columns, _ in self.store.versions(TABLE, name)
                        if columns is not None and columns["by"] == _FILE), None)  # fmt: skip
            if old != text_of_setting:
                self.store.put(TABLE, {name: {"settings": text_of_setting, "by": _FILE}})
        self._note_rejected(rejected)

    def _note_rejected(self, rejected: dict[str, HealthIssue]) -> None:
        """Note what of the file cannot be used, and log it once."""
        for name, entry in rejected.items():
            if self._rejected.get(name) != entry:
                log.warning("placements: %s is not taken up: %s; %s", entry.what, entry.reason, entry.remedy)
        self._rejected = rejected

    def _read_store(self) -> None:
        seq = self.store.last_change(TABLE)
        rows, _ = self.store.changes_since(TABLE)
        usable, unreadable = {}, {}
        for name, columns in rows.items():
            if columns is None:
                continue
            number, setting, reason = self._newest_readable(name)
            if setting is not None:
                usable[name] = (number, setting)
            if reason:
                fallback = "" if setting is None else f"; version {number} is used"
                unreadable[name] = HealthIssue(f"placement {name!r}", reason + fallback, f"PUT /v1/placements/{name}")
                if name not in self._unreadable:
                    log.warning("placements: %r: %s", name, unreadable[name].reason)
        self._usable, self._seq, self._unreadable = usable, seq, unreadable

    def _newest_readable(self, name: str) -> tuple[int, PlacementSettings | None, str]:
        """The newest version of a placement that can be read, and why a newer one cannot."""
        reason = ""
        for number, columns, _ in self.store.versions(TABLE, name):
            try:
                if columns is not None:
                    return number, _parse(columns), reason
            except (ValidationError, KeyError) as error:
                what: object = "it has no settings"
                if isinstance(error, ValidationError):
                    what = first_field_error(error, PlacementSettings)
                reason = reason or f"version {number} cannot be read ({what})"
        return 0, None, reason or "it cannot be read"


class TooManyPlacementsError(ConfigError):
    """There are `MAX_PLACEMENTS` placements already."""


class UnknownPlacementError(ConfigError):
    """A placement that does not exist."""


_NO_SETTINGS = PlacementSettings()


def _parse(columns: Mapping[str, Any]) -> PlacementSettings:
    """Settings of a row of the store. Raises ValidationError or KeyError where they cannot be read."""
    return PlacementSettings.model_validate_json(columns["settings"])


def placement_json(name: str, version: int, setting: PlacementSettings) -> dict[str, Any]:
    return {"name": name, "version": version, "settings": setting.model_dump(exclude_defaults=True)}


def _json(setting: PlacementSettings) -> str:
    return setting.model_dump_json(exclude_defaults=True)


def validate_setting(name: str, settings: Mapping[str, Any], answers: Answers) -> PlacementSettings:
    """Validate settings by making the list of a stranger. Raises ConfigError that names the fault."""
    try:
        setting = PlacementSettings.model_validate(settings)
    except ValidationError as error:
        first = first_field_error(error, PlacementSettings)
        raise ConfigError(
            f"placement {name!r}: {first}", column=first.field or None, remedy=first.remedy or None
        ) from None
    check_policy(setting)
    answers.ask(request_of_options(setting))
    return setting


def check_policy(setting: PlacementSettings) -> None:
    """Raises ConfigError where the placement's policy is unknown, its hyperparameters are not those it takes, or it
    explores lists where it is to choose among a caller's own actions."""
    if setting.policy is None:
        return
    policy = make_policy(setting.policy.kind, setting.policy.settings)
    if policy is None and setting.policy.actions == "own":
        what = f"{setting.policy.kind} explores lists: it chooses among no other actions"
        raise ConfigError(what, column="policy.kind", remedy="a policy that learns, such as lin_ts")


def warnings_of(setting: PlacementSettings) -> list[str]:
    """What settings that are allowed most likely do not mean."""
    policy = setting.policy
    if policy is None or policy.rewards or make_policy(policy.kind, policy.settings) is None:
        return []
    return [
        "policy.rewards is empty: no event is a reward, so the policy learns nothing unless rewards are reported by "
        "POST /v1/decisions/{id}/reward"
    ]


def placements_of(file: Path, answers: Answers) -> tuple[dict[str, str], dict[str, HealthIssue]]:
    """Placements of a settings file as the store has them, by name; and the issues of those that cannot be used."""
    usable: dict[str, str] = {}
    rejected: dict[str, HealthIssue] = {}
    try:
        text_of_file = read_text(file)
        config, errors = parse_usable(text_of_file, file)
    except ConfigError as error:
        reason = f"{error.message}: placements stay as they are"
        what = f"[placements] of {file.name}"
        return {}, {what: HealthIssue(what, reason, error.remedy or "mend it")}
    for place, place_error in errors.items():
        if place[0] == TABLE:
            what = f"[{'.'.join(place)}]"
            rejected[what] = HealthIssue(what, "it is no table", f"{file.name}: {place_error.remedy}")
    for name, settings in config.placements.items():
        try:
            usable[name] = _json(validate_setting(text(name, "placement", MAX_ID_CHARS), settings, answers))
        except ZhiyinError as error:
            rejected |= rejected_table(file, text_of_file, TABLE, name, error)
    return usable, rejected
