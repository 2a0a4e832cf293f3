"""Where Flink is: the Python of its own environment, the package in it, and Java."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from zhiyin.core.errors import EngineError

# Environment variable with the Python of Flink's environment; it goes before `[streams] python`.
PYTHON_VARIABLE = "ZHIYIN_FLINK_PYTHON"
INSTALL = (
    "Flink has an environment of its own: python3.11 -m venv .flink && .flink/bin/pip install apache-flink==2.3.0; "
    f"another place: [streams] python, or the variable {PYTHON_VARIABLE}"
)
_FIND_PACKAGE = "from importlib.util import find_spec; print(*find_spec('pyflink').submodule_search_locations)"
_INSTALL_JAVA = "install it (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME"
_FIND_SECONDS = 60


def flink_python(configured: str, home: Path) -> Path:
    """The Python of Flink's environment: of the variable, else as configured (relative to `home`).

    Raises EngineError where there is none.
    """
    python = Path(os.environ.get(PYTHON_VARIABLE) or home / Path(configured).expanduser())
    if not os.access(python, os.X_OK) or python.is_dir():
        raise EngineError(f"there is no Python of Flink at {python}", remedy=INSTALL)
    return Path(os.path.abspath(python))  # not resolved: a link into another environment would lose this one


def flink_home(python: Path) -> Path:
    """The folder of the package apache-flink. Raises EngineError where this Python does not have it."""
    try:
        result = subprocess.run(
            [str(python), "-c", _FIND_PACKAGE], capture_output=True, text=True, timeout=_FIND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{python} does not run: {error}", remedy=INSTALL) from None
    home = Path(result.stdout.strip())
    if result.returncode != 0 or not (home / "lib").is_dir():
        raise EngineError(f"{python} has no package apache-flink", remedy=INSTALL)
    return home


def java() -> str:
    """The program `java`: of JAVA_HOME, else of the path. Raises EngineError where there is none."""
    home = os.environ.get("JAVA_HOME")
    program = shutil.which(str(Path(home) / "bin" / "java") if home else "java")
    if program is None:
        where = f"in JAVA_HOME ({home})" if home else "on the path"
        raise EngineError(f"Flink needs Java 17, and there is no java {where}", remedy=_INSTALL_JAVA)
    return program
