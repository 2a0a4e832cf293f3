"""What a GPU asks of every network, as far as a CPU can tell: bfloat16 by autocast, and all tensors in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from zhiyin.core.errors import ConfigError  # noqa: E402
from zhiyin.core.run import Run  # noqa: E402
from zhiyin.models import registry  # noqa: E402
from zhiyin.models.lightgcn import Convolution, LightGCN  # noqa: E402
from zhiyin.models.multvae import Autoencoder, HistoryBatch, MultVAE  # noqa: E402
from zhiyin.models.neural.devices import device_of  # noqa: E402
from zhiyin.models.sequence import hstu  # noqa: E402
from zhiyin.ranking import registry as rankers  # noqa: E402
from zhiyin.testing.ranker import planted  # noqa: E402
from zhiyin.testing.recommender import shop  # noqa: E402

DATA = shop(users=30)
NEXT = [f"sasrec:negatives=16,loss={loss}" for loss in ("softmax", "sampled_softmax", "gbce", "bpr", "bpr_max")]
OTHERS = [
    "sasrec:positions=relative", "gru4rec", "narm", "caser", "hstu", "neumf", "ultragcn", "twotower", "multvae",
    "multvae:hidden=0,negatives=12", "lightgcn", "lightgcn:loss=bpr", "lightgcn:temperature=0.2",
]  # fmt: skip
RANKERS = ["fm", "deepfm", "dcnv2", "din", "din:activation=prelu"]


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training as on a GPU: autocast is on."""
    autocast = torch.autocast

    def on(kind: str, dtype: Any = None, enabled: bool = True) -> Any:
        return autocast(kind, dtype=dtype, enabled=enabled or dtype == torch.bfloat16)

    monkeypatch.setattr(torch, "autocast", on)
    monkeypatch.setattr(hstu._Attend, "apply", hstu.attend)  # what a GPU runs


@pytest.mark.parametrize("text", [*NEXT, *OTHERS])
def test_networks_learn_in_bfloat16(text: str, half: None) -> None:
    small = "factors=8,epochs=2,batch_size=8"
    model = registry.parse(f"{text}{',' if ':' in text else ':'}{small}").fit(DATA, Run(threads=1, device="cpu"))
    assert np.isfinite([news["loss"] for news in model.training_log_]).all()  # type: ignore[attr-defined]
    assert np.isfinite(model.score(DATA.histories)).all()


@pytest.mark.parametrize("text", RANKERS)
def test_rankers_learn_in_bfloat16(text: str, half: None) -> None:
    examples, labels, _ = planted(1, 60)
    ranker = rankers.parse(f"{text}{',' if ':' in text else ':'}epochs=1,batch_size=64")
    ranker.fit(examples, labels, run=Run(threads=1, device="cpu"))
    assert np.isfinite(ranker.score(examples)).all()


def test_the_graph_goes_where_the_network_goes() -> None:
    network = Convolution(LightGCN(factors=4), DATA.matrix("binary"))
    names = set(network.state_dict())
    assert names == {"users", "items"}
    network.to("meta")
    assert {t.device.type for t in (*network.graph.buffers(), *network.parameters())} == {"meta"}


def test_histories_go_where_the_network_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MultVAE(factors=4, hidden=0, epochs=1).fit(DATA, Run(threads=1, device="cpu"))
    asked, to = [], HistoryBatch.to
    monkeypatch.setattr(HistoryBatch, "to", lambda batch, device: asked.append(device) or to(batch, device))
    model.encode(DATA.histories)
    assert isinstance(model._network, Autoencoder)
    assert set(asked) == {torch.device("cpu")}


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device_of(Run()) == device_of(Run(device="cuda")) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    for device in ("auto", "cuda"):
        with pytest.raises(ConfigError, match="has no GPU of its own") as error:
            device_of(Run(device=device))
        assert "--nproc-per-node 1" in str(error.value.remedy)
    assert device_of(Run(device="cpu")) == torch.device("cpu")
