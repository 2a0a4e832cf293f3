"""Learned state on disk: NumPy arrays, CSR matrices, tensors (safetensors) and JSON values, one file or more each.

Arrays are memory-mapped when read, so that several processes share them and a large model opens at once. Nothing in the
files can run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy import sparse

from zhiyin.core.atomic_files import read_json
from zhiyin.core.errors import DataError

_CSR = ("data", "indices", "indptr")
# The attribute that holds a training's log, and its file; see `core.training_log`.
TRAINING_LOG, TRAINING_LOG_FILE = "training_log_", "training_log.json"


def read_manifest(source: Path, what: str, format: int) -> dict[str, Any]:
    """The manifest of a saved "model" or "ranker": the content of `model.json` or `ranker.json`.

    Raises DataError where there is no such folder, and where the manifest is damaged or of another format.
    """
    try:
        manifest = read_json(source / f"{what}.json", "train and save again")
    except (FileNotFoundError, NotADirectoryError):
        remedy = "name a folder written by save or train"
        raise DataError(f"there is no {what} here", file=source, remedy=remedy) from None
    if manifest.get("format") != format:
        raise DataError(
            f"the {what} is of format {manifest.get('format')}, this version reads {format}",
            file=source,
            remedy="use the version of zhiyin that wrote it, or train again",
        )
    return manifest


def check_offsets(offsets: np.ndarray, size: int) -> None:
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) < 0).any():
        raise ValueError("offsets do not lead through their array")


def check_range(what: str, codes: np.ndarray, low: int, high: int) -> None:
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise ValueError(f"{what} are no codes")
    if len(codes) and not low <= int(codes.min()) <= int(codes.max()) < high:
        raise ValueError(f"{what} are out of range")


def write_learned(owner: Any, folder: Path) -> dict[str, Any]:
    """Write the learned attributes of a model or ranker, except those in `_parts`. Returns their manifest entries."""
    learned = {name: value for name, value in vars(owner).items() if is_state(name) and name not in owner._parts}
    log = learned.pop(TRAINING_LOG, None)
    if log:  # a file of its own: it holds times, and all others are the same after the same training
        (folder / TRAINING_LOG_FILE).write_text(json.dumps(log, indent=1) + "\n", "utf-8")
    return {name: write_state(folder, name, value) for name, value in learned.items()}


def read_learned(owner: Any, folder: Path, entries: dict[str, Any], mmap: bool) -> None:
    """Set the attributes that `write_learned` wrote."""
    for name, kind in entries.items():
        if is_state(name):
            setattr(owner, name, read_state(folder, name, kind, mmap))
    if (folder / TRAINING_LOG_FILE).is_file():
        setattr(owner, TRAINING_LOG, json.loads((folder / TRAINING_LOG_FILE).read_text("utf-8")))


def is_state(name: str) -> bool:
    """Whether the attribute of this name is learned state; the training context, `context_`, has files of its own."""
    return name.endswith("_") and not name.startswith("_") and name != "context_" and name.isidentifier()


def write_state(folder: Path, name: str, value: Any) -> Any:
    """Write one learned attribute. Returns its entry of the manifest, which `read_state` takes as `kind`."""
    if isinstance(value, np.ndarray):
        np.save(folder / f"{name}.npy", value, allow_pickle=False)
        return "array"
    if sparse.issparse(value):
        for part in _CSR:
            np.save(folder / f"{name}.{part}.npy", getattr(value, part), allow_pickle=False)
        return {"csr": list(value.shape)}
    if isinstance(value, dict) and value and all(isinstance(part, np.ndarray) for part in value.values()):
        save_file({key: np.ascontiguousarray(part) for key, part in value.items()}, folder / f"{name}.safetensors")
        return "tensors"
    return {"value": value.item() if isinstance(value, np.generic) else value}


def read_state(folder: Path, name: str, kind: Any, mmap: bool) -> Any:
    """Read one learned attribute.

    Raises OSError or ValueError where its files are missing or do not fit their manifest, KeyError where its entry is
    incomplete.
    """

    def array(file: str) -> np.ndarray:
        result = np.load(folder / f"{file}.npy", mmap_mode="r" if mmap else None, allow_pickle=False)
        return result.view(np.ndarray) if isinstance(result, np.memmap) else result

    if kind == "array":
        return array(name)
    if kind == "tensors":
        file = folder / f"{name}.safetensors"
        return _map_tensors(file) if mmap else load_file(file)
    if "csr" in kind:
        parts = tuple(array(f"{name}.{part}") for part in _CSR)
        data, indices, indptr = parts
        rows, columns = kind["csr"]
        if len(indptr) != rows + 1 or data.shape != indices.shape:
            raise ValueError(f"{name} does not have the shape that its manifest states")
        check_offsets(indptr, len(indices))
        check_range(f"columns of {name}", indices, 0, columns)
        return sparse.csr_matrix(parts, shape=tuple(kind["csr"]), copy=False)
    return kind["value"]


def _map_tensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, mapped: 8 bytes length of the header, the header in JSON, then the bytes.

    Copy-on-write, so that they are writable arrays, as torch wants them, and the file still cannot change.
    """
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > os.fstat(opened.fileno()).st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(opened.read(length))
    whole = np.memmap(file, dtype=np.uint8, mode="c").view(np.ndarray)[8 + length :]
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            tensors[name] = whole[start:stop].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1", "BOOL": "?"}
