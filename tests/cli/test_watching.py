"""A training that one can watch: lines in a pipe, a table on a terminal, Ctrl-C that loses nothing."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from tests.cli.conftest import Command
from zhiyin.cli.training_display import EpochTable, epoch_line
from zhiyin.data.reading import read
from zhiyin.models.loading import load
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline

SASREC = "sasrec:factors=8,max_len=6,batch_size=8"


@pytest.fixture
def project(zhiyin: Command, log: Path) -> Path:
    zhiyin("init", "events.csv", "--items", "items.csv")
    return log.parent


# -- in a pipe ----------------------------------------------------------------------------------------------------


def test_a_line_an_epoch_and_why_it_stopped(zhiyin: Command, project: Path) -> None:
    said = zhiyin("train", f"{SASREC},epochs=40,patience=2", "als:epochs=3", "slim", "--json")
    assert [one["model"] for one in json.loads(said.stdout)] == ["SASRec", "ALS", "SLIM"]  # nothing else on stdout
    lines = said.stderr.splitlines()
    log = load(project / "models" / "sasrec").training_log_
    of_sasrec = [line for line in lines if line.startswith("SASRec: epoch")]
    assert len(of_sasrec) == len(log)
    for line, row in zip(of_sasrec, log):
        assert line.startswith(f"SASRec: epoch {row['epoch']}/40  loss {row['loss']:.4f}  valid loss ")
        assert f"ndcg@10 {row['ndcg@10']:.4f}  learning rate 0.001" in line
        assert re.search(r"  [\d.]+ s  [\d,]+ events/s$", line)
    best = log[-1]["best_epoch"]
    figure = f"(ndcg@10 {log[best - 1]['ndcg@10']:.4g})"
    assert len(log) == best + 2 < 40
    assert f"SASRec: stopped at epoch {len(log)}: no better for 2 epochs, best {best} {figure}" in lines
    assert [line.split()[2] for line in lines if line.startswith("ALS: epoch")] == ["1/3", "2/3", "3/3"]
    assert "ALS: all 3 epochs, no validation part: the last one counts" in lines
    assert sum(line.startswith("SLIM: epoch 1/1  loss ") for line in lines) == 1


def test_quiet_says_nothing_of_epochs(zhiyin: Command, project: Path) -> None:
    assert "epoch 1/2" not in zhiyin("--quiet", "train", "als:epochs=2").stderr


def test_a_line_shows_what_there_is() -> None:
    news = {"model": "Any", "epoch": 2, "loss": 12345.678, "valid_loss": None, "rmse": 0.90514, "seconds": 3.0}
    assert epoch_line(news, 2.04) == "Any: epoch 2  loss 1.235e+04  rmse 0.9051  2.0 s"


# -- on a terminal ------------------------------------------------------------------------------------------------


def on_a_terminal(command: list[str], folder: Path, columns: int = 120) -> str:
    """What a command writes to a terminal of that width."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "50"}
    done = subprocess.Popen(command, cwd=folder, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    written = b""
    while True:
        if not select.select([leader], [], [], 120)[0]:
            done.kill()
            raise AssertionError(f"no end: {written[-2000:]!r}")
        try:
            part = os.read(leader, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            break
        if not part:
            break
        written += part
    os.close(leader)
    assert done.wait(60) == 0, written
    return written.decode()


@pytest.mark.slow
def test_a_table_that_stays(project: Path) -> None:
    text = on_a_terminal([sys.executable, "-m", "zhiyin", "train", f"{SASREC},epochs=15,patience=0"], project)
    last = text[text.rindex("SASRec: epoch 15 of 15") :]  # the last drawing, which nothing clears
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last)
    table, _, after = plain.partition("SASRec: all 15 epochs, best ")
    heads = ("epoch", "loss", "valid loss", "ndcg@10", "learning rate", "s", "events/s")
    assert re.search(r"\s+".join(heads), table)
    epochs = re.findall(r"(\d+)/15 ", table)
    best = int(re.match(r"\d+", after)[0])  # type: ignore[index]
    shown = list(range(4, 16))
    assert [int(epoch) for epoch in epochs] == ([best, *shown] if best < 4 else shown)
    assert f"best {best}/15" in table
    assert "saved in models/sasrec" in after


def test_the_table_keeps_the_best_epoch_in_sight(capsys: pytest.CaptureFixture[str]) -> None:
    table = EpochTable()
    with table.model():
        for epoch in range(1, 31):
            table.show({"model": "Net", "epoch": epoch, "of": 30, "loss": 1 / epoch, "best_epoch": 2, "seconds": epoch})
    err = capsys.readouterr().err
    shown = re.findall(r"(\d+)/30", err[err.rindex("Net: epoch 30 of 30") :])
    assert shown == ["2", *(str(n) for n in range(19, 31))]


# -- interrupted --------------------------------------------------------------------------------------------------


def started(project: Path, *arguments: str) -> subprocess.Popen[str]:
    """`zhiyin ...` that takes Ctrl-C also where the tests were started in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", "zhiyin", *arguments], cwd=project, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def ended(project: Path, number: signal.Signals, *arguments: str) -> tuple[int, str]:
    """The exit code and the words of a training that gets a signal in its third epoch."""
    process = started(project, *arguments)
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("SASRec: epoch 2/"):
            process.send_signal(number)
            break
    said += process.stderr.read()
    return process.wait(60), said


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_a_checkpoint(project: Path, zhiyin: Command, number: signal.Signals, code: int) -> None:
    command = ("train", f"{SASREC},epochs=60,patience=0,windows=true", "--seed", "3")
    found, said = ended(project, number, *command)
    assert found == code, said
    at = re.search(r"SASRec: ended in epoch (\d+) of 60, step [\d,]+; what it has learned is kept in (\S+)", said)
    assert at is not None, said
    assert f"go on with: zhiyin {' '.join(command)}" in said
    assert "ending after this step" in said
    assert (project / at[2] / "training.safetensors").is_file()
    assert not (project / "models" / "sasrec").exists()
    again = zhiyin(*command).stderr
    assert f"SASRec: continues from epoch {at[1]}, step" in again
    log = load(project / "models" / "sasrec").training_log_
    assert [row["epoch"] for row in log] == list(range(1, 61))
    assert all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(log))
    zhiyin(*command, "-o", "whole")
    whole = load(project / "whole" / "sasrec").training_log_
    assert [row["loss"] for row in log] == [row["loss"] for row in whole]  # as if nothing had happened


@pytest.mark.slow
def test_what_the_store_has_heard_since_does_not_throw_it_away(project: Path, zhiyin: Command) -> None:
    pytest.importorskip("sqlalchemy")
    from zhiyin.store.records import Event
    from zhiyin.store.store import Store

    command = ("train", f"{SASREC},epochs=60,patience=0,validation=none")
    code, said = ended(project, signal.SIGINT, *command)
    assert code == 130, said
    store = Store(project / "store.db")
    store.append([Event(f"new {n}", f"i{n}", 1_700_000_000_000_000 + n) for n in range(5)])
    store.append([Event("u1", "a new item", 1_700_000_100_000_000)])
    store.close()
    again = zhiyin(*command).stderr
    assert re.search(r"SASRec: continues from epoch [23], step", again), again
    assert "6 events newer are learned from now on, 1 new items among them" in again
    model = load(project / "models" / "sasrec")
    assert len(model.training_log_) == 60
    assert "a new item" in model.context_.item_ids.values.to_list()


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(project: Path) -> None:
    slow = (
        "import signal, sys, time\nfrom zhiyin.models.sequence.next_item import NextItem\nloss = NextItem.loss\n"
        "def slowly(*given):\n    print('a step', file=sys.stderr, flush=True)\n    time.sleep(60)\n"
        "    return loss(*given)\nNextItem.loss = slowly\nfrom zhiyin.cli.main import main\n"
        f"sys.argv = ['zhiyin', 'train', '{SASREC}']\nmain()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow], cwd=project, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line == "a step\n":
            process.send_signal(signal.SIGINT)
        if "ending after this step" in line:
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            break
    said += process.stderr.read()
    assert process.wait(30) == 130, said
    assert time.monotonic() - begun < 30
    assert "interrupted, nothing was left half written" in said


# -- curves elsewhere ---------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """TensorBoard and MLflow that only listen."""
    told: dict[str, Any] = {"folders": [], "curves": set(), "experiments": [], "metrics": []}

    class Writer:
        def __init__(self, folder: str) -> None:
            told["folders"].append(folder)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told["curves"].add(name)

        def flush(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    fake = SimpleNamespace(
        set_experiment=told["experiments"].append, active_run=lambda: True,
        log_metrics=lambda metrics, step: told["metrics"].append((step, metrics)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return told


def test_callbacks_by_option(zhiyin: Command, project: Path, elsewhere: dict[str, Any]) -> None:
    zhiyin("train", "als:epochs=2", "--callbacks", "tensorboard,mlflow")
    (folder,) = elsewhere["folders"]
    assert Path(folder).parent.name == "runs"
    assert elsewhere["curves"] == {"ALS/loss", "ALS/seconds"}
    assert elsewhere["experiments"] == ["zhiyin"]
    assert [step for step, _ in elsewhere["metrics"]] == [1, 2]
    zhiyin("train", "als:epochs=2", "--callbacks", "tensorboard=boards/one,mlflow=shop")
    assert Path(elsewhere["folders"][1]).parts[-3:-1] == ("boards", "one")
    assert elsewhere["experiments"][1:] == ["shop"]


def test_callbacks_by_settings(zhiyin: Command, project: Path, elsewhere: dict[str, Any]) -> None:
    settings = project / "zhiyin.toml"
    text = settings.read_text()
    settings.write_text(re.sub(r"(?m)^#? ?callbacks = .*$", 'callbacks = ["mlflow=kept"]', text))
    assert 'callbacks = ["mlflow=kept"]' in settings.read_text()
    zhiyin("train", "als:epochs=2")
    assert elsewhere["experiments"] == ["kept"]
    zhiyin("train", "als:epochs=2", "--callbacks", "")
    assert elsewhere["experiments"] == ["kept"]


@pytest.mark.parametrize(
    ("value", "said"), [("tensorbord", "tensorboard"), ("mlflow,wandb", "there is no callback 'wandb'")]
)
def test_callbacks_that_do_not_exist(
    value: str, said: str, zhiyin: Command, project: Path, elsewhere: dict[str, Any]
) -> None:
    assert said in zhiyin("train", "als", "--callbacks", value, code=1).stderr


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow")])
def test_what_to_install(
    name: str, module: str, zhiyin: Command, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    said = zhiyin("train", "als:epochs=1", "--callbacks", name, code=1).stderr
    assert f"needs {name}" in said
    assert "pip install 'zhiyin[tracking]'" in said
    assert not (project / "models").exists()


def test_a_budget_takes_no_callbacks(zhiyin: Command, project: Path) -> None:
    assert "named models" in zhiyin("train", "--budget", "5s", "--callbacks", "mlflow", code=1).stderr


# -- the report of a version --------------------------------------------------------------------------------------


def test_the_report_of_a_version(zhiyin: Command, project: Path) -> None:
    pytest.importorskip("plotly")
    data = read(project / "events.csv")
    pipeline = Pipeline(sources="popular; als:factors=4,epochs=3", ranker="none", windows=2).fit(data)
    trials = [
        {"trial": n, "state": "complete", "value": 0.1 * n, "seconds": 1.0, "settings": {"reg": n}} for n in range(3)
    ]
    search = {"metric": "ndcg@10", "trials": trials, "importance": {"reg": 1.0}}
    tried = [
        {"source": "als", "why": "factors <find>", "fit_seconds": 0.5, "tuned": "als:reg=2", "value": 0.2,
         "before": 0.1, "trials": 3, "search": search},
        {"source": "sasrec", "why": "long histories", "left_out": "its fit is too slow"},
    ]  # fmt: skip
    report = {"judged": {"why": "better by far"}, "pipeline": pipeline.report_ | {"tried": tried}}
    Bundles(project / "models" / "bundles").write(pipeline, figures={"ndcg@10": 0.25, "users": 40}, report=report)
    said = zhiyin("versions", "1")
    assert "ndcg@10\t0.25" in said.stdout
    assert "better by far" in said.stderr
    assert "ALS: all 3 epochs, no validation part: the last one counts" in said.stderr
    page = (project / "version-1.html").read_text()
    parts = ["Version 1", "better by far", "factors &lt;find&gt;", "its fit is too slow", "<h2>Training</h2>"]
    parts += ['id="search-0-trials"', 'id="search-0-importance"', "3 trials: 0.1 to begin with, 0.2 at the end"]
    for part in parts:
        assert part in page, part
    rows = json.loads(zhiyin("versions", "1", "--json", "-o", "other.html").stdout)
    assert (rows["version"], rows["report"]["judged"]["why"]) == (1, "better by far")
    assert [row["epoch"] for row in rows["training"]["ALS"]] == [1, 2, 3]
    assert (project / "other.html").is_file()
    assert "no version 7" in zhiyin("versions", "7", code=1).stderr
