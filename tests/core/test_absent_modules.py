"""Optional modules that a program does without."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zhiyin.core.absent_modules import AbsentModules


def test_a_module_is_absent_in_the_block_and_there_after_it() -> None:
    name = "colorsys"
    sys.modules.pop(name, None)
    with AbsentModules(name, "no_such_module"), pytest.raises(ImportError):
        __import__(name)
    assert __import__(name).rgb_to_hsv
    with AbsentModules(name):  # imported before: it stays
        assert __import__(name).rgb_to_hsv
    assert "no_such_module" not in sys.modules


def test_lightgbm_predicts_without_pandas_and_sklearn() -> None:
    """As the service uses it: a model of text, and shares of features."""
    pytest.importorskip("lightgbm")
    script = """
import sys
import numpy as np
from zhiyin.core.absent_modules import AbsentModules
with AbsentModules("pandas", "sklearn"):
    import lightgbm
x = np.arange(40.0).reshape(20, 2)
model = lightgbm.train({"verbose": -1, "min_data_in_leaf": 1}, lightgbm.Dataset(x, x[:, 0]), 3)
again = lightgbm.Booster(model_str=model.model_to_string())
shares = again.predict(x, pred_contrib=True, num_threads=1)
assert np.allclose(shares.sum(1), model.predict(x))
assert not {"pandas", "sklearn", "scipy.stats"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
