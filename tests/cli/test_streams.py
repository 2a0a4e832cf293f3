"""`zhiyin store stream`, `zhiyin stream load` and `zhiyin forget`: from the store through streams to their state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import polars as pl
import pytest

pytest.importorskip("sqlalchemy")

from tests.cli.conftest import Command
from tests.store.simulated_streams import commit_outputs
from zhiyin.data.event_schema import schema_of_weights
from zhiyin.engines.stream_loader import StreamLoader
from zhiyin.store.live_state import state_name
from zhiyin.store.records import Event
from zhiyin.store.segment_export import SegmentExporter
from zhiyin.store.segment_files import listed_segments
from zhiyin.store.store import Store
from zhiyin.store.stream_state import StreamState, open_stream_state

NOW = time.time_ns() // 1000 - 3_600_000_000
SETTINGS = '[service]\nstore = "shop.db"\nstreams = "sqlite:///state.db"\n'


@pytest.fixture
def store(zhiyin: Command, tmp_path: Path) -> Store:
    """alice, with an id that is found nowhere else by chance, and bob looked at the same items."""
    (tmp_path / "zhiyin.toml").write_text(SETTINGS)
    store = Store(tmp_path / "shop.db")
    users = ("alice-in-the-store", "bob")
    store.append([Event(user, f"i{n}", NOW + 1_000_000 * n, id=f"{user} {n}") for n in range(4) for user in users])
    return store


def state_of(store: Store, folder: Path) -> StreamState:
    return open_stream_state(f"sqlite:///{folder / 'state.db'}", state_name(store.address))


def test_who_is_forgotten_is_in_nothing_that_streams_computed(zhiyin: Command, store: Store, tmp_path: Path) -> None:
    assert "8 new rows" in zhiyin("store", "stream", "--once").stderr
    assert "0 new rows" in zhiyin("store", "stream", "streams", "--once", "--keep", "1d").stderr
    streams = tmp_path / "streams"
    commit_outputs(streams)
    assert "all events up to number 8" in zhiyin("stream", "load", "--once").stderr
    assert "\n0 rows" in "\n" + zhiyin("stream", "load", "--once").stderr
    with closing(state_of(store, tmp_path)) as state:
        events, mark = state.history("bob")
        assert (events, [event.seq for event in events], mark) == (store.history("bob"), [2, 4, 6, 8], 8)
        assert state.sessions("alice-in-the-store").rows() == [(NOW, NOW + 3_000_000, 4)]
        assert state.covisits(["i1"], 5)["other"].to_list() == ["i0", "i2", "i3"]
        assert state.trending(9)["item"].to_list() == ["i3", "i2", "i1", "i0"]
        zhiyin("forget", "alice-in-the-store", "--yes")
        # A job that was restored computes windows of before again, and more of the user is on its way.
        commit_outputs(streams, part="part-1")
        store.append([Event("alice-in-the-store", "i9", NOW + 9_000_000, id="again")])
        zhiyin("store", "stream", "--once")
        assert "8 rows" not in zhiyin("stream", "load", "--once").stderr
        assert state.history("alice-in-the-store")[0] == []
        assert state.sessions("alice-in-the-store").is_empty()
        assert len(state.history("bob")[0]) == 4
        (later,) = [segment for segment in listed_segments(streams, "events") if segment.first > 8]
        commit_outputs(streams, [later], part="part-2")
        zhiyin("stream", "load", "--once")
        assert [event.id for event in state.history("alice-in-the-store")[0]] == ["again"]
        assert state.mark == 9
    store.close()


@pytest.mark.parametrize("is_emptied", [True, False])
def test_a_new_state_learns_who_was_forgotten(zhiyin: Command, store: Store, tmp_path: Path, is_emptied: bool) -> None:
    """What is left of a user in files does not come back: the state is another one, or was emptied."""
    alice, streams = "alice-in-the-store", tmp_path / "streams"
    zhiyin("store", "stream", "--once")
    commit_outputs(streams)
    zhiyin("stream", "load", "--once")
    zhiyin("forget", alice, "--yes")
    store.append([Event(alice, "i9", NOW + 9_000_000, id="again")])
    zhiyin("store", "stream", "--once")
    (later,) = [segment for segment in listed_segments(streams, "events") if segment.first > 8]
    commit_outputs(streams, [later], part="part-2")
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    with closing(state_of(store, tmp_path)) as state:
        with StreamLoader(streams, state, store) as loader:
            for _ in range(1 + is_emptied):
                loader.run_once()
                assert [event.id for event in state.history(alice)[0]] == ["again"]
                assert state.sessions(alice)["n"].to_list() == [1]
                assert len(state.history("bob")[0]) == 4
                assert state.has_forgotten(alice)
                assert not state.has_forgotten("bob")
                with state._writing() as connection:  # type: ignore[attr-defined]
                    for table in ("forgotten", "files", "events", "sessions", "versions", "segments", "marks"):
                        connection.exec_driver_sql(f"DELETE FROM stream_{table}")
        if not is_emptied:  # nor by the command
            zhiyin("stream", "load", "--once")
            assert [event.id for event in state.history(alice)[0]] == ["again"]
    store.close()


def test_a_state_that_is_away_is_told_and_not_forgotten_of(zhiyin: Command, store: Store, tmp_path: Path) -> None:
    pytest.importorskip("redis")
    (tmp_path / "zhiyin.toml").write_text(SETTINGS.replace("sqlite:///state.db", "redis://:s3cret@127.0.0.1:1/0"))
    shown = zhiyin("forget", "bob", "--yes", code=1)
    assert "events\t4\t0" in shown.stdout
    assert "zhiyin forget again" in shown.stderr
    assert "s3cret" not in shown.output
    assert store.history("bob") == []
    assert "does not answer" in zhiyin("stream", "load", "--once", code=1).stderr
    store.close()


def test_what_is_missing_is_named(zhiyin: Command, store: Store, tmp_path: Path) -> None:
    (tmp_path / "zhiyin.toml").write_text('[service]\nstore = "shop.db"\n')
    assert "streams =" in zhiyin("stream", "load", "--once", code=1).stderr
    with SegmentExporter(store, tmp_path / "streams", lambda: schema_of_weights((), {})):
        shown = zhiyin("store", "stream", "--once", code=1).stderr
    assert "another exporter" in shown
    store.close()


COMMANDS = [
    ("store", "stream", "--once"),
    ("stream", "load", "--once"),
    ("stream", "start"),
    ("stream", "start", "--engine", "flink://127.0.0.1:1"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("folder", ["a-file", "a-file/streams", "/proc/streams"])
def test_a_folder_that_cannot_be_used_is_named_with_its_key(
    zhiyin: Command,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    folder: str,
) -> None:
    monkeypatch.setenv("ZHIYIN_FLINK_PYTHON", sys.executable)
    (tmp_path / "a-file").write_text("not a folder")
    (tmp_path / "zhiyin.toml").write_text(f'{SETTINGS}[streams]\nfolder = "{folder}"\n')
    error, remedy = zhiyin(*command, code=1).stderr.strip().splitlines()
    assert folder.removesuffix("/streams") in error
    assert "[streams] folder cannot be used" in error
    assert "DIR" in remedy
    store.close()


def test_segments_are_not_kept_for_a_state_that_cannot_become_complete(
    zhiyin: Command, store: Store, tmp_path: Path
) -> None:
    def export() -> list[int]:
        zhiyin("store", "stream", "--once", "--keep", "1d")
        return [segment.first for segment in listed_segments(tmp_path / "streams", "events")]

    assert export() == [1]
    store.append([Event("bob", "i9", NOW + 9_000_000, id="later")])
    old = time.time() - 2 * 86_400
    for path in (tmp_path / "streams" / "events").iterdir():
        os.utime(path, (old, old))
    assert export() == [1, 9]  # histories lack them still
    with closing(state_of(store, tmp_path)) as state:
        state.set_incomplete()
    assert export() == [9]
    store.close()


def test_a_folder_below_the_one_of_streams_may_be_a_file_too(zhiyin: Command, store: Store, tmp_path: Path) -> None:
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams" / "events").write_text("")
    shown = zhiyin("store", "stream", "--once", code=1).stderr
    assert "streams/events: [streams] folder cannot be used" in shown
    (tmp_path / "zhiyin.toml").write_text('[service]\nstore = "shop.db"\nstreams = "sqlite:///shop.db/state.db"\n')
    assert "[service] streams" in zhiyin("stream", "load", "--once", code=1).stderr
    store.close()


def test_a_full_disk_is_one_line_and_leaves_no_draft(
    zhiyin: Command, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(frame: pl.DataFrame, file: BinaryIO) -> None:
        file.write(b'{"seq"')
        raise OSError("No space left on device (os error 28)")  # as polars raises it, without a number

    with monkeypatch.context() as patched:
        patched.setattr(pl.DataFrame, "write_ndjson", write)
        error, remedy = zhiyin("store", "stream", "--once", code=1).stderr.strip().splitlines()
    assert "No space left" in error
    assert "room" in remedy
    assert not list((tmp_path / "streams" / "events").iterdir())
    assert "8 new rows" in zhiyin("store", "stream", "--once").stderr
    store.close()


def test_streams_have_a_database_of_their_own(
    zhiyin: Command, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of the settings, and not that of the variable either."""
    refused = "service.streams is the database of the store itself"
    (tmp_path / "link.db").symlink_to("shop.db")
    for address in ("sqlite:///shop.db", "sqlite:///./link.db", f"sqlite:///{tmp_path}/shop.db"):
        (tmp_path / "zhiyin.toml").write_text(f'[service]\nstore = "shop.db"\nstreams = "{address}"\n')
        for command in (("stream", "load", "--once"), ("store", "stream", "--once"), ("forget", "bob", "--yes")):
            shown = zhiyin(*command, code=1).stderr
            assert f"zhiyin.toml, line 3: {refused}" in shown
    (tmp_path / "zhiyin.toml").write_text('[service]\nstore = "another.db"\nstreams = "sqlite:///shop.db"\n')
    monkeypatch.setenv("ZHIYIN_STORE", "shop.db")
    for command in (("stream", "load", "--once"), ("forget", "bob", "--yes")):
        assert refused in zhiyin(*command, code=1).stderr
    assert len(store.history("bob")) == 4
    with store.reading() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
    assert not [name for name in tables if name.startswith("stream_")]
    store.close()


def test_weights_are_those_of_the_version_in_use(zhiyin: Command, log: Path, tmp_path: Path) -> None:
    """Read without loading the model; without a version, those of [weights], else the usual ones."""
    import zhiyin as library
    from zhiyin.cli.project import open_project
    from zhiyin.cli.streams import event_schema_in_use
    from zhiyin.models.popularity import Popular
    from zhiyin.pipeline.model_versions import Bundles

    settings = tmp_path / "zhiyin.toml"
    settings.write_text('[weights]\n"buy" = 7\n')
    schema = event_schema_in_use(open_project(settings))
    assert list(schema.weights(["buy", "view"], None)) == [7.0, 0.0]
    settings.write_text("")
    assert list(event_schema_in_use(open_project(settings)).weights(["buy", "view"], None)) == [5.0, 1.0]
    model = Popular().fit(library.read(log, weights={"event": 2.5}))
    project = open_project(settings)
    bundles = Bundles(project.home / project.config.train.output / "bundles")
    bundles.promote(bundles.write(model, figures={}).version, "by hand")
    schema = event_schema_in_use(project)
    assert schema == model.context_.schema
    assert list(schema.weights(["event", "view"], None)) == [2.5, 0.0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_export_and_leaves_all_whole(store: Store, tmp_path: Path, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "zhiyin.cli.main", "store", "stream", "--every", "0.05s"], cwd=tmp_path,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        for n in range(3):
            store.append([Event("carol", "x", NOW + n, id=f"carol {n}")])
            while sum(segment.rows for segment in listed_segments(tmp_path / "streams", "events")) < 9 + n:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
        process.send_signal(number)
        _, shown = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, shown
    assert "up to number 11 are exported" in shown
    assert not list((tmp_path / "streams" / "events").glob(".*"))
    store.close()
