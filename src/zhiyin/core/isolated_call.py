"""Calls between kernels that the compiler may not inline.

A sum of float32 numbers is rounded by the order of its terms, which the compiler chooses anew wherever it inlines a
function. Where rounding is amplified, as by an iterative solver, a kernel that is called here gives the same numbers to
all its callers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import typeof
from numba.core import cgutils
from numba.extending import intrinsic


def isolated(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function for kernels, of one tuple of arguments, that calls a kernel which is never inlined.

    call_solver = isolated(solver)             # in a kernel: call_solver((matrix, x, steps))
    """

    def call(typing_context: Any, arguments: Any) -> Any:
        kind = typeof(function)
        callee = kind.get_call_type(typing_context, arguments.types, {})

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            implementation = context.get_function(kind, callee)
            context.add_linking_libs(getattr(implementation, "libs", ()))
            passed = [
                context.cast(builder, value, given, wanted)
                for value, given, wanted in zip(
                    cgutils.unpack_tuple(builder, values[0]), arguments.types, callee.args, strict=True
                )
            ]
            result = implementation(builder, passed)
            for block in builder.function.blocks:
                for instruction in block.instructions:
                    if isinstance(instruction, ir.CallInstr) and function.__name__ in instruction.callee.name:
                        instruction.attributes.add("noinline")
            return result

        return callee.return_type(arguments), generate

    return intrinsic(call)
