"""Experiments: which arm a list is made by. They are settings with versions, as placements are.

They are written in `[experiments.NAME]` of zhiyin.toml or come over HTTP; the last change applies. What stops an arm or
draws the weights again writes a version too. The assignment is a hash of the unit, the same in every process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zhiyin.api.experiment_settings import ExperimentSettings
from zhiyin.api.requests import PlacementSettings, PolicySettings, RecommendRequest
from zhiyin.core.errors import ConfigError, ZhiyinError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.run import log
from zhiyin.core.text_validation import text
from zhiyin.core.validation_errors import first_field_error
from zhiyin.data.project_config import parse_usable, read_text
from zhiyin.pipeline.experiment_state import ExperimentState, ExperimentVersion, Stop, begins_anew
from zhiyin.policies.experiments.assignment import Experiment, check_layers
from zhiyin.service.health_issues import HealthIssue
from zhiyin.service.placements import DEFAULT, Placements, UnknownPlacementError
from zhiyin.service.settings_file_issues import rejected_table
from zhiyin.store.store import Store

TABLE, MAX_EXPERIMENTS = "experiments", 200
# Settings of a placement's policy that an arm may have otherwise: those that change nothing of what it learns.
ARM_POLICY_SETTINGS = ("mode", "shortlist", "exploration", "randomisation", "margin", "control")


class UnknownExperimentError(ConfigError):
    """An experiment that does not exist."""


class TooManyExperimentsError(ConfigError):
    """There are `MAX_EXPERIMENTS` experiments already."""


class ExperimentConflictError(ConfigError):
    """Settings of an experiment that contradict each other, or another experiment."""


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
        return [_version_json(number, columns, when) for number, columns, when in rows]

    def used_versions(self) -> list[int]:
        """Versions of the models that arms of running experiments name."""
        return _used_versions(one.version for group in self._running.values() for one in group)

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
        _check_settings(name, parsed)
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
            both = _changed_fields(one.settings) & _changed_fields(two.settings)
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


def with_policy_settings(setting: PlacementSettings, policy: Mapping[str, Any] | None) -> PlacementSettings:
    """Settings of a placement with other settings of its policy, as an arm has them; None: as they are.

    Raises ConfigError where the placement has no policy, or the settings are none of it.
    """
    if policy is None:
        return setting
    if setting.policy is None:
        raise ConfigError("the placement has no policy", remedy="give the placement a policy, or the arm a placement")
    learned = [name for name in policy if name in PolicySettings.model_fields and name not in ARM_POLICY_SETTINGS]
    if learned:
        raise ConfigError(f"{learned[0]}: what the policy learns is shared by all arms",
                          remedy=f"{', '.join(ARM_POLICY_SETTINGS)}; or give the arm a placement")  # fmt: skip
    try:
        merged = PolicySettings.model_validate(setting.policy.model_dump(exclude_unset=True) | dict(policy))
    except ValidationError as error:
        first = first_field_error(error, PolicySettings)
        raise ConfigError(str(first), column=first.field or None, remedy=first.remedy or None) from None
    return setting.model_copy(update={"policy": merged})


def read_experiments(store: Store) -> tuple[dict[str, ExperimentVersion], dict[str, HealthIssue]]:
    """The newest version of each experiment of a store, and the issues of those that cannot be read; by name."""
    rows, _ = store.changes_since(TABLE)
    newest, unreadable = {}, {}
    for name, columns in rows.items():
        stored = None if columns is None else store.get(TABLE, name)
        if stored is None:
            continue
        try:
            newest[name] = ExperimentVersion.of_columns(name, *stored)
        except (ValidationError, KeyError, TypeError, ValueError):
            what, reason = f"experiment {name!r}", "its newest version cannot be read"
            unreadable[name] = HealthIssue(what, reason, f"PUT /v1/experiments/{name}")
    return newest, unreadable


def versions_of_experiments(store: str) -> list[int]:
    """Versions of the models that arms of running experiments name; of a store by its address."""
    with contextlib.closing(Store(store)) as opened:
        newest, _ = read_experiments(opened)
    return _used_versions(version for version in newest.values() if version.is_running)


def _used_versions(experiments: Iterable[ExperimentVersion]) -> list[int]:
    arms = (arm for one in experiments for name, arm in one.settings.arms.items() if name not in one.state.stopped)
    return sorted({arm.version for arm in arms if arm.version is not None})


def experiment_tables(file: Path) -> tuple[dict[str, dict[str, Any]], dict[str, HealthIssue]]:
    """The tables `[experiments.NAME]` of a settings file by name, and the issues of what is no table."""
    try:
        config, errors = parse_usable(read_text(file), file)
    except ConfigError as error:
        what = f"[experiments] of {file.name}"
        reason = f"{error.message}: experiments stay as they are"
        return {}, {what: HealthIssue(what, reason, error.remedy or "mend it")}
    rejected: dict[str, HealthIssue] = {}
    for place, place_error in errors.items():
        if place[0] == TABLE:
            what = f"[{'.'.join(place)}]"
            rejected[what] = HealthIssue(what, "it is no table", f"{file.name}: {place_error.remedy}")
    return config.experiments, rejected


def change_experiment(
    store: Store, name: str, next_version: Callable[[ExperimentVersion | None], ExperimentVersion | None]
) -> int:
    """Write what `next_version` makes of an experiment's newest version, in a transaction without other writers.

    Returns the number of the newest version.
    """

    def combine(key: str, old: dict[str, Any] | None, new: Mapping[str, Any]) -> Mapping[str, Any]:
        version = next_version(None if old is None else ExperimentVersion.of_columns(key, old, 0))
        return (old or {}) if version is None else version.to_columns()

    return store.change(TABLE, {name: {}}, combine)[name]


def stopped_version(
    name: str, arm: str | None, reason: str, by: str, now: int
) -> Callable[[ExperimentVersion | None], ExperimentVersion | None]:
    """A change that stops an arm, or the experiment where none is named; one that is stopped already stays as it is.

    It raises UnknownExperimentError, and ConfigError for an arm that there is not, or the control.
    """

    def next_version(before: ExperimentVersion | None) -> ExperimentVersion | None:
        if before is None:
            raise UnknownExperimentError(f"there is no experiment {name!r}", remedy="zhiyin experiment list")
        state, settings = before.state, before.settings
        stop = Stop(now, reason)
        if arm is None:
            if state.ended is not None:
                return None
            return dataclasses.replace(before, state=dataclasses.replace(state, ended=stop), by=by, reason=reason)
        others = [one for one in settings.arms if one != settings.control]
        if arm not in others or settings.kind == "interleaving":
            raise UnknownExperimentError(f"experiment {name!r} has no arm {arm!r} that can be stopped", column="arm",
                                         remedy=f"one of {', '.join(others)}; without arm, all of it")  # fmt: skip
        if arm in state.stopped:
            return None
        stopped = {**state.stopped, arm: stop}
        return dataclasses.replace(before, state=dataclasses.replace(state, stopped=stopped), by=by, reason=reason)

    return next_version


def experiment_json(version: ExperimentVersion, issue: str = "") -> dict[str, Any]:
    """An experiment as the service tells it. issue: why it takes no part, though it runs; "" where it does."""
    return {
        "name": version.name,
        "version": version.number,
        "settings": version.settings.model_dump(exclude_defaults=True, mode="json"),
        "state": dataclasses.asdict(version.state),
        "running": version.is_running and not issue,
        "issue": issue,
        "by": version.by,
        "reason": version.reason,
    }


def _version_json(number: int, columns: Mapping[str, Any] | None, when: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "version": number, "time": when, "by": None, "reason": None, "settings": None, "state": None,
    }  # fmt: skip
    if columns is None:
        return row
    try:
        version = ExperimentVersion.of_columns("", columns, number)
    except (ValidationError, KeyError, TypeError, ValueError):
        return row | {"reason": "it cannot be read"}
    full = experiment_json(version)
    return row | {name: full[name] for name in ("by", "reason", "settings", "state")}


def _check_settings(name: str, settings: ExperimentSettings) -> None:
    """Raises ExperimentConflictError for settings that contradict each other."""
    metrics, arms = settings.metrics, settings.arms
    wrong: list[tuple[str, str, str]] = [
        (f"guardrails.{n}.metric", f"there is no metric {rail.metric!r}", f"one of {', '.join(metrics)}")
        for n, rail in enumerate(settings.guardrails)
        if rail.metric not in metrics
    ]
    wrong += [
        (f"metrics.{metric_name}.cuped", "cuped is for metrics per unit, of users",
         'per = "unit" and unit = "user", or leave cuped out')
        for metric_name, metric in metrics.items()
        if metric.cuped and "metrics" in settings.model_fields_set and (metric.per != "unit" or settings.unit != "user")
    ]  # fmt: skip
    if settings.allocation == "thompson" and settings.looks:
        wrong.append(("looks", "weights that are drawn again go without planned looks", "leave looks out"))
    if settings.kind == "interleaving":
        placements = {arm.placement or settings.placement for arm in arms.values()}
        if len(arms) != 2 or len(placements) != 2:
            wrong.append(("arms", "an interleaving compares two placements", "two arms, each with another placement"))
        if any(arm.version is not None or arm.policy is not None for arm in arms.values()):
            wrong.append(("arms", "the arms of an interleaving are placements", "leave version and policy out"))
        if settings.guardrails or settings.looks or settings.allocation != "fixed":
            remedy = "leave guardrails, looks and allocation out"
            wrong.append(("kind", "an interleaving has no arms that could be stopped or weighed", remedy))
    for column, message, remedy in wrong:
        raise ExperimentConflictError(f"experiment {name!r}: {column}: {message}", column=column, remedy=remedy)


def _changed_fields(settings: ExperimentSettings) -> set[str]:
    """What the arms say otherwise than the placement."""
    if settings.kind == "interleaving":
        return {"placement", "version", "policy"}
    fields = ("placement", "version", "policy")
    changed = {name for arm in settings.arms.values() for name in fields if getattr(arm, name) is not None}
    return changed | ({"policy"} if "placement" in changed else set())
