"""`zhiyin doctor`: the machine and what is installed on it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from zhiyin.cli.options import Json

CORE = ("zhiyin", "numpy", "scipy", "polars", "numba", "typer", "rich", "pydantic")
EXTRAS = {
    "report": ("plotly",),
    "tune": ("optuna",),
    "postgres": ("psycopg",),
    "pandas": ("pandas", "pyarrow"),
}


def doctor(json: Json = False) -> None:
    """Versions, threads, BLAS, compiled kernels, GPU, and which extras are installed.

    \b
    Examples:
      zhiyin doctor
      zhiyin doctor --json
    """
    from zhiyin.cli.show import print_json, table

    facts = look()
    if json:
        print_json(facts)
    else:
        table(("what", "found"), facts.items())


def look() -> dict[str, str]:
    """What there is, by name."""
    from zhiyin.core.run import available_cores

    facts = {"python": f"{platform.python_version()} ({sys.executable})", "system": platform.platform()}
    facts |= {name: _version(name) or "missing" for name in CORE}
    facts["cores"] = f"{available_cores()} usable of {os.cpu_count()}"
    set_by_hand = {name: os.environ[name] for name in _THREADS if name in os.environ}
    facts["threads"] = ", ".join(f"{k}={v}" for k, v in set_by_hand.items()) or "all usable cores"
    facts["blas"] = _blas()
    facts["compiled kernels"] = _kernels()
    facts["gpu"] = "nvidia-smi found" if shutil.which("nvidia-smi") else "none seen (none is needed)"
    for extra, packages in EXTRAS.items():
        found = [f"{name} {_version(name)}" for name in packages if _version(name)]
        facts[f"extra {extra}"] = ", ".join(found) if found else f"not installed: pip install 'zhiyin[{extra}]'"
    return facts


_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _blas() -> str:
    import numpy as np

    known = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{known.get('name', 'unknown')} {known.get('version', '')}".strip()


def _kernels() -> str:
    """Where compiled kernels are kept; without such a place each start compiles anew."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    spec = importlib.util.find_spec("zhiyin")
    home = Path(chosen) if chosen else Path(spec.origin).parent if spec and spec.origin else Path(".")
    if os.access(home, os.W_OK):
        return f"kept in {home}"
    return f"kept in the user's cache: {home} is not writable"
