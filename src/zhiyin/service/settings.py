"""What a service runs with: its settings file read once, what of it cannot be used, and the last text it started with.

A key that cannot be used takes its default, a rule or an entry of a table is left out, and each is named. Keys that
say where data are kept (`NEEDED`) have no default that would do: with one of these wrong, or a file that is no TOML, a
first start is refused. A later start takes the text of the last start, kept beside the file by `Settings.keep`, and
sets aside again what of it cannot be used.
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
from zhiyin.pipeline.rules_config import ALL, hides_everything, usable_answer_settings
from zhiyin.service.health_issues import HealthIssue
from zhiyin.service.retrain import Schedule

# Keys that say where events, live state and versions are: another place would be another shop.
NEEDED = {"service": ("store", "redis"), "train": ("output",)}
# What a key that cannot be used is instead, where its default would delete what was to be kept.
_KEEPING = {"keep_lists": "100y", "lists_size": 1_000_000_000}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a service.

    Parameters
    ----------
    file: the settings file, whether or not there is one. text: what it said, or said last; None: there is none.
    instead: why these are not what the file says now; empty: they are.
    config: all of it, with defaults for what cannot be used. answer_settings: rules, variety and context, for
    `ServingState`. health_issues: what cannot be used.
    """

    file: Path
    text: str | None
    config: Config
    answer_settings: dict[str, Any]
    health_issues: tuple[HealthIssue, ...] = ()
    instead: str = ""

    def keep(self) -> None:
        """Write the text beside the file: a later start takes it where the file cannot be used any more.

        Call it once the service has started with these settings. Keys that are set aside are part of the text: a rule
        that was added since an older, faultless text holds at the later start too.
        """
        if self.text is None or self.instead:
            return
        kept = kept_of(self.file)
        with contextlib.suppress(OSError):
            if kept.read_bytes() == self.text.encode():
                return
        try:
            write_whole(kept, self.text, 0o600)  # it may hold passwords
        except OSError as error:
            log.info("service: %s cannot be written, a restart will need %s: %s", kept, self.file.name, error.strerror)


def kept_of(file: Path) -> Path:
    """Where the text that a service last started with is kept."""
    return file.with_name(f".{file.name}.last-good")


def read_settings(file: Path, *, needed: bool = False) -> Settings:
    """The settings of a file; those of the last start where it cannot be used; without any file all defaults.

    needed: a file that is not there is an error. Raises ConfigError that says where and what to do.
    """
    try:
        if not file.exists():
            if not needed and not kept_of(file).is_file():
                return settings_of(file, None)
            raise ConfigError("there is no such settings file", file=file, remedy="zhiyin init")
        return settings_of(file, read_text(file))
    except ConfigError as error:
        try:
            text = read_text(kept_of(file))
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(kept_of(file).stat().st_mtime))
            where = "" if error.row is None else f"line {error.row}: "
            return settings_of(file, text, f"{where}{_without_value(error.message)}; the settings of {when} are used")
        except (ConfigError, OSError):
            raise error from None


def settings_of(file: Path, text: str | None, instead: str = "") -> Settings:
    """Settings of a text, which is plain data for other processes. Raises ConfigError, see the module."""
    config, wrong = (Config(), {}) if text is None else parse_usable(text, file)
    for place, error in wrong.items():
        if _is_needed(place):
            raise error
    for place in wrong:
        if place[0] == "service" and place[-1] in _KEEPING:
            setattr(config.service, place[-1], _KEEPING[place[-1]])
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
    # Placements are told by who follows the file while the service runs, `service.placements`.
    entries += [
        _entry(file, "" if instead else text or "", place, error)
        for place, error in wrong.items()
        if place[0] != "placements"
    ]
    return Settings(file, text, config, answers, tuple(entries), instead)


def report(settings: Settings) -> None:
    """Say in the log what cannot be used."""
    level = logging.ERROR if settings.instead else logging.WARNING
    for entry in settings.health_issues:
        log.log(level, "service: %s is not used: %s; %s", entry.what, entry.reason, entry.remedy)


def _is_needed(place: tuple[str, ...]) -> bool:
    section = _section(place[0])
    keys = NEEDED.get(section)
    if keys is None or len(place) == 1:
        return keys is not None
    known = list(type(getattr(Config(), section)).model_fields)
    return (place[1] if place[1] in known else closest_name(place[1], known)) in keys


def _section(name: str) -> str:
    """The section that is meant by a name, which may be misspelt."""
    known = list(Config.model_fields)
    return name if name in known else closest_name(name, known) or ""


def _entry(file: Path, text: str, place: tuple[str, ...], error: ConfigError) -> HealthIssue:
    # Without a text the lines would be those of the text that is used instead of the file.
    row = (error.row or row_of(text, place[:2])) if text else None
    reason = ("" if row is None else f"line {row}: ") + _without_value(error.message)
    if _section(place[0]) == ALL:
        shut = len(place) == 1 or hides_everything(place[-1:])
        reason += ": nothing is shown until then" if shut else ": lists are made without it"
    what = f"[{place[0]}] {'.'.join(place[1:])}".strip()
    return HealthIssue(what, reason, _remedy(file, error.remedy or "mend it"))


def _remedy(file: Path, remedy: str) -> str:
    return f"{file.name}: {remedy}; then restart zhiyin serve"


def _without_value(message: str) -> str:
    """A message about a key without its value, which may be a password or name items."""
    return re.sub(r" = .*(?= (?:is not|is no|cannot) )", "", message.splitlines()[0], flags=re.DOTALL)[:200]
