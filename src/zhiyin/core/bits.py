"""Instructions on bits that Numba has no name for."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def _trailing_zeros(typingctx: Any, value: Any) -> Any:
    """uint32: zeros below the lowest set bit of a uint32; undefined for 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint32(types.uint32), generate


# Kernels leave the typing context out.
trailing_zeros: Any = _trailing_zeros
