"""Export of a neural recommender for serving without Python: network as ONNX, item vectors as NumPy, the rest as JSON.

A list is then made in three steps, in any language: the codes of the user's last items, the vector that `encoder.onnx`
makes of them, and the items whose vectors have the largest inner product with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import ConfigError, DataError, MissingExtraError, ZhiyinError
from zhiyin.core.params import settings_of
from zhiyin.core.run import log
from zhiyin.models.neural.batches import Sequences
from zhiyin.models.neural.neural_recommender import NeuralRecommender
from zhiyin.models.recommender import Recommender

FORMAT = 1
# Largest relative difference between the vectors of onnxruntime and torch.
TOLERANCE = 1e-4
# Length of the longest history in the verification.
MAX_VERIFIED_EVENTS = 256


def export_onnx(model: Recommender, path: Any) -> None:
    """Write a fitted neural recommender to the folder `path`, whole or not at all.

    `encoder.onnx`, for any b and any t up to `max_len` of `export.json`:

    | input or output | |
    |---|---|
    | items | int64[b, t], codes of the last t positive events, oldest first, padded with 0 on the right |
    | lengths | int64[b], how many of them are real, at least 1 |
    | times | int64[b, t], microseconds, padded with the last; only where the network looks at them |
    | vector | float32[b, d] |

    `item_vectors.npy` is float32[n_items, d]; the score of an item is the inner product of its vector with `vector`.
    `export.json` has the id of each code, the codes that may be recommended and the hyperparameters. To cut a history
    to its last `max_len` positive events is for the caller; one without any has no vector.

    Raises ConfigError for a model that is not a network over histories, MissingExtraError without onnx, DataError where
    the folder holds something else, and ZhiyinError where onnxruntime, if installed, finds other vectors than torch.
    """
    context, target = model._context(), Path(path)
    if not isinstance(model, NeuralRecommender) or type(model).encode is not NeuralRecommender.encode:
        raise ConfigError(
            f"{type(model).__name__} has no network that reads histories: it cannot be written as ONNX",
            remedy="export a sequence model such as SASRec",
        )
    if target.exists() and not (target / "export.json").exists() and (target.is_file() or any(target.iterdir())):
        raise DataError("the folder holds something that is no export", file=target, remedy="export to another folder")
    network, reach = Exported(model._net()), model._reach()
    program = _program(network, reach)
    with whole_folder(target) as draft:
        program.save(draft / "encoder.onnx")
        np.save(draft / "item_vectors.npy", np.asarray(model.item_vectors_, dtype=np.float32), allow_pickle=False)
        inputs = [value.name for value in program.model.graph.inputs]
        _write_manifest(draft / "export.json", model, inputs, reach)
        verify(draft / "encoder.onnx", network, inputs, len(context.item_ids), reach)


class Exported(nn.Module):
    """A network over `Sequences`, called with plain tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, items: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
        """int64[b, t], int64[b], int64[b, t] to float32[b, d]."""
        return self.network(Sequences(items, lengths, times, rows=lengths)).float()


def _program(network: nn.Module, reach: int) -> Any:
    """The network as a torch.onnx.ONNXProgram, without the inputs it does not look at."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "onnx", "onnx", "the export to ONNX") from None
    # Sizes 0 and 1 would be taken for constants, so the example has 2 rows and, where it may, 2 events.
    width = min(2, reach)
    example = (torch.zeros(2, width).long(), torch.full((2,), width), torch.zeros(2, width).long())
    rows, cells = {0: torch.export.Dim("b")}, {0: torch.export.Dim("b")}
    if reach > 1:
        cells[1] = torch.export.Dim("t", max=min(reach, 1 << 30))
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        program = torch.onnx.export(
            network,
            example,
            input_names=["items", "lengths", "times"],
            output_names=["vector"],
            dynamic_shapes={"items": cells, "lengths": rows, "times": cells},
            dynamo=True,
            verbose=False,
        )
    graph = program.model.graph  # type: ignore[union-attr]
    for value in list(graph.inputs):
        # Where the network uses a Python size, such as len(tensor), the exporter silently makes it a constant.
        if isinstance(value.shape[0], int) or (reach > 1 and len(value.shape) > 1 and isinstance(value.shape[1], int)):
            raise ZhiyinError(
                f"the network cannot be written as ONNX: {value.name} would have the fixed shape {value.shape}",
                remedy="its forward must not turn sizes of a batch into plain numbers, such as by len(tensor)",
            )
        if value.name == "times" and not value.uses():
            graph.inputs.remove(value)
    return program


def verify(file: Path, network: nn.Module, inputs: list[str], n_items: int, reach: int) -> None:
    """Compare onnxruntime's vectors of random histories with torch's. Raises ZhiyinError where they differ."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        log.info("onnxruntime is not installed: the export is not verified")
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for b, t in ((1, 1), (3, min(reach, 7)), (2, min(reach, MAX_VERIFIED_EVENTS))):
        lengths = rng.integers(1, t + 1, b)
        lengths[-1] = t
        real = np.arange(t) < lengths[:, None]
        times = np.cumsum(rng.exponential(1e11, (b, t)).astype(np.int64), axis=1)
        feed = {
            "items": np.where(real, rng.integers(0, n_items, (b, t)), 0),
            "lengths": lengths,
            "times": np.where(real, times, times[np.arange(b), lengths - 1][:, None]),
        }
        with torch.inference_mode():
            expected = network(*(torch.from_numpy(array) for array in feed.values())).numpy()
        (vectors,) = session.run(["vector"], {name: feed[name] for name in inputs})
        error = float(np.abs(vectors - expected).max())
        if not error <= TOLERANCE:
            raise ZhiyinError(
                f"onnxruntime and torch differ by {error:.2g} on {b} histories of up to {t} events",
                file=file.name,
                remedy="try other versions of onnxruntime and onnxscript; nothing was written",
            )


def _write_manifest(file: Path, model: NeuralRecommender, inputs: list[str], reach: int) -> None:
    from zhiyin.core.version import __version__

    context = model._context()
    manifest = {
        "format": FORMAT,
        "zhiyin": __version__,
        "model": type(model).__name__,
        "settings": settings_of(model),
        "fingerprint": context.fingerprint,
        "inputs": inputs,
        "max_len": reach,
        "factors": int(model.item_vectors_.shape[1]),
        "items": context.item_ids.values.to_list(),
        "candidates": np.flatnonzero(context.candidates).tolist(),
    }
    file.write_text(json.dumps(manifest, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages on optional packages and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
