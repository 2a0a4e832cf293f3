"""The conjugate gradient solver of ALS: a few steps for the least-squares problem of each row."""

from __future__ import annotations

import numpy as np

from zhiyin.core.parallel import kernel


@kernel
def solve_steps(indptr, columns, extra, x, y, matrix, ridge, steps, start, stop):
    """Conjugate gradient for the rows start..stop. `extra` is c - 1, `matrix` is YᵀY + reg I; `ridge` is
    added to its diagonal, unless it is empty.

    Arrays are indexed and never sliced: counting references to a view costs more than the few products in it.
    """
    f = x.shape[1]
    one = np.float32(1)  # a whole number here would make the sums float64
    longest = 0
    for row in range(start, stop):
        longest = max(longest, indptr[row + 1] - indptr[row])
    # The compiler falls back to unvectorised loops, which round otherwise, where arrays lie closer than a few
    # vectors: gaps around the scratch keep the answer from depending on where memory was found.
    gap, size_near = 256, (longest + 8) * f
    near = np.empty(size_near + 2 * gap, dtype=np.float32)[gap : gap + size_near].reshape((longest + 8, f))
    excess = np.zeros(longest + 8, dtype=np.float32)
    scratch, apart = np.empty(4 * (f + gap) + gap, dtype=np.float32), f + gap
    v, r = scratch[gap : gap + f], scratch[gap + apart : gap + apart + f]
    p, ap = scratch[gap + 2 * apart : gap + 2 * apart + f], scratch[gap + 3 * apart : gap + 3 * apart + f]
    for row in range(start, stop):
        first, n = indptr[row], indptr[row + 1] - indptr[row]
        if n == 0:
            x[row] = 0
            continue
        for j in range(f):
            v[j] = x[row, j]
        # r = YᵀC p - A v: the share of item i is (c - (c - 1) y_i·v) y_i.
        _apply_matrix(matrix, v, r)
        more_ridge = ridge[row] if len(ridge) else np.float32(0)
        if len(ridge):
            for j in range(f):
                r[j] += more_ridge * v[j]
        for j in range(f):
            r[j] = -r[j]
        for at in range(n):
            item, confidence = columns[first + at], extra[first + at]
            excess[at] = confidence
            product = np.float32(0)
            for j in range(f):
                near[at, j] = y[item, j]
                product += y[item, j] * v[j]
            share = one + confidence - confidence * product
            for j in range(f):
                r[j] += share * near[at, j]
        padded = (n + 7) // 8 * 8
        for at in range(n, padded):
            excess[at] = 0
            for j in range(f):
                near[at, j] = 0
        size = np.float32(0)
        for j in range(f):
            p[j] = r[j]
            size += r[j] * r[j]
        for _ in range(steps):
            if size < 1e-20:
                break
            _apply_matrix(matrix, p, ap)
            _apply_near(near, excess, padded, p, ap)
            if len(ridge):
                for j in range(f):
                    ap[j] += more_ridge * p[j]
            curve = np.float32(0)
            for j in range(f):
                curve += p[j] * ap[j]
            step, new_size = size / curve, np.float32(0)
            for j in range(f):
                v[j] += step * p[j]
                r[j] -= step * ap[j]
                new_size += r[j] * r[j]
            ratio = new_size / size
            for j in range(f):
                p[j] = r[j] + ratio * p[j]
            size = new_size
        for j in range(f):
            x[row, j] = v[j]


@kernel
def _apply_matrix(matrix, v, out):
    """out = matrix v, `matrix` symmetric."""
    f = len(v)
    for j in range(f):
        out[j] = 0
    body = f // 4 * 4
    for i in range(0, body, 4):  # four rows a pass over `out`
        a, b, c, d = v[i], v[i + 1], v[i + 2], v[i + 3]
        for j in range(f):
            out[j] += a * matrix[i, j] + b * matrix[i + 1, j] + c * matrix[i + 2, j] + d * matrix[i + 3, j]
    for i in range(body, f):
        a = v[i]
        for j in range(f):
            out[j] += a * matrix[i, j]


@kernel
def _apply_near(near, excess, padded, v, out):
    """out += sum over i of excess_i y_i (y_i·v), eight items at a time so that sums overlap."""
    f = len(v)
    for at in range(0, padded, 8):
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0)
        for j in range(f):
            w = v[j]
            s0 += near[at, j] * w
            s1 += near[at + 1, j] * w
            s2 += near[at + 2, j] * w
            s3 += near[at + 3, j] * w
            s4 += near[at + 4, j] * w
            s5 += near[at + 5, j] * w
            s6 += near[at + 6, j] * w
            s7 += near[at + 7, j] * w
        s0, s1, s2, s3 = s0 * excess[at], s1 * excess[at + 1], s2 * excess[at + 2], s3 * excess[at + 3]
        s4, s5, s6, s7 = s4 * excess[at + 4], s5 * excess[at + 5], s6 * excess[at + 6], s7 * excess[at + 7]
        for j in range(f):
            out[j] += (
                s0 * near[at, j] + s1 * near[at + 1, j] + s2 * near[at + 2, j] + s3 * near[at + 3, j]
                + s4 * near[at + 4, j] + s5 * near[at + 5, j] + s6 * near[at + 6, j] + s7 * near[at + 7, j]
            )  # fmt: skip
