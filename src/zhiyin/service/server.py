"""A running service: opens shops, makes an application of them and answers on a socket until it is stopped.

One process does everything; of several each answers, and their parent retrains, learns policies and deletes old data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zhiyin.core.absent_modules import AbsentModules
from zhiyin.core.errors import MissingExtraError
from zhiyin.core.run import log
from zhiyin.data.project_config import resolved
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service import supervisor
from zhiyin.service.run_folder import in_use, run_folder, sweep_run_folders
from zhiyin.service.settings import Settings, report, settings_of
from zhiyin.service.starting_answers import StartingAnswers
from zhiyin.service.supervisor import listen, supervise
from zhiyin.store.errors import StoreUnreachableError

# Seconds that requests have to end when the service is stopped.
FINISH_SECONDS = 10
# Seconds before a worker tries again to reach its database server: at first, doubled with each try, and at most.
RETRY_SECONDS, MAX_RETRY_SECONDS = 0.25, 5.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be served, in plain data.

    Parameters
    ----------
    configs: settings files, one a shop.
    texts, instead: of each file as `Settings` has them, so that a worker that replaces another one runs with the same
        settings, even if the file has changed since.
    store, retrain: instead of the file's, where there is one shop.
    workers: processes that answer.
    log: format of the log, "text" or "json".
    access_log: whether each request is logged.
    shared: folder of what workers count together, which exists as long as they do; None: there is none.
    """

    configs: tuple[str, ...]
    texts: tuple[str | None, ...]
    instead: tuple[str, ...]
    store: str | None = None
    workers: int = 1
    retrain: str | None = None
    log: str = "text"
    access_log: bool = False
    shared: str | None = None

    @classmethod
    def of(cls, shops: Sequence[Settings], **others: Any) -> Plan:
        """To serve shops by their settings."""
        return cls(
            tuple(str(shop.file.resolve()) for shop in shops), tuple(shop.text for shop in shops),
            tuple(shop.instead for shop in shops), **others,
        )  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Plan:
        """Of `dataclasses.asdict`, as another process gets it."""
        lists: dict[str, Any] = {name: tuple(state[name]) for name in ("configs", "texts", "instead")}
        return cls(**{**state, **lists})

    def settings(self) -> list[Settings]:
        """Settings of the shops, as they were read."""
        return [settings_of(Path(config), text, instead)
                for config, text, instead in zip(self.configs, self.texts, self.instead)]  # fmt: skip


def serve(plan: Plan, host: str, port: int, say: Callable[[str], None]) -> int:
    """Answer until SIGTERM or SIGINT. Returns the exit code.

    Parameters
    ----------
    say: called with messages for people: keys, the address.

    Raises ConfigError where it cannot listen or a shop cannot be opened.
    """
    _check_dependencies()
    sweep_run_folders()
    with _background_jobs(plan), listen(host, port) as sock, StartingAnswers(sock) as starting:
        if plan.workers == 1:
            with contextlib.closing(_OpenShops(plan, several=False, say=say, on_compile=starting.compiling)) as opened:
                starting.stop()
                _show_address(say, opened, host, sock)
                opened.answer(sock)
            return 0

        def on_answering(host: str, port: int) -> None:
            starting.stop()
            say(f"{versions} at http://{host}:{port}, by {plan.workers} processes")

        # Errors are reported once, here. This process answers nothing, so it compiles nothing and follows no log.
        with contextlib.closing(_OpenShops(plan, several=True, say=say, serves=False)) as first:
            versions = first.versions
        with run_folder() as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "metrics")
            return supervise(
                work, dataclasses.asdict(dataclasses.replace(plan, shared=str(folder))), host, port, plan.workers,
                on_answering=on_answering, on_report=lambda said: starting.compiling(), sock=sock,
            )  # fmt: skip


def work(description: dict[str, Any], sock: socket.socket | None) -> None:
    """One worker of several: answers on a socket that all share."""
    assert sock is not None
    plan = Plan.from_state(description)
    with contextlib.ExitStack() as stack:
        if plan.shared is not None:  # also for the moment that a worker outlives its parent
            stack.enter_context(in_use(Path(plan.shared)))
        opened = stack.enter_context(contextlib.closing(_open_worker(plan)))
        supervisor.report(supervisor.READY)
        opened.answer(sock)


def _open_worker(plan: Plan) -> _OpenShops:
    """The shops of a worker, once their database server answers: until then it waits, for as long as it takes.

    The parent has opened the same stores, so a server that is away now comes back; a worker that ended instead would
    count as one that died, and a few such deaths end the service.
    """
    pause = RETRY_SECONDS
    while True:
        try:
            return _OpenShops(plan, several=True, say=None, on_compile=lambda: supervisor.report("compiling"))
        except StoreUnreachableError as error:
            log.warning("service: a worker waits: %s; it tries again in %g seconds", error.message, pause)
            time.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_SECONDS)


class _OpenShops:
    """The open shops of a plan.

    Parameters
    ----------
    say: called with new keys; None: in a worker, whose parent has shown them.
    on_compile: called when code has to be compiled, which takes a minute or more.
    serves: whether requests are to be answered; else the shops are only opened to see whether they can be.
    """

    def __init__(
        self, plan: Plan, *, several: bool, say: Callable[[str], None] | None, serves: bool = True,
        on_compile: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        from zhiyin.service import log_format
        from zhiyin.service.tenant import Tenant, distinct_names

        self.plan = plan
        self.shops: list[Tenant] = []
        log_format.configure(plan.log, access=plan.access_log)
        # LightGBM would import these where they are installed, for calls that the service never makes: that takes
        # seconds.
        absent = AbsentModules("pandas", "sklearn")
        shared = None if plan.shared is None else Path(plan.shared)
        settings_of_shops = plan.settings()
        self.names = distinct_names([settings.file.parent.resolve().name for settings in settings_of_shops])
        try:
            for name, settings in zip(self.names, settings_of_shops):
                with absent:
                    shop, new_keys = Tenant.open(
                        settings.file, several=several, store=plan.store, shared=shared, settings=settings,
                        serves=serves, on_compile=on_compile,
                    )  # fmt: skip
                self.shops.append(shop)
                if say is not None:
                    report(settings)
                    settings.save_last_good()
                _show_keys(say, name if len(self.names) > 1 else "", new_keys)
        except BaseException:
            self.close()
            raise

    @property
    def versions(self) -> str:
        versions = (
            (f"{name}: " if len(self.names) > 1 else "") + _version_of(shop)
            for name, shop in zip(self.names, self.shops)
        )
        return ", ".join(versions) + " answers"

    def answer(self, sock: socket.socket) -> None:
        from zhiyin.service.app import create_app
        from zhiyin.service.request_limits import Work

        # Several processes share the cores and the socket already.
        app = create_app(self.shops, Work(1, on_loop=True) if self.plan.workers > 1 else None)
        settings = [shop.settings for shop in self.shops]
        run(app, sock, [proxy for one in settings for proxy in one.proxies], max(one.connections for one in settings))

    def close(self) -> None:
        for shop in self.shops:
            shop.close()


def _version_of(shop: Any) -> str:
    view = shop.live.serving
    return "no version" if view is None else f"version {view.version}"


def run(app: Any, sock: socket.socket, proxies: Sequence[str] = (), of_one: int = 1_024) -> None:
    """Answer on a socket until SIGTERM or SIGINT; requests that have begun are ended.

    Parameters
    ----------
    proxies: addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are trusted.
    of_one: connections that any other address may have.
    """
    import uvicorn

    from zhiyin.service.connections import MAX_CONNECTIONS, SPARE_DESCRIPTORS, Connections, descriptors, limited

    files = descriptors()
    connections = Connections(min(MAX_CONNECTIONS, files - min(SPARE_DESCRIPTORS, files // 2)), of_one, proxies)

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # uvicorn's own raises them anew: a stop is no failure
            old = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for number, handler in old.items():
                    signal.signal(number, handler)

    settings = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=FINISH_SECONDS, server_header=False,
        ws="none", http=limited(connections), backlog=2_048, proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
    )  # fmt: skip
    # Loaded objects stay: scanning all of them for garbage would delay a request now and then.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    with contextlib.suppress(KeyboardInterrupt):
        Server(settings).run(sockets=[sock])


@contextlib.contextmanager
def _background_jobs(plan: Plan) -> Any:
    """Run the jobs beside answering: retraining at set times, deleting old data, and learning of policies."""
    from zhiyin.service.experiment_job import ExperimentJob
    from zhiyin.service.experiment_versions import versions_of_experiments
    from zhiyin.service.policy_learning_job import PolicyLearningJob
    from zhiyin.service.retention import RetentionJob
    from zhiyin.service.retrain import Retrainer

    with contextlib.ExitStack() as stack:
        for settings in plan.settings():
            section, home = settings.config.service, settings.file.parent
            schedule, store = plan.retrain or section.retrain, resolved(plan.store or section.store, home)
            if schedule is not None:
                bundles = Bundles(home / settings.config.train.output / "bundles")
                retrainer = Retrainer(
                    settings.file, schedule, section.train_budget, store=plan.store, bundles=bundles,
                    share=section.train_share,
                    used_versions=partial(versions_of_experiments, store),
                )  # fmt: skip
                stack.callback(retrainer.close)
            stack.callback(RetentionJob(store, section).close)
            stack.callback(PolicyLearningJob(store).close)
            experiments = ExperimentJob(store)
            stack.callback(experiments.close)
            if section.streams is not None:
                from zhiyin.service.stream_jobs import StreamJobs

                stack.callback(StreamJobs(settings.config, home, store).close)
        yield


def _show_keys(say: Callable[[str], None] | None, name: str, new_keys: dict[str, str]) -> None:
    if say is None or not new_keys:
        return
    for scope, key in new_keys.items():
        say(f"{name + ': ' if name else ''}{spoken(scope)}: {key}")
    say("keep them: they are shown this once. zhiyin key adds, lists and revokes keys while the service runs")


def spoken(scope: str) -> str:
    """What a first key is called for people."""
    return "key for pages" if scope == "page" else f"key to {scope}"


def _show_address(say: Callable[[str], None], opened: _OpenShops, host: str, sock: socket.socket) -> None:
    say(f"{opened.versions} at http://{host}:{sock.getsockname()[1]}, described at /docs, to be tried at /try")


def _check_dependencies() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise MissingExtraError("starlette", "serve", "the service") from None
