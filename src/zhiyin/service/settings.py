"""Settings of a service: its settings file, the parts of it that cannot be used, and the text of the last start.

An invalid key takes its default, an invalid rule or entry of a table is left out, and each is a health issue. Keys
that say where data are stored (`REQUIRED_KEYS`) have no safe default: with one of these invalid, or a file that is no
TOML, a first start is refused. A later start uses the text of the last start, which `Settings.save_last_good` has
written next to the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import time
from pathlib import Path
from typing import Any

from zhiyin.core.atomic_files import write_whole
from zhiyin.core.errors import ConfigError, closest_name
from zhiyin.core.run import log
from zhiyin.data.event_schema import parse_weights
from zhiyin.data.project_config import Config, parse_usable, read_text, row_of
from zhiyin.pipeline.answer_settings import ALL, hides_everything, usable_answer_settings
from zhiyin.service.health_issues import HealthIssue
from zhiyin.service.retrain import Schedule

# Keys that say where events, live state and versions are: another place would be another shop.
REQUIRED_KEYS = {"service": ("store", "redis"), "train": ("output",)}
# Values of invalid keys, where the default would delete data.
_SAFE_VALUES = {"keep_lists": "100y", "lists_size": 1_000_000_000}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a service.

    Parameters
    ----------
    file: path of the settings file, which need not exist.
    text: its text, or that of the last start; None: there is no file.
    config: all settings, with defaults for invalid ones.
    answer_settings: rules, variety and context, for `ServingState`.
    health_issues: what cannot be used.
    instead: why the text of the last start is used; empty: it is not.
    """

    file: Path
    text: str | None
    config: Config
    answer_settings: dict[str, Any]
    health_issues: tuple[HealthIssue, ...] = ()
    instead: str = ""

    def save_last_good(self) -> None:
        """Write the text next to the file: a later start uses it where the file cannot be used any more.

        Call it once the service has started with these settings. Invalid keys are part of the text: a rule that was
        added since an older, valid text applies at the later start too.
        """
        if self.text is None or self.instead:
            return
        last_good = last_good_path(self.file)
        with contextlib.suppress(OSError):
            if last_good.read_bytes() == self.text.encode():
                return
        try:
            write_whole(last_good, self.text, 0o600)  # it may hold passwords
        except OSError as error:
            log.info(
                "service: %s cannot be written, a restart will need %s: %s", last_good, self.file.name, error.strerror
            )


def last_good_path(file: Path) -> Path:
    """Path of the text that the service last started with."""
    return file.with_name(f".{file.name}.last-good")


def read_settings(file: Path, *, needed: bool = False) -> Settings:
    """The settings of a file; those of the last start where it cannot be used; without any file all defaults.

    Parameters
    ----------
    needed: whether a missing file is an error.

    Raises ConfigError that says where and what to do.
    """
    try:
        if not file.exists():
            if not needed and not last_good_path(file).is_file():
                return settings_of(file, None)
            raise ConfigError("there is no such settings file", file=file, remedy="zhiyin init")
        return settings_of(file, read_text(file))
    except ConfigError as error:
        try:
            text = read_text(last_good_path(file))
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(last_good_path(file).stat().st_mtime))
            where = "" if error.row is None else f"line {error.row}: "
            return settings_of(file, text, f"{where}{_without_value(error.message)}; the settings of {when} are used")
        except (ConfigError, OSError):
            raise error from None


def settings_of(file: Path, text: str | None, instead: str = "") -> Settings:
    """Settings of a text, which other processes get as plain data. Raises ConfigError; see the module."""
    config, wrong = (Config(), {}) if text is None else parse_usable(text, file)
    for place, error in wrong.items():
        if _is_required(place):
            raise error
    for place in wrong:
        if place[0] == "service" and place[-1] in _SAFE_VALUES:
            setattr(config.service, place[-1], _SAFE_VALUES[place[-1]])
    for name, weight in list(config.weights.items()):
        try:
            parse_weights({name: weight}, (), None, has_log=False)
        except ConfigError as error:
            wrong["weights", name] = error
            del config.weights[name]
    if config.service.retrain is not None:
        try:
            Schedule.parse(config.service.retrain)
        except ConfigError as error:
            wrong["service", "retrain"] = error
            config.service.retrain = None
    answers, rules = usable_answer_settings(config)
    unreadable = {name: _without_value(error.message) for name, error in rules.items()}
    if any(len(place) == 1 and _section(place[0]) == ALL for place in wrong):
        unreadable[ALL] = "they cannot be read"
    wrong |= {("rules", name): error for name, error in rules.items()}
    answers["unreadable"] = unreadable
    entries = [] if not instead else [HealthIssue(file.name, instead, _remedy(file, "mend it"))]
    # Issues of placements and experiments come from their modules, which follow the file while the service runs.
    entries += [
        _issue(file, "" if instead else text or "", place, error)
        for place, error in wrong.items()
        if place[0] not in ("placements", "experiments")
    ]
    return Settings(file, text, config, answers, tuple(entries), instead)


def report(settings: Settings) -> None:
    """Log what cannot be used."""
    level = logging.ERROR if settings.instead else logging.WARNING
    for entry in settings.health_issues:
        log.log(level, "service: %s is not used: %s; %s", entry.what, entry.reason, entry.remedy)


def _is_required(place: tuple[str, ...]) -> bool:
    section = _section(place[0])
    keys = REQUIRED_KEYS.get(section)
    if keys is None or len(place) == 1:
        return keys is not None
    names = list(type(getattr(Config(), section)).model_fields)
    return (place[1] if place[1] in names else closest_name(place[1], names)) in keys


def _section(name: str) -> str:
    """The section that a name stands for, which may be misspelt."""
    sections = list(Config.model_fields)
    return name if name in sections else closest_name(name, sections) or ""


def _issue(file: Path, text: str, place: tuple[str, ...], error: ConfigError) -> HealthIssue:
    # Without a text the lines would be those of the text that is used instead of the file.
    row = (error.row or row_of(text, place[:2])) if text else None
    reason = ("" if row is None else f"line {row}: ") + _without_value(error.message)
    if _section(place[0]) == ALL:
        nothing_shown = len(place) == 1 or hides_everything(place[-1:])
        reason += ": nothing is shown until then" if nothing_shown else ": lists are made without it"
    what = f"[{place[0]}] {'.'.join(place[1:])}".strip()
    return HealthIssue(what, reason, _remedy(file, error.remedy or "mend it"))


def _remedy(file: Path, remedy: str) -> str:
    return f"{file.name}: {remedy}; then restart zhiyin serve"


def _without_value(message: str) -> str:
    """A message about a key without its value, which may be a password or hold names of items."""
    return re.sub(r" = .*(?= (?:is not|is no|cannot) )", "", message.splitlines()[0], flags=re.DOTALL)[:200]
