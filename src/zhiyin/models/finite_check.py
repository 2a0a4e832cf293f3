"""The check that everything a model has learned is a finite number."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from zhiyin.core.errors import DataError


def check_finite(model: Any) -> None:
    """Raise DataError where a learned attribute holds NaN or infinity: every list of the model would be empty."""
    for name, value in vars(model).items():
        if not name.endswith("_"):
            continue
        arrays = value.state_dict().values() if hasattr(value, "state_dict") else [value]
        if not all(map(_is_finite, arrays)):
            raise DataError(
                f"{type(model).__name__} has learned numbers that are infinite or none at all ({name})",
                remedy="look for values or weights that are far larger than the others; then a smaller learning rate",
            )


def _is_finite(value: Any) -> bool:
    if sparse.issparse(value):
        value = value.data
    if hasattr(value, "detach"):  # a tensor
        return not value.is_floating_point() or bool(value.detach().isfinite().all())
    if isinstance(value, float):
        return bool(np.isfinite(value))
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
        return True
    with np.errstate(all="ignore"):
        return bool(np.isfinite(value.min()) and np.isfinite(value.max()))  # min and max are NaN where one is
