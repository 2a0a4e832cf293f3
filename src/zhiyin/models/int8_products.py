"""Inner products of int8 vectors in kernels, by the instructions that processors have for them.

The compiler's own loop over int8 numbers widens each to 32 bits. Here CHUNK numbers at a time go through the
instruction that multiplies bytes and sums four products (VPDPBUSD) where the processor has it, else through
multiplications that the compiler chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from zhiyin.core.parallel import kernel

# Numbers that are multiplied at once.
CHUNK = 32
# Features of x86 processors, either of which means VPDPBUSD on 256 bits.
_INSTRUCTION_FEATURES = {"+avx512vnni": "llvm.x86.avx512.vpdpbusd.256", "+avxvnni": "llvm.x86.avx512.vpdpbusd.256"}


def _product_code(n_chunks: int) -> Callable[..., Any]:
    """An intrinsic (rows, row, query) -> int32, the sum over j < CHUNK · n_chunks of (rows[row, j] + 128) · query[j].

    rows: int8[n, d], contiguous; query: int8[CHUNK · n_chunks], zeros from d on. The bytes behind the row are read, and
    must be there. n_chunks = 0: any number of chunks, in a loop.
    """

    def product(typing_context: Any, rows: Any, row: Any, query: Any) -> tuple[Any, Any]:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            matrix = context.make_array(signature.args[0])(context, builder, arguments[0])
            array = context.make_array(signature.args[2])(context, builder, arguments[2])
            start = builder.gep(matrix.data, [builder.mul(arguments[1], builder.extract_value(matrix.shape, 1))])
            vector = ir.VectorType(ir.IntType(8), CHUNK)
            features = context.codegen().magic_tuple()[-1].split(",")
            name = next((code for feature, code in _INSTRUCTION_FEATURES.items() if feature in features), None)
            sums = ir.VectorType(ir.IntType(32), CHUNK if name is None else CHUNK // 4)
            flip, zeros = ir.Constant(vector, [-128] * CHUNK), ir.Constant(sums, [0] * sums.count)

            def load(data: Any, at: Any) -> Any:
                return builder.load(builder.bitcast(builder.gep(data, [at]), vector.as_pointer()), align=1)

            def add(total: Any, at: Any) -> Any:
                left, right = builder.xor(load(start, at), flip), load(array.data, at)
                if name is None:
                    return builder.add(total, builder.mul(builder.zext(left, sums), builder.sext(right, sums)))
                kind = ir.FunctionType(sums, [sums, vector, vector])
                return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [total, left, right])

            if n_chunks:
                total = zeros
                for chunk in range(n_chunks):
                    total = add(total, ir.Constant(ir.IntType(64), CHUNK * chunk))
            else:
                held = cgutils.alloca_once_value(builder, zeros)
                size = ir.Constant(ir.IntType(64), CHUNK)
                with cgutils.for_range(builder, builder.udiv(builder.extract_value(array.shape, 0), size)) as loop:
                    builder.store(add(builder.load(held), builder.mul(loop.index, size)), held)
                total = builder.load(held)
            kind = ir.FunctionType(ir.IntType(32), [sums])
            name_of_sum = f"llvm.vector.reduce.add.v{sums.count}i32"
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, name_of_sum), [total])

        return types.int32(rows, types.intp, query), generate

    return intrinsic(product)


_one_chunk: Any = _product_code(1)
_two_chunks: Any = _product_code(2)
_three_chunks: Any = _product_code(3)
_four_chunks: Any = _product_code(4)
_any_chunks: Any = _product_code(0)


def _prefetch_code(typing_context: Any, array: Any, place: Any) -> tuple[Any, Any]:
    """The code of prefetch(array, place): ask for the cache line of a number without waiting for it. `place` counts in
    the flat array, of one or two dimensions, contiguous."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, *(ir.Constant(i32, value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


prefetch: Any = intrinsic(_prefetch_code)


@kernel
def padded_length(d):
    """The length of a query for vectors of d numbers: d, rounded up to whole chunks."""
    return (d + CHUNK - 1) // CHUNK * CHUNK


@kernel
def products(rows, start, stop, query, query_sum, out):
    """out[r - start] = the inner product of rows[r] and the query, for start <= r < stop.

    Parameters
    ----------
    rows: int8[n, d], contiguous.
    query: int8[padded_length(d)], zeros from d on.
    query_sum: its sum.
    out: int32.
    """
    d, size = rows.shape[1], len(query)
    # Whole chunks are read, so the last rows of the array, which end before them, are summed one by one.
    end = min(stop, (rows.size - size) // max(d, 1) + 1) if rows.size >= size else start
    offset = np.int32(128 * query_sum)
    if size == CHUNK:
        for row in range(start, end):
            out[row - start] = _one_chunk(rows, row, query) - offset
    elif size == 2 * CHUNK:
        for row in range(start, end):
            out[row - start] = _two_chunks(rows, row, query) - offset
    elif size == 3 * CHUNK:
        for row in range(start, end):
            out[row - start] = _three_chunks(rows, row, query) - offset
    elif size == 4 * CHUNK:
        for row in range(start, end):
            out[row - start] = _four_chunks(rows, row, query) - offset
    else:
        for row in range(start, end):
            out[row - start] = _any_chunks(rows, row, query) - offset
    for row in range(max(start, end), stop):
        total = np.int32(0)
        for j in range(d):
            total += np.int32(rows[row, j]) * np.int32(query[j])
        out[row - start] = total
