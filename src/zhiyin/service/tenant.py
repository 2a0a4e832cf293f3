"""Tenant: one shop that the service answers for, with its data, keys and models. Shops share nothing.

The settings file says where all of it is; the key of a request says which shop it is for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from zhiyin.core.durations import microseconds
from zhiyin.data.project_config import AdsSection, ServiceSection, resolved, streams_address
from zhiyin.data.project_config.data_sections import ReviewsSection
from zhiyin.features.review_values import ReviewValues
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service.ad_service import AdService
from zhiyin.service.experiment_job import ExperimentEvaluator
from zhiyin.service.experiments import Experiments
from zhiyin.service.extra_versions import ExtraVersions
from zhiyin.service.feature_log import FeatureLog
from zhiyin.service.feature_skew import SkewMonitor
from zhiyin.service.health_issues import HealthIssue
from zhiyin.service.kernel_compilation import KernelCompiler
from zhiyin.service.key_cache import Keys
from zhiyin.service.list_service import ListService
from zhiyin.service.placements import Placements
from zhiyin.service.policy_administration import PolicyAdministration
from zhiyin.service.policy_serving import PolicyServing
from zhiyin.service.serving_state import ServingState
from zhiyin.service.settings import Settings, read_settings
from zhiyin.service.stream_reading import StreamReader
from zhiyin.store.exploration_ledger import ExplorationLedger
from zhiyin.store.frequency_counts_file import FileShowings
from zhiyin.store.group_commit import GroupCommitWriter
from zhiyin.store.live_state import LiveState, state_name
from zhiyin.store.memory_state import DirectState, MemoryState
from zhiyin.store.store import Store
from zhiyin.store.trace_writer import TraceWriter

REDIS_AWAY = HealthIssue(
    "Redis", "it does not answer, or only slowly: histories are read from the store, and each process counts what "
    "users were new_keys for itself", "see whether Redis runs where [service] redis says",
)  # fmt: skip


@dataclasses.dataclass(eq=False)
class Tenant:
    """See the module. Close it when the service ends: waiting writes are then done."""

    name: str
    live: ServingState
    keys: Keys
    settings: ServiceSection = dataclasses.field(default_factory=ServiceSection)
    config: Path | None = None
    writer: GroupCommitWriter = None  # type: ignore[assignment]
    traces: TraceWriter = None  # type: ignore[assignment]
    settings_issues: Sequence[HealthIssue] = ()
    ads_settings: AdsSection = dataclasses.field(default_factory=AdsSection)
    reviews: ReviewsSection = dataclasses.field(default_factory=ReviewsSection)

    def __post_init__(self) -> None:
        self.store: Store = self.live.store
        self.writer = self.writer or GroupCommitWriter(self.store)
        self.traces = self.traces or TraceWriter(self.store)
        view = self.live.serving
        self.placements = Placements(self.store, self.config, None if view is None else view.answers)
        self.experiments = Experiments(self.store, self.config, self.placements, self.live.bundles.versions)
        self.extra_versions = ExtraVersions(self.live, self.experiments.used_versions)
        self.experiments.version_ready = self.extra_versions.ready
        self.policies = PolicyServing(self.live, self.placements)
        self.policy_administration = PolicyAdministration(self.store, self.placements, self.policies.controls)
        features = FeatureLog(self.settings.log_features, self.settings.log_features_rate)
        self.list_service = ListService(
            self.live,
            self.placements,
            self.traces,
            self.settings.budget / 1e3,
            features,
            self.experiments,
            self.extra_versions,
            self.policies,
        )
        self.ads = AdService(self.live, self.placements, self.ads_settings)
        self.list_service.longest_cap = self.ads.longest_cap
        self.skew = SkewMonitor(self.list_service)
        self.live.periodic_tasks.append(lambda view: self.placements.update(view.answers))
        self.evaluator = ExperimentEvaluator(self.store)
        self.live.periodic_tasks.append(lambda view: self.experiments.update())
        self.live.periodic_tasks.append(self.extra_versions.update)
        self.live.table_listeners["placements"] = self.placements.refresh
        self.live.table_listeners["experiments"] = self.experiments.refresh
        # Hears what became of events, and the seconds until they counted.
        self.on_events: Callable[[Iterable[str], float], None] = lambda statuses, seconds: None

    def review_values(self) -> ReviewValues:
        """How texts of reviews become values: as the version in use has learned it, else as the settings say."""
        view = self.live.serving
        learned = None if view is None else view.loaded.reviews
        return learned or ReviewValues.of(self.reviews)

    def health_issues(self) -> list[HealthIssue]:
        """All that the shop cannot use and runs without."""
        redis_issues = [REDIS_AWAY] if self.live.state.away else []
        parts = (self.live, self.placements, self.experiments, self.extra_versions, self.policies, self.ads, self.keys)
        return [*self.settings_issues, *redis_issues, *(entry for part in parts for entry in part.health_issues())]

    @classmethod
    def open(
        cls,
        config: Path,
        *,
        several: bool = False,
        store: str | None = None,
        shared: Path | None = None,
        settings: Settings | None = None,
        serves: bool = True,
        on_compile: Callable[[], None] | None = None,
    ) -> tuple[Tenant, dict[str, str]]:
        """The shop of a settings file, and keys that were made just now, to be new_keys once.

        Parameters
        ----------
        several: whether other processes answer for the shop too.
        store: address of the store, instead of the file's.
        shared: folder in which the processes of this machine count showings to users together, where there is no Redis.
        settings: the settings of the file; None: they are read here.
        on_compile: called when code has to be compiled, by a process of its own; None: this process compiles it.
        serves: whether it is to answer requests, so that kernels are compiled and changes are followed.
        """
        settings = settings or read_settings(config)
        home, section = config.parent, settings.config.service
        opened_store = Store(resolved(store or section.store, home))
        try:
            name = state_name(opened_store.address)
            ledger = ExplorationLedger(home / f"exploration-{name[:12]}.db")
            state: LiveState = MemoryState(ledger=ledger)
            if section.redis is not None:
                from zhiyin.store.redis_state import RedisState

                state = RedisState(resolved(section.redis, home), name)
            elif several or opened_store.dialect != "sqlite":  # to a server other machines may write
                showings = None if shared is None else FileShowings(shared / f"{name}.showings")
                state = DirectState(showings, ledger=ledger)
            if state.ledger is not None:  # whom another program has forgotten while no service ran
                state.ledger.drop_hashes(opened_store.forgotten_by_hash())
            streams = stream_reader(settings, opened_store)
            bundles = Bundles(home / settings.config.train.output / "bundles")
            live = ServingState(
                bundles,
                opened_store,
                settings.answer_settings,
                settings.config.weights,
                types=settings.config.schema.types,
                state=state,
                streams=streams,
                several=several or section.redis is not None or opened_store.dialect != "sqlite",
                watch=serves,
                warm=serves,
                compiler=None if on_compile is None else KernelCompiler(bundles, on_compile),
            )
        except BaseException:
            opened_store.close()
            raise
        try:
            keys, new_keys = Keys.open(opened_store, home / "keys.json")
        except BaseException:
            live.close()
            live.state.close()
            opened_store.close()
            raise
        keys.watch()
        tenant = cls(home.resolve().name, live, keys, section, config, settings_issues=settings.health_issues,
                     ads_settings=settings.config.ads, reviews=settings.config.features.reviews)  # fmt: skip
        return tenant, new_keys

    def close(self) -> None:
        """Write what waits, and close everything."""
        for close in (self.skew.close, self.policies.close, self.ads.close, self.live.close, self.extra_versions.close,
                      self.writer.close, self.traces.close, self.keys.close, self.live.state.close,
                      self.store.close):  # fmt: skip
            close()


def stream_reader(settings: Settings, store: Store) -> StreamReader | None:
    """Reads what streams have computed of a store; None without [service] streams."""
    from functools import partial

    address = streams_address(settings.config, settings.file.parent, store.address)
    if address is None:
        return None
    from zhiyin.store.stream_state import open_stream_state

    keep = settings.config.service.keep
    return StreamReader(
        partial(open_stream_state, address, state_name(store.address)),
        None if keep is None else microseconds(keep),
        store if "histories" in settings.config.streams.jobs else None,
    )


def distinct_names(names: Sequence[str]) -> list[str]:
    """What metrics, logs and `zhiyin serve` call shops, by the names of their folders: NAME, NAME-2, NAME-3, ...

    A name that is already taken gets the next free number; a name does not depend on the names behind it.
    """
    distinct: list[str] = []
    for name in names:
        candidate, n = name, 1
        while candidate in distinct:
            n += 1
            candidate = f"{name}-{n}"
        distinct.append(candidate)
    return distinct
