"""What every test may use: real data where it is, and a terminal without colours."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples each time, and no clock: the first call of a kernel compiles it.
settings.register_profile("zhiyin", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("zhiyin")
os.environ.setdefault("NO_COLOR", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # two test processes on two cores: threads that wait must not spin
os.environ.setdefault("COLUMNS", "120")
os.environ.setdefault("POLARS_MAX_THREADS", "2")


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data("movielens-100k")`: the path of a set under ZHIYIN_DATA, or the test is skipped."""

    def find(name: str) -> Path:
        root = os.environ.get("ZHIYIN_DATA")
        if not root:
            pytest.skip(f"ZHIYIN_DATA is not set: {name} is needed")
        path = Path(root).resolve() / name
        if not path.exists():
            pytest.skip(f"ZHIYIN_DATA holds no {name}")
        return path

    return find
