"""Training beside the service: at the right moments, alone, whole or not at all, and never in the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cronsim")

from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.errors import ConfigError
from zhiyin.pipeline.model_versions import Bundles, BusyError, checksum
from zhiyin.service import training_share
from zhiyin.service.retrain import MAX_LOG_BYTES, Retrainer, Schedule, _RotatingLog
from zhiyin.store.records import Event
from zhiyin.store.store import Store

DAY = 86_400_000_000
T0 = 1_700_000_000_000_000
moments = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# -- when -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "after", "then"),
    [
        ("6h", "2026-05-01 22:30:00.5", "2026-05-02 04:30:00.5"),
        ("0 3 * * *", "2026-05-01 02:59:59.999999", "2026-05-01 03:00"),
        ("0 3 * * *", "2026-05-01 03:00", "2026-05-02 03:00"),
        ("*/15 * * * *", "2026-12-31 23:50", "2027-01-01 00:00"),
        ("30 4 * * SUN", "2026-05-01 00:00", "2026-05-03 04:30"),
        ("0 0 29 2 *", "2026-01-01 00:00", "2028-02-29 00:00"),
        ("0 0 31 * *", "2026-04-01 00:00", "2026-05-31 00:00"),
        ("0 12 1 * MON", "2026-05-02 00:00", "2026-05-04 12:00"),  # the first of a month, or a Monday
    ],
)
def test_known_moments(text: str, after: str, then: str) -> None:
    assert Schedule.parse(text).next(at(after)) == at(then)


@given(
    st.sampled_from(
        ["1m", "90m", "6h", "1d", "0 3 * * *", "*/7 1-5,23 * * *", "0 0 L * *", "1 2 3 4 *", "5 4 * 2 5#5"]
    ),
    moments,
)
def test_next_is_always_later(text: str, after: datetime) -> None:
    schedule = Schedule.parse(text)
    then = schedule.next(after)
    assert then > after
    assert then.utcoffset() == timedelta(0)
    assert schedule.next(then) > then
    if schedule.every is None:  # nothing lies between
        assert schedule.next(then - timedelta(seconds=1)) == then


@pytest.mark.parametrize(
    "text",
    ["", "often", "0s", "10s", "99999999y", "20y", "0 3 * *", "0 0 3 * * *", "60 3 * * *", "0 24 * * *", "0 0 30 2 *",
     "@daily", "0 3 * * * ; rm"],
)  # fmt: skip
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Schedule.parse(text)
    assert caught.value.remedy


def test_what_was_missed() -> None:
    last, opened = at("2026-05-01 03:00"), at("2026-05-04 09:30")
    assert Schedule.parse("6h").due(last, opened) < opened  # at once
    assert Schedule.parse("6h").due(None, opened) == opened + timedelta(hours=6)
    assert Schedule.parse("0 3 * * *").due(last, opened) == at("2026-05-05 03:00")  # not in the middle of the day
    assert Schedule.parse("0 3 * * *").due(None, opened) == at("2026-05-05 03:00")


# -- trainings --------------------------------------------------------------------------------------------------------

NEVER = Schedule("0 0 29 2 *")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A project whose store has heard of two tastes; no files."""
    store = Store(tmp_path / "store.db")
    store.append([
        Event(f"u{u}", f"i{2 * ((u // 2 + 3 * step) % 10) + u % 2}", T0 + step * DAY + u) for u in range(40)
        for step in range(6)
    ])  # fmt: skip
    store.put("items", {f"i{n}": {"title": f"Film {n}"} for n in range(20)} | {"new": {"title": "Film 20"}})
    store.close()
    (tmp_path / "zhiyin.toml").write_text('[service]\nstore = "store.db"\n')
    return tmp_path


class Trainer(Retrainer):
    """Runs what a test says instead of a training."""

    script = ""

    def _command(self) -> list[str]:
        return [sys.executable, "-c", self.script] if self.script else super()._command()


@pytest.fixture
def open_one(home: Path) -> Iterator[Callable[..., Trainer]]:
    opened: list[Trainer] = []

    def make(script: str = "", schedule: Schedule = NEVER, budget: str = "4s", **more: Any) -> Trainer:
        kind = type("Scripted", (Trainer,), {"script": script})
        opened.append(kind(home / "zhiyin.toml", schedule, budget, **more))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def until(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.01)
    return found


def free(bundles: Bundles) -> bool:
    """Whether nobody holds the lock."""
    try:
        with bundles.training():
            return True
    except BusyError:
        return False


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that has other work a training would wait for its end."""
    monkeypatch.setattr("zhiyin.service.retrain._lower_priority", lambda pid: None)


@pytest.mark.slow
@pytest.mark.usefixtures("hurried")
def test_trains_promotes_and_knows_what_is_new(home: Path, open_one: Callable[..., Trainer]) -> None:
    done: list[dict[str, Any]] = []
    one = open_one(on_done=done.append)
    assert one.status()["outcome"] is None
    one.now()
    until(lambda: done, 180)
    log = (home / "models/bundles/retrain.log").read_text()
    assert done[0]["outcome"] in ("promoted", "kept"), (done, log)
    assert "240 events of the store" in log
    assert (home / "models/bundles/retrain.log").stat().st_mode & 0o077 == 0
    # A first version is in use where it beats what is popular: here tastes are plain.
    assert done[0]["outcome"] == "promoted", log
    assert done[0]["version"] == 1
    assert "ndcg@10" in done[0]["message"]
    bundle = one.bundles.current
    assert bundle is not None
    known = bundle.load()._context()
    assert known.item_ids.encode(["new"])[0] >= 0
    assert not one.status()["running"]
    assert json.loads((home / "models/bundles/retrain.json").read_text())["outcome"] == "promoted"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="priorities as Linux has them")
def test_runs_when_due_out_of_the_way(home: Path, open_one: Callable[..., Trainer]) -> None:
    script = f"""
import os, sys, time
until = time.monotonic() + 30
while os.getpriority(os.PRIO_PROCESS, 0) < 10 and time.monotonic() < until:
    time.sleep(.01)
while open("/proc/self/oom_score_adj").read().strip() != "1000" and time.monotonic() < until:
    time.sleep(.01)
score = open("/proc/self/oom_score_adj").read().strip()
idle = os.sched_getscheduler(0) == os.SCHED_IDLE
with open("{home}/seen", "a") as seen:
    print(os.nice(0), idle, os.environ["OMP_NUM_THREADS"], os.getpgid(0) == os.getpid(), score, file=seen)
"""
    one = open_one(script, Schedule("0.1s", timedelta(seconds=0.1)))
    seen = home / "seen"
    until(lambda: seen.exists() and len(seen.read_text().splitlines()) >= 2)
    assert set(seen.read_text().splitlines()) == {"10 False 1 True 1000"}
    status = one.status()
    assert status["schedule"] == "0.1s"
    assert datetime.fromisoformat(status["next"]).utcoffset() == timedelta(0)


def test_the_real_command(home: Path, open_one: Callable[..., Trainer]) -> None:
    one = open_one()
    words = one._command()
    assert words[:3] == ["nice", "-n", "10"]
    assert words[words.index("-m") + 1 :] == [
        "zhiyin.service.training_process", "train", "--budget", "4s", "--json", "--threads", str(one.threads),
        "--config", str(home / "zhiyin.toml"),
    ]  # fmt: skip
    one.store = "postgresql://u:secret@h/d"
    assert "secret" not in " ".join(one._command())
    assert one._environment(5)["ZHIYIN_STORE"] == one.store


def test_a_failing_training_is_told_and_tried_again(home: Path, open_one: Callable[..., Trainer]) -> None:
    done: list[dict[str, Any]] = []
    script = "import sys; print('one\\ntwo\\nthe disk is full', file=sys.stderr); sys.exit(1)"
    one = open_one(script, Schedule("0.05s", timedelta(seconds=0.05)), on_done=done.append)
    until(lambda: len(done) >= 2)
    assert done[0]["outcome"] == "failed"
    assert done[0]["message"] == "exit code 1: one | two | the disk is full"
    one.close()
    assert one.status()["next"] is None


def test_a_crash_is_a_failure(open_one: Callable[..., Trainer]) -> None:
    one = open_one("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    one.now()
    assert until(lambda: one.status()["outcome"]) == "failed"
    assert "signal 11" in one.status()["message"]


def test_one_that_never_ends_is_ended(open_one: Callable[..., Trainer]) -> None:
    one = open_one("import time; time.sleep(600)")
    one.limit = 0.3
    one.now()
    assert until(lambda: one.status()["outcome"]) == "failed"
    assert "did not end" in one.status()["message"]


def test_ended_in_the_middle_leaves_nothing(home: Path, open_one: Callable[..., Trainer]) -> None:
    """A draft is written, its child works on, SIGTERM is not enough for either; still close() leaves nothing."""
    folder = home / "models/bundles"
    script = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.makedirs(f"{folder}/.0001.{{os.getpid()}}.draft/model")
open(f"{folder}/.current.{{os.getpid()}}.ab.draft", "w").write("1")
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("{home}/inner", "w").write(str(inner.pid))
os.rename("{home}/inner", "{home}/pid")
time.sleep(600)
"""
    one = open_one(script)
    one.now()
    until(lambda: (home / "pid").exists())
    assert one.status()["running"]
    assert list(folder.glob(".0001.*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zhiyin.service.retrain.GRACE_SECONDS", 0.3)
        one.close()
    assert one.status()["outcome"] == "stopped"
    assert not one.status()["running"]
    assert sorted(path.name for path in folder.iterdir()) == [".training", "retrain.json", "retrain.log"]
    inner = int((home / "pid").read_text())
    until(lambda: not Path(f"/proc/{inner}").exists() or " Z " in Path(f"/proc/{inner}/stat").read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("hurried")
def test_a_training_that_is_killed_leaves_the_old_version(home: Path, open_one: Callable[..., Trainer]) -> None:
    """The real command: its group is sent SIGTERM while it learns."""
    folder = home / "models/bundles"
    _empty_version(folder, 1)
    Bundles(folder).promote(1)
    one = open_one(budget="600s")
    one.now()
    child = until(lambda: one._child)
    until(lambda: "Dataset(240 events" in (folder / "retrain.log").read_text(), 120)
    os.killpg(child.pid, signal.SIGTERM)
    assert until(lambda: one.status()["outcome"]) == "failed"
    assert "signal 15" in one.status()["message"]
    assert Bundles(folder).current.version == 1  # type: ignore[union-attr]
    assert Bundles(folder).versions() == [1]
    assert not list(folder.glob(".*draft*"))
    until(lambda: free(Bundles(folder)))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals as Linux has them")
def test_a_training_ends_with_a_service_that_is_killed_while_it_is_stopped(home: Path, tmp_path: Path) -> None:
    """kill -9 of the service between SIGSTOP and SIGCONT: nobody is left to continue the training."""
    waits = tmp_path / "training.py"
    waits.write_text(f"""
import os, threading
from zhiyin.service.training_process import PARENT, end_with_parent
end_with_parent(int(os.environ[PARENT]))
with open({str(tmp_path / "ready")!r}, "w"):
    pass
threading.Event().wait()
""")
    service = f"""
import sys, threading
from pathlib import Path
from zhiyin.service import retrain, training_share
training_share.FIRST_SHARE = training_share.MIN_SHARE = training_share.INCREASE = 1e-9
training_share.TURN_SECONDS = 1_000.0
class Trainer(retrain.Retrainer):
    def _command(self):
        return [sys.executable, {str(waits)!r}]
    def _train(self, lock):
        retrain.TrainingShare.start = lambda share: (
            threading.Thread(target=lambda: (ready.wait(), share.run()), daemon=True).start())
        return super()._train(lock)
ready = threading.Event()
trainer = Trainer(Path({str(home / "zhiyin.toml")!r}), retrain.Schedule("0 0 29 2 *"))
trainer.now()
while not Path({str(tmp_path / "ready")!r}).exists():
    ready.wait(0.01)
print(trainer._child.pid, flush=True)
ready.set()
threading.Event().wait()
"""
    process = subprocess.Popen([sys.executable, "-c", service], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        until(lambda: process.poll() is None and state_of(pid) == "T")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    until(lambda: state_of(pid) in ("", "Z"))
    until(lambda: free(Bundles(home / "models/bundles")))


def state_of(pid: int) -> str:
    """R running, S sleeping, T stopped, Z ended and not waited for; empty: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals as Linux has them")
def test_a_stopped_training_ends_with_the_service(
    open_one: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_SHARE", "MIN_SHARE", "INCREASE"):
        monkeypatch.setattr(training_share, name, 1e-9)
    monkeypatch.setattr(training_share, "TURN_SECONDS", 1_000.0)
    one = open_one("import time; time.sleep(600)")
    one.now()
    child = until(lambda: one._child)
    until(lambda: state_of(child.pid) == "T")
    one.close()
    assert one.status()["outcome"] == "stopped"
    assert child.returncode == -signal.SIGTERM


def test_the_lock_refuses_the_second(home: Path, open_one: Callable[..., Trainer], tmp_path: Path) -> None:
    script = f"import os; open('{tmp_path}/ran', 'a').write('x'); "
    script += f"[__import__('time').sleep(.01) for _ in iter(lambda: os.path.exists('{tmp_path}/go'), True)]"
    every = Schedule("0.05s", timedelta(seconds=0.05))
    one = open_one(script)
    one.now()
    until(lambda: (tmp_path / "ran").exists() and (tmp_path / "ran").read_text() == "x")
    with pytest.raises(BusyError), one.bundles.training():
        pass
    other = open_one(script, every)
    until(lambda: other._tried is not None)
    assert (tmp_path / "ran").read_text() == "x"
    assert not other.status()["running"]
    other.close()
    (tmp_path / "go").touch()
    until(lambda: free(one.bundles))
    with one.bundles.training() as held:
        assert os.fstat(held).st_ino == (home / "models/bundles/.training").stat().st_ino


def test_two_services_train_once(home: Path, open_one: Callable[..., Trainer], tmp_path: Path) -> None:
    script = f"open('{tmp_path}/ran', 'a').write('x')"
    schedule = Schedule("1s", timedelta(seconds=1))
    one, other = open_one(script, schedule), open_one(script, schedule)
    until(lambda: (tmp_path / "ran").exists() and (one.status()["ended"] or other.status()["ended"]))
    first = one._last()["started"]
    until(lambda: one._last()["started"] != first)
    one.close()
    other.close()
    gap = datetime.fromisoformat(one._last()["started"]) - datetime.fromisoformat(first)
    assert gap >= timedelta(seconds=1) - timedelta(milliseconds=2)


def _empty_version(bundles: Path, version: int) -> None:
    """A sealed folder that holds no model that could be loaded."""
    model = bundles / f"{version:04}" / "model" / "model.json"
    model.parent.mkdir(parents=True)
    model.write_text("{}")
    said = {"format": 1, "files": {"model/model.json": checksum(model)}, "made": "2026-01-01T00:00:00"}
    (bundles / f"{version:04}" / "bundle.json").write_text(json.dumps(said))


def test_old_versions_leave(tmp_path: Path) -> None:
    bundles = Bundles(tmp_path)
    for version in range(1, 11):
        _empty_version(tmp_path, version)
    for version in (1, 2, 3):
        bundles.promote(version)
    assert bundles.prune(5) == [1, 4, 5]
    assert bundles.versions() == [2, 3, 6, 7, 8, 9, 10]
    assert bundles.rollback().version == 2
    assert bundles.prune(1) == [3, 6, 7, 8, 9]
    assert bundles.versions() == [2, 10]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0002", "0010", "current", "promotions.jsonl"]


def test_the_log_is_bounded(tmp_path: Path) -> None:
    kept = _RotatingLog(tmp_path / "retrain.log")
    for _ in range(40):
        kept.write(b"x" * 65_535 + b"\n")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"retrain.log", "retrain.log.1"}
    assert max(sizes.values()) <= MAX_LOG_BYTES
    assert len(kept.end()) <= 500
