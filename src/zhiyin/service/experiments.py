"""Experiments: which arm a list is made by. They are settings with versions, as placements are.

They are written in `[experiments.NAME]` of zhiyin.toml or come over HTTP; the last change applies. What stops an arm or
draws the weights again writes a version too. The assignment is a hash of the unit, the same in every process.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zhiyin.api.experiment_settings import ExperimentSettings
from zhiyin.api.requests import RecommendRequest
from zhiyin.core.errors import ConfigError, ZhiyinError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.run import log
from zhiyin.core.text_validation import text
from zhiyin.core.validation_errors import first_field_error
from zhiyin.data.project_config import read_text
from zhiyin.pipeline.experiment_state import ExperimentState, ExperimentVersion, begins_anew
from zhiyin.policies.experiments.assignment import Experiment, check_layers
from zhiyin.service.experiment_checks import (
    ExperimentConflictError,
    TooManyExperimentsError,
    UnknownExperimentError,
    changed_fields,
    check_settings_agree,
    with_policy_settings,
)
from zhiyin.service.experiment_versions import (
    TABLE,
    change_experiment,
    experiment_tables,
    read_experiments,
    stopped_version,
    used_versions,
    version_json,
)
from zhiyin.service.health_issues import HealthIssue
from zhiyin.service.placements import DEFAULT, Placements, UnknownPlacementError
from zhiyin.service.settings_file_issues import rejected_table
from zhiyin.store.store import Store

MAX_EXPERIMENTS = 200


@dataclasses.dataclass(frozen=True)
class ListPlan:
    """What the experiments say of one list.

    Parameters
    ----------
    placement: whose settings it is made by.
    version: of the models; None: the one in use.
    policy: settings of the placement's policy that are replaced.
    interleaved: the placement whose list is mixed into it; None: none is.
    arms: the arm that the list is made by, by experiment.
    assignments: by experiment the assigned arm ("arm"), its probability ("p"), when the experiment began ("began", by
        which its results are counted), the session where that is the unit ("unit"), and how often the weights were
        drawn again, if they were ("epoch").
    """

    placement: str
    version: int | None = None
    policy: Mapping[str, Any] | None = None
    interleaved: str | None = None
    arms: Mapping[str, str] = dataclasses.field(default_factory=dict)
    assignments: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def trace_head(self) -> dict[str, Any]:
        """The fields of a trace's head; none where no experiment takes part."""
        if not self.arms:
            return {}
        head: dict[str, Any] = {"experiments": dict(self.arms), "assignments": dict(self.assignments)}
        return head | ({"policy_settings": dict(self.policy)} if self.policy else {})


@dataclasses.dataclass(frozen=True)
class _Running:
    """A running experiment of a placement, made ready for requests."""

    version: ExperimentVersion
    assignment: Experiment
    names: tuple[str, ...]
    probabilities: Mapping[str, float]


class Experiments:
    """All experiments of a store.

    Parameters
    ----------
    versions: the numbers of the versions of models that there are.
    """

    def __init__(
        self,
        store: Store,
        config: Path | None,
        placements: Placements,
        versions: Callable[[], list[int]] = list,
    ) -> None:
        self.store, self.config, self.placements, self._model_versions = store, config, placements, versions
        # Whether lists may be made by a version of the models now; it is loaded beside the one in use.
        self.version_ready: Callable[[int], bool] = lambda version: True
        self._all: dict[str, ExperimentVersion] = {}
        self._running: dict[str, tuple[_Running, ...]] = {}
        self._seq = -1
        # The last change of placements as of which the arms were checked.
        self._prepared_for = -1
        self._file_state: object = None
        self._unreadable: dict[str, HealthIssue] = {}
        self._unusable: dict[str, HealthIssue] = {}
        self._rejected: dict[str, HealthIssue] = {}
        self._lock = threading.RLock()
        self.refresh()

    # -- lists --------------------------------------------------------------------------------------------------------

    def plan(self, ask: RecommendRequest, list_id: str, origin: str) -> ListPlan:
        """What the list of a request is made by."""
        requested = ask.placement or DEFAULT
        if self._prepared_for != self.placements.seq and (self._running or self._unusable):
            with self._lock:
                self._prepare()
        running = self._running.get(requested)
        if not running:
            return ListPlan(requested)
        fields: dict[str, Any] = {"placement": requested}
        arms, assignments = {}, {}
        for one in running:
            settings = one.version.settings
            unit = {"user": ask.user, "session": ask.session, "list": list_id}[settings.unit]
            if unit is None or (settings.kind == "interleaving" and origin == "rank"):
                continue
            served_arms = [arm for key, arm in settings.arms.items() if key not in one.version.state.stopped]
            if not all(arm.version is None or self.version_ready(arm.version) for arm in served_arms):
                continue  # it takes part once all arms can be served, else the arms would differ in their units
            if settings.kind == "interleaving":
                name = "interleaved" if int(one.assignment.assign([unit])[0]) >= 0 else None
            else:
                number = int(one.assignment.assign([unit])[0])
                name = one.names[number] if number >= 0 else None
            if name is None:
                continue
            mark: dict[str, Any] = {
                "arm": name,
                "p": one.probabilities.get(name, 1.0),
                "began": one.version.state.started,
            }
            if settings.unit == "session":
                mark["unit"] = unit
            if one.version.state.epoch:
                mark["epoch"] = one.version.state.epoch
            assignments[one.version.name] = mark
            if settings.kind == "interleaving":
                first, second = settings.arms.values()
                fields["placement"] = first.placement or requested
                fields["interleaved"] = second.placement or requested
                arms[one.version.name] = name
                continue
            served = settings.control if name in one.version.state.stopped else name
            arms[one.version.name] = served
            arm = settings.arms[served]
            fields |= {
                key: getattr(arm, key) for key in ("placement", "version", "policy") if getattr(arm, key) is not None
            }
        return ListPlan(**fields, arms=arms, assignments=assignments) if arms else ListPlan(requested)

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, name: str) -> ExperimentVersion:
        """The newest version. Raises UnknownExperimentError, and ConfigError for one that cannot be read."""
        version = self._all.get(name)
        if version is not None:
            return version
        issue = self._unreadable.get(name)
        if issue is not None:
            raise ConfigError(f"experiment {name!r} cannot be used: {issue.reason}", remedy=issue.remedy)
        raise UnknownExperimentError(f"there is no experiment {name!r}", remedy=f"PUT /v1/experiments/{name} first")

    def all(self) -> list[ExperimentVersion]:
        """The newest version of each, by name."""
        return [version for _, version in sorted(self._all.items())]

    def versions(self, name: str) -> list[dict[str, Any]]:
        """All versions of an experiment, newest first; settings None: deleted."""
        rows = self.store.versions(TABLE, name)
        if not rows:
            self.get(name)
        return [version_json(number, columns, when) for number, columns, when in rows]

    def used_versions(self) -> list[int]:
        """Versions of the models that arms of running experiments name."""
        return used_versions(one.version for group in self._running.values() for one in group)

    def check_placement_unused(self, placement: str) -> None:
        """Raises ExperimentConflictError where a running experiment makes lists by a placement, or is of it."""
        self.refresh()
        for version in self.all():
            settings, stopped = version.settings, version.state.stopped
            arms = [arm for arm, one in settings.arms.items() if one.placement == placement and arm not in stopped]
            if version.is_running and (arms or settings.placement == placement):
                of_what = f"arm {arms[0]!r} of experiment {version.name!r}" if arms else f"experiment {version.name!r}"
                raise ExperimentConflictError(
                    f"placement {placement!r} is used by {of_what}, which runs",
                    remedy=f"end the experiment first: zhiyin experiment stop {version.name}",
                )

    def issue_of(self, name: str) -> str:
        """Why a running experiment takes no part; "" where it does, or does not run."""
        if self._prepared_for != self.placements.seq:
            with self._lock:
                self._prepare()
        issue = self._unusable.get(name)
        return "" if issue is None else issue.reason

    def health_issues(self) -> list[HealthIssue]:
        """Experiments, or versions of them, that are not used."""
        return [*self._rejected.values(), *self._unreadable.values(), *self._unusable.values()]

    # -- changes ------------------------------------------------------------------------------------------------------

    def put(self, name: str, settings: Mapping[str, Any], by: str = "http") -> int:
        """Validate settings and write them as a new version. Raises ConfigError, and then nothing changes.

        A new design begins the experiment anew, and so does putting one that was ended; other changes go on counting.
        """
        with self._lock:
            self.refresh()
            parsed = self._validated(name, settings)
            if name not in self._all and len(self._all) >= MAX_EXPERIMENTS:
                raise TooManyExperimentsError(f"there are {MAX_EXPERIMENTS} experiments", remedy="delete one first")

            def next_version(before: ExperimentVersion | None) -> ExperimentVersion:
                state = ExperimentState(started=self.store.clock())
                if before is not None and before.state.ended is None and not begins_anew(before.settings, parsed):
                    state = before.state
                return ExperimentVersion(name, parsed, state, by)

            return self.change(name, next_version)

    def change(self, name: str, next_version: Callable[[ExperimentVersion | None], ExperimentVersion | None]) -> int:
        """Write what `next_version` makes of the newest version (None: there is none), in a transaction without other
        writers; None from it: no change. Returns the number of the newest version."""
        number = change_experiment(self.store, name, next_version)
        self.refresh()
        return number

    def delete(self, name: str) -> None:
        """Units are no longer assigned; the versions and the traces are kept."""
        self.refresh()
        self.get(name)
        self.store.put(TABLE, {name: None})
        self.refresh()

    def stop(self, name: str, arm: str | None, reason: str, by: str = "http") -> int:
        """Stop an arm, or the experiment; see `stopped_version`."""
        self.refresh()
        self.get(name)
        return self.change(name, stopped_version(name, arm, reason, by, self.store.clock()))

    def update(self) -> None:
        """Apply the settings file where it has changed, and the store."""
        with self._lock:
            if self.config is not None and self.config.is_file():
                served = (self.placements.seq, self._model_versions()) if self._rejected else None
                state = (self.config.stat().st_mtime_ns, served)
                if state != self._file_state:
                    self._file_state = state
                    self._read_file(self.config)
            self.refresh()
            self._prepare()

    def refresh(self) -> None:
        """Apply changes of other processes in the store."""
        with self._lock:
            seq = self.store.last_change(TABLE)
            if seq == self._seq:
                return
            newest, unreadable = read_experiments(self.store)
            self._all, self._seq, self._unreadable = newest, seq, unreadable
            self._prepare()

    def _prepare(self) -> None:
        """Make running experiments ready for requests; those whose arms cannot be served take no part."""
        self._prepared_for = self.placements.seq
        groups: dict[str, list[_Running]] = {}
        unusable: dict[str, HealthIssue] = {}
        for name, version in sorted(self._all.items()):
            if not version.is_running:
                continue
            try:
                self._check_arms(name, version.settings, stopped=version.state.stopped)
            except ConfigError as error:
                reason = f"{error.message}: it takes no part, none of its arms is assigned"
                remedy = f"{error.remedy or 'mend it'}, or stop it: zhiyin experiment stop {name}"
                unusable[name] = HealthIssue(f"experiment {name!r}", reason, remedy)
                if name not in self._unusable:
                    log.warning("experiments: %s", reason)
                continue
            assignment = version.assignment
            ready = _Running(version, assignment, tuple(assignment.arms), assignment.probabilities)
            groups.setdefault(version.settings.placement, []).append(ready)
        self._running, self._unusable = {placement: tuple(group) for placement, group in groups.items()}, unusable

    # -- checks -------------------------------------------------------------------------------------------------------

    def _validated(
        self, name: str, settings: Mapping[str, Any], placements: Collection[str] = ()
    ) -> ExperimentSettings:
        text(name, "experiment", MAX_ID_CHARS)
        try:
            parsed = ExperimentSettings.model_validate(settings)
        except ValidationError as error:
            first = first_field_error(error, ExperimentSettings)
            raise ConfigError(
                f"experiment {name!r}: {first}", column=first.field or None, remedy=first.remedy or None
            ) from None
        check_settings_agree(name, parsed)
        self._check_arms(name, parsed, placements)
        if parsed.enabled:
            others = [one for one in self._all.values() if one.is_running and one.name != name]
            self._check_others(ExperimentVersion(name, parsed, ExperimentState(0)), others)
        return parsed

    def _check_arms(
        self,
        name: str,
        settings: ExperimentSettings,
        placements: Collection[str] = (),
        stopped: Collection[str] = (),
    ) -> None:
        """Raises ConfigError for an arm whose placement or version there is not, or whose policy cannot be, and for a
        placement of the experiment that there is not.

        Parameters
        ----------
        placements: names that there will be, and are not looked at.
        stopped: arms whose units get the control's lists, and that are not looked at.
        """
        if settings.placement not in placements:
            try:
                self.placements.get(settings.placement)
            except ConfigError as error:
                raise UnknownPlacementError(
                    f"experiment {name!r}: placement = {settings.placement!r}: {error.message}", column="placement",
                    remedy=error.remedy,
                ) from None  # fmt: skip
        for arm_name, arm in settings.arms.items():
            if arm_name in stopped:
                continue
            for key, value in (("placement", arm.placement), ("version", arm.version)):
                place = f"arms.{arm_name}.{key}"
                if key == "placement" and value is not None and value not in placements:
                    try:
                        self.placements.get(str(value))
                    except ConfigError as error:
                        raise UnknownPlacementError(f"experiment {name!r}: {place} = {value!r}: {error.message}",
                                                    column=place, remedy=error.remedy) from None  # fmt: skip
                if key == "version" and value is not None and value not in self._model_versions():
                    raise UnknownExperimentError(
                        f"experiment {name!r}: {place} = {value}: there is no such version of the models",
                        column=place, remedy="zhiyin versions lists them",
                    )  # fmt: skip
            if arm.policy is not None and (arm.placement or settings.placement) not in placements:
                place = f"arms.{arm_name}.policy"
                _, setting = self.placements.get(arm.placement or settings.placement)
                try:
                    with_policy_settings(setting, arm.policy)
                except ConfigError as error:
                    column = f"{place}.{error.column}" if error.column else place
                    raise ExperimentConflictError(f"experiment {name!r}: {place}: {error.message}",
                                                  column=column, remedy=error.remedy) from None  # fmt: skip

    def _check_others(self, new: ExperimentVersion, others: list[ExperimentVersion]) -> None:
        """Raises ConfigError where two experiments share units of a layer, or change the same of a placement."""
        try:
            check_layers([one.assignment for one in (*others, new)])
        except ConfigError as error:
            raise ExperimentConflictError(error.message, column="layer", remedy=error.remedy) from None
        for one in others:
            if one.settings.layer == new.settings.layer and one.settings.unit != new.settings.unit:
                raise ExperimentConflictError(
                    f"layer {new.settings.layer!r} is of {one.settings.unit}s, since experiment {one.name!r} is, and "
                    f"{new.name!r} is of {new.settings.unit}s: they would share some", column="layer",
                    remedy="another layer, or the same unit",
                )  # fmt: skip
        for one, two in itertools.product(others, [new]):
            if one.settings.placement != two.settings.placement or one.settings.layer == two.settings.layer:
                continue
            both = changed_fields(one.settings) & changed_fields(two.settings)
            if both:
                raise ExperimentConflictError(
                    f"experiments {one.name!r} and {two.name!r} both change the {min(both)} of lists of placement "
                    f"{one.settings.placement!r}", column="layer",
                    remedy="put both into one layer, with shares and offsets that lie apart",
                )  # fmt: skip

    def _read_file(self, file: Path) -> None:
        """Write the experiments of the file that have changed in it; others stay as HTTP requests may have set them."""
        tables, rejected = experiment_tables(file)
        for name, settings in tables.items():
            try:
                text_of_settings = ExperimentSettings.model_validate(settings).model_dump_json(exclude_defaults=True)
            except ValidationError:
                text_of_settings = ""
            try:
                rows = self.store.versions(TABLE, name)
                old = next((row["settings"] for _, row, _ in rows if row is not None and row["by"] == "file"), None)
                if not text_of_settings or old != text_of_settings:
                    self.put(name, settings, "file")
            except ZhiyinError as error:
                rejected |= rejected_table(file, read_text(file), TABLE, name, error)
        self._note_rejected(rejected)

    def file_issues(self, file: Path, placements: Collection[str]) -> dict[str, HealthIssue]:
        """Issues of the experiments of a settings file that could not be taken up; nothing is written.

        Parameters
        ----------
        placements: of the file, which a service would take up before.
        """
        tables, rejected = experiment_tables(file)
        for name, settings in tables.items():
            try:
                self._validated(name, settings, placements)
            except ZhiyinError as error:
                rejected |= rejected_table(file, read_text(file), TABLE, name, error)
        return rejected

    def _note_rejected(self, rejected: dict[str, HealthIssue]) -> None:
        for name, entry in rejected.items():
            if self._rejected.get(name) != entry:
                log.warning("experiments: %s is not taken up: %s; %s", entry.what, entry.reason, entry.remedy)
        self._rejected = rejected
