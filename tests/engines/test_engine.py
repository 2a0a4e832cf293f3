"""The engine itself: tasks, exchanges, failures in one line, Ctrl-C, and the commands that use it."""

from __future__ import annotations

import filecmp
import json
import operator
import os
import signal
import threading
import time
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from zhiyin.cli.main import app
from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ConfigError, EngineError, MissingExtraError
from zhiyin.core.run import Run
from zhiyin.engines import open_engine
from zhiyin.models.state_files import TRAINING_LOG_FILE
from zhiyin.testing.recommender import shop

if TYPE_CHECKING:
    import pyarrow as pa

    from zhiyin.engines.spark.engine import SparkEngine

QUIET = Run(progress=False)


def test_tasks_have_their_results_in_order(spark: SparkEngine) -> None:
    assert spark.run_tasks(partial(operator.mul, 3), [5, 1, 4], QUIET, "multiplying") == [15, 3, 12]
    assert spark.run_tasks(len, [], QUIET, "nothing") == []


def _digits(task: list[int]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    rows = {"target": pa.array([n % 4 for n in task], pa.int32()), "number": pa.array(task, pa.int64())}
    yield pa.RecordBatch.from_pydict(rows)


def _collect(target: int, rows: pa.Table) -> list[int]:
    return [target, *sorted(rows.column("number").to_pylist())]


def test_an_exchange_brings_each_row_to_its_target_once(spark: SparkEngine) -> None:
    schema = "target int, number long"
    received = spark.exchange(_digits, [[1, 5, 4], [], [9, 2]], schema, _collect, 4, QUIET, "sorting")
    assert received == [[0, 4], [1, 1, 5, 9], [2, 2], [3]]


def test_an_error_of_a_task_is_the_error_itself(spark: SparkEngine) -> None:
    with pytest.raises(ConfigError) as expected:
        microseconds("soon")
    with pytest.raises(ConfigError) as raised:
        spark.run_tasks(microseconds, ["1d", "soon"], QUIET, "durations")
    assert str(raised.value) == str(expected.value)


def test_another_failure_is_one_line_with_the_job_and_the_first_cause(spark: SparkEngine) -> None:
    with pytest.raises(EngineError) as raised:
        spark.run_tasks(partial(operator.truediv, 1), [1, 0], QUIET, "dividing")
    assert raised.value.message == "dividing: ZeroDivisionError: division by zero"


def _touch_and_wait(folder: str, task: int) -> None:
    Path(folder, f"{task}.begun").touch()
    time.sleep(120)


def test_ctrl_c_ends_the_job_and_the_session_goes_on(spark: SparkEngine, tmp_path: Path) -> None:
    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*.begun")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        spark.run_tasks(partial(_touch_and_wait, str(tmp_path)), [1, 2, 3], QUIET, "waiting")
    thread.join()
    assert time.monotonic() - begun < 100
    tracker, deadline = spark.session.sparkContext.statusTracker(), time.monotonic() + 30
    while tracker.getActiveJobsIds() and time.monotonic() < deadline:  # its status follows after it has ended
        time.sleep(0.05)
    assert list(tracker.getActiveJobsIds()) == []
    assert spark.run_tasks(abs, [-1], QUIET, "after") == [1]


def test_the_bar_counts_tasks(spark: SparkEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    class Recorded:
        def __init__(self, label: str, total: int | None) -> None:
            assert (label, total) == ("counting", 6)

        def advance(self, n: int, note: str = "") -> None:
            steps.append(n)

        def close(self) -> None:
            pass

    monkeypatch.setattr("zhiyin.core.run._Bar", Recorded)
    spark.run_tasks(time.sleep, [0.2] * 6, Run(progress=True), "counting")
    assert len(steps) >= 1
    assert sum(steps) <= 6


def test_a_process_has_one_session(spark: SparkEngine) -> None:
    with pytest.raises(ConfigError, match="session of Spark"):
        open_engine("local[1]")
    assert spark.run_tasks(abs, [-2], QUIET, "after") == [2]


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=40).flatmap(
        lambda work: st.tuples(st.just(work), st.integers(1, len(work)))
    )
)
def test_bounds_of_blocks_cover_all_rows_and_leave_none_empty(case: tuple[list[int], int]) -> None:
    from zhiyin.engines.spark.event_log import equal_bounds

    work, n_blocks = case
    bounds = equal_bounds(np.array(work), n_blocks)
    assert len(bounds) == n_blocks + 1
    assert (bounds[0], bounds[-1]) == (0, len(work))
    assert (np.diff(bounds) >= 1).all()


def test_addresses_folders_and_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="address of no engine"):
        open_engine("flank://host")
    with pytest.raises(ConfigError, match="folder"):
        open_engine("spark://host:7077")
    with pytest.raises(ConfigError, match="host and port"):
        open_engine("spark://host", tmp_path)
    for scheme in ("spark", "sc"):
        with pytest.raises(EngineError, match=r"127\.0\.0\.1:1"):
            open_engine(f"{scheme}://127.0.0.1:1", tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(__import__("sys").modules, "pyspark", None)
    with pytest.raises(MissingExtraError, match="pyspark"):
        open_engine("local[2]")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a Parquet log and a catalogue with prices."""
    data = shop(seed=3)
    users, items = data.user_ids.values, data.item_ids.values
    data.events.select(
        users.gather(data.events["user"]).alias("user_id"), items.gather(data.events["item"]).alias("item_id"),
        (pl.col("time") + microseconds("50y")).cast(pl.Datetime("us")),
    ).write_parquet(tmp_path / "events.parquet")  # fmt: skip
    pl.DataFrame({"item_id": items, "price": np.arange(len(items)) % 5}).write_parquet(tmp_path / "items.parquet")
    (tmp_path / "zhiyin.toml").write_text(
        '[data]\nsource = "events.parquet"\nitems = "items.parquet"\n'
        '[train]\nmodels = ["als:factors=4,epochs=2"]\n[evaluate]\nk = [5]\nbootstrap = 20\n'
    )
    return tmp_path


@pytest.fixture
def shared_session(spark: SparkEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands get the session of the tests, which they do not end."""
    from zhiyin.engines.spark.engine import SparkEngine

    monkeypatch.setattr(SparkEngine, "open", classmethod(lambda cls, *arguments: spark))
    monkeypatch.setattr(SparkEngine, "close", lambda self: None)


def invoke(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.usefixtures("shared_session")
def test_commands_on_an_engine_do_what_they_do_here(project: Path) -> None:
    config, engine = ("--config", str(project / "zhiyin.toml")), ("--engine", "local[2]")
    invoke("train", *config, "--output", str(project / "here"))
    invoke("train", *config, *engine, "--output", str(project / "there"))
    names = {path.name for path in (project / "here" / "als").iterdir()} - {TRAINING_LOG_FILE}
    for name in sorted(names):
        assert (project / "here" / "als" / name).read_bytes() == (project / "there" / "als" / name).read_bytes(), name
    lists = (
        "recommend",
        "--all",
        "-k",
        "3",
        "--filter",
        "price > 1",
        "--model",
        str(project / "there" / "als"),
        *config,
    )
    invoke(*lists, "--output", str(project / "here.parquet"))
    invoke(*lists, *engine, "--output", str(project / "there.parquet"))
    here, there = (pl.read_parquet(project / f"{name}.parquet") for name in ("here", "there"))
    assert_frame_equal(here, there, check_exact=True)
    figures = []
    for extra in ((), engine):
        invoke("evaluate", *config, *extra, "--output", str(project / "report"))
        models = json.loads((project / "report" / "evaluation.json").read_text())["models"]
        figures.append([(model["name"], model["metrics"], model["intervals"]) for model in models])
    assert figures[0] == figures[1]
    checked = []
    for name, extra in (("here", ()), ("there", engine)):
        invoke("sessions", str(project / f"{name}-sessions.parquet"), "--gap", "2d", *config, *extra)
        checked.append(json.loads(invoke("check", "--json", *config, *extra).stdout))
    here, there = (pl.read_parquet(project / f"{name}-sessions.parquet") for name in ("here", "there"))
    assert len(here) > here["user"].n_unique()
    assert_frame_equal(here, there, check_exact=True)
    assert checked[0] == checked[1]


def timeless(value: Any) -> Any:
    """A report without the seconds that each step took."""
    if isinstance(value, dict):
        return {name: timeless(part) for name, part in value.items() if "seconds" not in name}
    return [timeless(part) for part in value] if isinstance(value, list) else value


@pytest.mark.usefixtures("shared_session")
def test_a_version_within_a_budget_is_that_of_one_process(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the same is chosen: the clock stands still, and tuning makes two trials."""
    from zhiyin.cli import command_clock
    from zhiyin.pipeline import automl, time_budget
    from zhiyin.pipeline.model_versions import Bundles

    texts = ("popular", "itemknn", "als:factors=4,epochs=1")
    sources = [automl.SuitableSource(text, "fixed", text == "itemknn") for text in texts]
    tune = automl.tune
    monkeypatch.setattr(automl, "suitable_sources", lambda data, budget: sources)
    monkeypatch.setattr(automl, "WINDOWS", 2)
    monkeypatch.setattr(automl, "SHARE", 0.2)
    monkeypatch.setattr(automl, "tune", lambda *given, **named: tune(*given, **named | {"trials": 2, "timeout": None}))
    for module in (time_budget, command_clock):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: 0.0))
    config = ("--config", str(project / "zhiyin.toml"))
    invoke("train", "--budget", "60s", *config, "--output", str(project / "here"))
    result = invoke("train", "--budget", "60s", *config, "--output", str(project / "there"), "--engine", "local[2]")
    assert "fitted on local[2]: itemknn" in result.output
    assert "fitted by this process, for they have no job there: popular" in result.output
    here, there = (Bundles(project / name / "bundles").get(1) for name in ("here", "there"))
    names, others = (
        sorted(str(path.relative_to(one.folder)) for path in one.folder.rglob("*")
               if path.is_file() and path.name != TRAINING_LOG_FILE)
        for one in (here, there)
    )  # fmt: skip
    assert names == others
    equal, different, errors = filecmp.cmpfiles(here.folder, there.folder, names, shallow=False)
    assert set(different) <= {"bundle.json", "report.json", "model/model.json"}  # the last two hold the report
    assert not errors
    assert timeless(here.report()) == timeless(there.report())
    manifests = [json.loads((one.folder / "model" / "model.json").read_text()) for one in (here, there)]
    assert timeless(manifests[0]) == timeless(manifests[1])
    assert len(equal) > 10
    assert len(here.load().sources_) == len(texts)


def test_options_of_an_engine_need_one(project: Path) -> None:
    config = ("--config", str(project / "zhiyin.toml"))
    result = CliRunner().invoke(app, ["train", *config, "--engine-option", "spark.executor.memory=1g"])
    assert result.exit_code == 1
    assert "--engine" in result.output
    result = CliRunner().invoke(app, ["check", *config, "--serving", "--engine", "local[2]"])
    assert result.exit_code == 1
    assert "--serving" in result.output


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9)), max_size=30))
def test_packed_rows_keep_their_order_within_a_target(rows: list[tuple[int, int]]) -> None:
    pa = pytest.importorskip("pyarrow")
    from zhiyin.engines.spark.packed_rows import pack, unpack

    targets, numbers = (np.array([row[at] for row in rows], dtype=np.int32) for at in (0, 1))
    batches = list(pack(targets, {"number": numbers}))
    assert len(batches) == len(set(targets.tolist()))
    for batch in batches:
        target = batch.column(0)[0].as_py()
        received = unpack(pa.Table.from_batches([batch]), {"number": np.int32})["number"]
        assert received.tolist() == [number for to, number in rows if to == target]
