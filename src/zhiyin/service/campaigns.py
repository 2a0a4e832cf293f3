"""Campaigns of ads: who pays for which items, validated, versioned and kept in the store."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from zhiyin.api.ad_requests import CampaignSettings
from zhiyin.core.errors import ConfigError, UnknownItemError, closest_name
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.run import log
from zhiyin.core.text_validation import text
from zhiyin.core.validation_errors import first_field_error
from zhiyin.pipeline.ad_candidates import Ads
from zhiyin.pipeline.answers import Answers
from zhiyin.service.health_issues import HealthIssue
from zhiyin.store.store import Store

TABLE, MAX_CAMPAIGNS = "campaigns", 10_000


class UnknownCampaignError(ConfigError):
    """A campaign that does not exist."""


class TooManyCampaignsError(ConfigError):
    """There are `MAX_CAMPAIGNS` campaigns already."""


class CampaignConflictError(ConfigError):
    """Settings that contradict each other."""


@dataclasses.dataclass(frozen=True)
class StoredCampaign:
    """A campaign with the number of its version."""

    name: str
    version: int
    settings: CampaignSettings

    def state(self, now: int) -> str:
        """What the settings say of a moment, microseconds UTC: active, paused, scheduled or ended."""
        if self.settings.paused:
            return "paused"
        if self.settings.start is not None and now < self.settings.start:
            return "scheduled"
        if self.settings.end is not None and now >= self.settings.end:
            return "ended"
        return "active"


class Campaigns:
    """All campaigns of a store; `refresh` takes in what other processes have changed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._all: dict[str, StoredCampaign] = {}
        self._unreadable: dict[str, HealthIssue] = {}
        self._seq, self._lock = -1, threading.RLock()
        self.refresh()

    @property
    def seq(self) -> int:
        """Number of the last change that is taken in."""
        return self._seq

    def all(self) -> Mapping[str, StoredCampaign]:
        """The campaigns by name, in the order of names."""
        return self._all

    def get(self, name: str) -> StoredCampaign:
        """Raises UnknownCampaignError."""
        found = self._all.get(name)
        if found is not None:
            return found
        near = closest_name(name, list(self._all))
        remedy = f"PUT /v1/campaigns/{name} first" if near is None else f"did you mean {near!r}?"
        raise UnknownCampaignError(f"there is no campaign {name!r}", remedy=remedy)

    def put(self, name: str, settings: Mapping[str, Any], answers: Answers | None = None, by: str = "http") -> int:
        """Validate settings and write them as a new version; returns its number.

        Raises ConfigError that names the field, and then nothing changes. answers: whose catalogue has the items; None:
        they are not looked at.
        """
        text(name, "campaign", MAX_ID_CHARS)
        parsed = parsed_settings(name, settings)
        if parsed.start is not None and parsed.end is not None and parsed.end <= parsed.start:
            raise CampaignConflictError(f"campaign {name!r}: end: it is not after start", column="end",
                                        remedy="microseconds UTC, or leave it out")  # fmt: skip
        if answers is not None:
            _check_items(name, parsed, answers)
        with self._lock:
            self.refresh()
            if name not in self._all and len(self._all) >= MAX_CAMPAIGNS:
                raise TooManyCampaignsError(f"there are {MAX_CAMPAIGNS:,} campaigns", remedy="delete one first")
            version = self.store.put(TABLE, {name: columns_of(parsed, by)})[name]
            self.refresh()
        return version

    def change(self, name: str, change: Callable[[CampaignSettings], CampaignSettings], by: str) -> int:
        """Write what `change` makes of a campaign's settings, without other writers. Raises UnknownCampaignError."""

        def combine(key: str, old: dict[str, Any] | None, new: Mapping[str, Any]) -> Mapping[str, Any]:
            if old is None:
                raise UnknownCampaignError(f"there is no campaign {name!r}", remedy="zhiyin campaign list")
            return columns_of(change(CampaignSettings.model_validate_json(old["settings"])), by)

        version = self.store.change(TABLE, {name: {}}, combine)[name]
        self.refresh()
        return version

    def delete(self, name: str) -> None:
        """Raises UnknownCampaignError."""
        self.refresh()
        self.get(name)
        self.store.put(TABLE, {name: None})
        self.refresh()

    def refresh(self) -> None:
        """Take in changes of the store."""
        with self._lock:
            seq = self.store.last_change(TABLE)
            if seq == self._seq:
                return
            rows, seq = self.store.changes_since(TABLE)
            campaigns, unreadable = {}, {}
            for name in sorted(rows):
                if rows[name] is None:
                    continue
                _, version = self.store.get(TABLE, name) or ({}, 0)
                try:
                    settings = CampaignSettings.model_validate_json((rows[name] or {})["settings"])
                    campaigns[name] = StoredCampaign(name, version, settings)
                except (ValidationError, KeyError) as error:
                    reason: object = "it has no settings"
                    if isinstance(error, ValidationError):
                        reason = first_field_error(error, CampaignSettings)
                    issue = HealthIssue(
                        f"campaign {name!r}", f"it cannot be read ({reason})", f"PUT /v1/campaigns/{name}"
                    )
                    unreadable[name] = issue
                    if name not in self._unreadable:
                        log.warning("ads: %s: %s", issue.what, issue.reason)
            self._all, self._unreadable, self._seq = campaigns, unreadable, seq

    def health_issues(self) -> list[HealthIssue]:
        """Campaigns that cannot be read."""
        return list(self._unreadable.values())


def columns_of(settings: CampaignSettings, by: str) -> dict[str, Any]:
    """The row of the store. The ledger reads the budgets by themselves, within its transactions."""
    columns: dict[str, Any] = {"settings": settings.model_dump_json(exclude_defaults=True), "by": by}
    budgets = {"daily_budget": settings.daily_budget_micros, "total_budget": settings.total_budget_micros}
    return columns | {name: micros for name, micros in budgets.items() if micros is not None}


def parsed_settings(name: str, settings: Mapping[str, Any]) -> CampaignSettings:
    """Raises ConfigError that names the field."""
    try:
        return CampaignSettings.model_validate(dict(settings))
    except ValidationError as error:
        first = first_field_error(error, CampaignSettings)
        raise ConfigError(
            f"campaign {name!r}: {first}", column=first.field or None, remedy=first.remedy or None
        ) from None


def settings_json(campaign: StoredCampaign) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(campaign.settings.model_dump_json(exclude_defaults=True))
    return settings


def _check_items(name: str, settings: CampaignSettings, answers: Answers) -> None:
    """Raises UnknownItemError for items that the catalogue does not have, and for a column that holds no bids."""
    missing = Ads.of({name: settings}, answers).missing.get(name, ())
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise UnknownItemError(f"campaign {name!r}: items: {missing[0][:80]!r}{more} is not in the catalogue",
                          column="items", remedy="PUT /v1/items/{id} first")  # fmt: skip
