"""`zhiyin export`: a sequence model as ONNX, for services without Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zhiyin.cli.list_output import Model
from zhiyin.cli.options import CONFIG, ConfigFile, Json


def export(
    output: Annotated[Path, typer.Argument(help="Folder to write.")],
    model: Model = None,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """Write a sequence model as ONNX: the encoder of histories, the vectors of items, their ids.

    The exported encoder is compared with the model before the files are kept.

    \b
    Examples:
      zhiyin export onnx --model models/sasrec
    """
    from zhiyin.cli.list_output import find_model
    from zhiyin.cli.output import print_json, say
    from zhiyin.models.loading import load
    from zhiyin.models.sequence.onnx_export import export_onnx

    folder = find_model(model, config)
    export_onnx(load(folder), output)
    if json:
        print_json({"model": str(folder), "path": str(output)})
    else:
        say(f"{folder} written to {output}: encoder.onnx, item_vectors.npy, export.json")
