"""The normal equations of ALS, row by row: summed in tiles that stay in registers, solved by Cholesky's decomposition.

The matrix of a row, A = YᵀC Y + reg I, costs factors² operations an item, nearly all that an exact solver does. The
vectors of the row's items are copied into scratch, ITEMS_PER_BLOCK at a time, and only the upper triangle of A is
summed, by tiles of TILE_ROWS × VECTOR sums. Scratch is flat and its rows are padded to whole vectors. Positions in
vectorised loops are unsigned where they are sums: a signed one might be negative, which means "from the end", and a
loop that has to ask is not vectorised.

The order of all sums is fixed: a row's answer does not depend on the other rows, on threads, or on where arrays lie.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from zhiyin.core.parallel import kernel

VECTOR = 16  # float32 numbers a row of a tile: one register, or two of AVX2
TILE_ROWS = 6  # with two numbers to multiply, the registers of AVX2 hold tiles of 6 × 16
ITEMS_PER_BLOCK = 64  # the copied vectors stay in the nearer caches
PIVOTS = 8  # rows of the decomposition that are subtracted from those below in one pass
# The compiler falls back to scalar loops, which may round otherwise, where arrays lie closer than a few vectors: gaps
# around the scratch keep the answer from depending on where memory was found.
_GAP = 256


def _tile_code(
    typing_context: Any, square: Any, weighted: Any, near: Any, n: Any, row: Any, column: Any, width: Any
) -> tuple[Any, Any]:
    """The code of _add_tile(square, weighted, near, n, row, column, width):

    square[row + r, column + c] += sum over k < n of weighted[k, row + r] · near[k, column + c] for r < TILE_ROWS and
    c < VECTOR; the arrays are flat float32, of rows of `width`.

    Written in the compiler's own language: a loop of Python over these sums keeps none of them in registers.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        square, weighted, near = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[:3], arguments[:3])
        )
        n, row, column, width = arguments[3:]
        vector = ir.VectorType(ir.FloatType(), VECTOR)
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{VECTOR}f32"
        )
        undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), VECTOR), [0] * VECTOR)

        def vector_at(data: Any, position: Any) -> Any:
            return builder.bitcast(builder.gep(data, [position]), vector.as_pointer())

        def broadcast(number: Any) -> Any:
            return builder.shuffle_vector(builder.insert_element(undefined, number, first), undefined, everywhere)

        rows = [builder.add(row, ir.Constant(row.type, r)) for r in range(TILE_ROWS)]
        zeros = ir.Constant(vector, [0.0] * VECTOR)
        sums = [cgutils.alloca_once_value(builder, zeros) for _ in rows]
        with cgutils.for_range(builder, n) as loop:
            start = builder.mul(loop.index, width)
            items = builder.load(vector_at(near, builder.add(start, column)), align=4)
            for place, total in zip(rows, sums):
                weight = builder.load(builder.gep(weighted, [builder.add(start, place)]))
                product = builder.call(multiply_add, [broadcast(weight), items, builder.load(total)])
                builder.store(product, total)
        for place, total in zip(rows, sums):
            target = vector_at(square, builder.add(builder.mul(place, width), column))
            builder.store(builder.fadd(builder.load(target, align=4), builder.load(total)), target, align=4)
        return context.get_dummy_value()

    return types.void(square, weighted, near, types.intp, types.intp, types.intp, types.intp), generate


_add_tile: Any = intrinsic(_tile_code)


@kernel
def solve_blocks(indptr, columns, extra, x, y, matrix, ridge, width, start, stop):
    """Newton's step for `width` factors after another, all others fixed, for the rows start..stop of x, in place. The
    loss is quadratic, so each step ends at its minimum. With width = factors the row is solved from zero.

    Parameters
    ----------
    indptr, columns, extra: CSR rows × items of c - 1.
    matrix: float32[factors, factors], YᵀY + reg I; `ridge` is added to its diagonal for each row, unless it is empty.
    """
    f = x.shape[1]
    one = np.float32(1)
    longest = 0
    for row in range(start, stop):
        longest = max(longest, indptr[row + 1] - indptr[row])
    whole = width == f
    padded = (width + VECTOR - 1) // VECTOR * VECTOR
    block = max(PIVOTS, min(ITEMS_PER_BLOCK, longest))
    n_scores, n_near, n_square = 0 if whole else longest, block * padded + TILE_ROWS, (padded + TILE_ROWS) * padded
    scratch = np.zeros(n_scores + f + padded + 2 * n_near + n_square + 7 * _GAP, dtype=np.float32)
    at = _GAP
    scores, at = scratch[at : at + n_scores], at + n_scores + _GAP
    v, at = scratch[at : at + f], at + f + _GAP
    step, at = scratch[at : at + padded], at + padded + _GAP
    near, at = scratch[at : at + n_near], at + n_near + _GAP
    weighted, at = scratch[at : at + n_near], at + n_near + _GAP
    square = scratch[at : at + n_square]
    for row in range(start, stop):
        first, n = indptr[row], indptr[row + 1] - indptr[row]
        if n == 0:
            x[row] = 0
            continue
        penalty = ridge[row] if len(ridge) else np.float32(0)
        for j in range(f):
            v[j] = np.float32(0) if whole else x[row, j]
        for i in range(n_scores and n):
            scores[i] = _score(y, columns[first + i], v, 0, f)
        for left in range(0, f, width):
            size, offset = min(width, f - left), np.uint64(left)
            # Minus the slope: YᵀC p - A v, of these factors; and the square of A that stands at them.
            for a in range(size):
                step[a] = 0
                if not whole:
                    slope = penalty * v[left + a]
                    for j in range(f):
                        slope += matrix[left + a, j] * v[j]
                    step[a] = -slope
                base = np.uint64(a * padded)
                for b in range(size):
                    square[base + np.uint64(b)] = matrix[left + a, offset + np.uint64(b)]
                for b in range(size, padded):
                    square[base + np.uint64(b)] = 0
                square[a * padded + a] += penalty
            for begin in range(0, n, block):
                count = min(block, n - begin)
                for k in range(count):
                    item, confidence = columns[first + begin + k], extra[first + begin + k]
                    share = one + confidence
                    if not whole:
                        share -= confidence * scores[begin + k]
                    base = np.uint64(k * padded)
                    for j in range(size):
                        value = y[item, offset + np.uint64(j)]
                        near[base + np.uint64(j)] = value
                        weighted[base + np.uint64(j)] = confidence * value
                        step[j] += share * value
                    for j in range(size, padded):
                        near[base + np.uint64(j)] = 0
                        weighted[base + np.uint64(j)] = 0
                _add_products(square, weighted, near, count, 0, size, padded)
            _solve(square, step, near, weighted, size, padded)
            for a in range(size):
                v[left + a] += step[a]
            if left + size < f:
                for i in range(n):
                    scores[i] += _score(y, columns[first + i], step, left, size)
        for j in range(f):
            x[row, j] = v[j]


@kernel
def _score(y, item, v, left, size):
    """Inner product of v and the factors of an item from `left` on."""
    offset, total = np.uint64(left), np.float32(0)
    for j in range(size):
        total += y[item, offset + np.uint64(j)] * v[j]
    return total


@kernel
def _add_products(square, weighted, near, n, first, size, padded):
    """square += weightedᵀ near, of n rows: the upper triangle of the rows first..size of `square`. What lies left of
    the diagonal and below `size` is lost."""
    for row in range(first, size, TILE_ROWS):
        for column in range(row // VECTOR * VECTOR, padded, VECTOR):
            _add_tile(square, weighted, near, n, row, column, padded)


@kernel
def _solve(square, v, near, weighted, size, padded):
    """v = square⁻¹ v. The upper triangle of `square`, positive definite, is lost; a direction it has nothing in is left
    at zero. near, weighted: scratch of PIVOTS rows."""
    stop = np.uint64(padded)
    # square = UᵀU by rows of U, whose diagonal holds inverses, and Uᵀ v' = v.
    for top in range(0, size, PIVOTS):
        end = min(top + PIVOTS, size)
        left = np.uint64(top // VECTOR * VECTOR)
        for i in range(top, end):
            here, pivot = np.uint64(i * padded), square[i * padded + i]
            inverse = np.float32(1) / np.sqrt(pivot) if pivot > 1e-12 else np.float32(0)
            for b in range(left, stop):
                square[here + b] *= inverse
            square[i * padded + i] = inverse
            v[i] *= inverse
            for a in range(i + 1, end):
                there, weight = np.uint64(a * padded), square[i * padded + a]
                v[a] -= weight * v[i]
                for b in range(left, stop):
                    square[there + b] -= weight * square[here + b]
        if end < size:
            for i in range(PIVOTS):
                here, there, weight = np.uint64((top + i) * padded), np.uint64(i * padded), v[top + i]
                for b in range(left, stop):
                    near[there + b] = square[here + b]
                    weighted[there + b] = -square[here + b]
                for b in range(np.uint64(end), stop):
                    v[b] -= weight * near[there + b]
            _add_products(square, weighted, near, PIVOTS, end, size, padded)
    for i in range(size - 1, -1, -1):  # U x = v'
        here, total = np.uint64(i * padded), v[i]
        for b in range(np.uint64(i + 1), np.uint64(size)):
            total -= square[here + b] * v[b]
        v[i] = total * square[i * padded + i]
