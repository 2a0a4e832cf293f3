"""`zhiyin doctor`: the machine, the installed packages, and what the service would set aside."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from zhiyin.cli.options import CONFIG, ConfigFile, Json

REQUIRED_PACKAGES = ("zhiyin", "numpy", "scipy", "polars", "numba", "typer", "rich", "pydantic")
PACKAGES_OF_EXTRAS = {
    "report": ("plotly",),
    "tune": ("optuna",),
    "postgres": ("psycopg",),
    "pandas": ("pandas", "pyarrow"),
}


def doctor(config: ConfigFile = CONFIG, json: Json = False) -> None:
    """Versions, threads, BLAS, compiled kernels, GPU, and which extras are installed.

    Of a project with a store also what the service cannot use and sets aside: rows, versions, placements, rules, types;
    each with what mends it. Items and users are named by their ids here, and nowhere else.

    \b
    Examples:
      zhiyin doctor
      zhiyin doctor --json
    """
    from zhiyin.cli.output import print_json, print_table

    facts, items = environment_facts(), set_aside_items(config)
    if json:
        print_json(facts | ({"set aside": items} if items else {}))
        return
    print_table(("what", "found"), facts.items())
    print_set_aside(items)


def print_set_aside(items: list[dict[str, str]]) -> None:
    """A table of what `aside` found; nothing where that is nothing."""
    from zhiyin.cli.output import print_table

    if items:
        print_table(("set aside", "why", "what to do"), [(one["what"], one["reason"], one["mend"]) for one in items])


def set_aside_items(config: Path) -> list[dict[str, str]]:
    """What the service of a project would set aside; empty where there is no project or no service."""
    from zhiyin.cli.project import STORE_VARIABLE
    from zhiyin.core.errors import MissingExtraError

    try:
        from zhiyin.service.project_inspection import inspect_project

        return [entry.as_json() for entry in inspect_project(config, os.environ.get(STORE_VARIABLE))]
    except MissingExtraError:
        return []


def environment_facts() -> dict[str, str]:
    """Facts of the machine and the installation, by name."""
    from zhiyin.core.run import available_cores

    facts = {"python": f"{platform.python_version()} ({sys.executable})", "system": platform.platform()}
    facts |= {name: _version(name) or "missing" for name in REQUIRED_PACKAGES}
    facts["cores"] = f"{available_cores()} usable of {os.cpu_count()}"
    variables = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    facts["threads"] = ", ".join(f"{k}={v}" for k, v in variables.items()) or "all usable cores"
    facts["blas"] = _blas()
    facts["compiled kernels"] = _kernels()
    facts["gpu"] = "nvidia-smi found" if shutil.which("nvidia-smi") else "none seen (none is needed)"
    for extra, packages in PACKAGES_OF_EXTRAS.items():
        installed = [f"{name} {_version(name)}" for name in packages if _version(name)]
        facts[f"extra {extra}"] = ", ".join(installed) if installed else f"not installed: pip install 'zhiyin[{extra}]'"
    return facts


THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _blas() -> str:
    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def _kernels() -> str:
    """Where compiled kernels are cached."""
    from zhiyin.core.kernel_cache import kernel_folder

    folder = kernel_folder()
    return "kept nowhere: each start compiles anew" if folder is None else f"kept in {folder}"
