"""Losses on tensors. Each is a scalar, the sum over rows; the training loop divides by the number of rows.

`weights[m]`, where given, multiplies the loss of each row; weights, corrections and targets get no gradient. Sums are
accumulated in float32 at least.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

FEW_ROWS = 128  # fewer rows a chunk, and reading the table again for each chunk costs more than the product
TILE_COLUMNS = 1024
HOST_BYTES = 4 << 20  # stays in the cache, with two cores' share of the table beside it
HOST_MOST_BYTES = 64 << 20
DEVICE_BYTES = 256 << 20  # launches, and not caches, are what a GPU wants few of


def full_softmax(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    bias: Tensor | None = None,
    chunk_bytes: int | None = None,
) -> Tensor:
    """Cross-entropy over all items: sum over rows of w (logsumexp_j(x·t_j + b_j) - x·t_target - b_target).

    The m × n logits are never held at once: a chunk is computed, turned into probabilities in place and multiplied into
    the gradients while in cache, so that `backward` only scales. A table so long that few rows fit is cut into tiles
    of rows × items in two passes: the first for the normaliser (online, Milakov & Gimelshein 2018), the second for the
    gradients, with the logits computed again.

    Parameters
    ----------
    states : float[m, d]
    table : float[n, d], the vectors of items
    targets : int64[m] in 0..n
    weights : float[m], 1 if None
    bias : float[n], 0 if None
    chunk_bytes : how many bytes the logits held at a time may take. None: as measured for the device.
    """
    needs_grad = _needs_grad(states, table, bias)
    kind = _kind(states, table)
    rows, columns = _shape_of_chunk(len(states), len(table), kind.itemsize, states.device.type, chunk_bytes)
    low = _low_precision(states.device.type)
    with torch.autocast(states.device.type, enabled=False):
        return _FullSoftmax.apply(states, table, bias, targets, weights, (rows, columns), low, needs_grad)


def sampled_softmax(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    negatives: Tensor,
    log_q_targets: Tensor | None = None,
    log_q_negatives: Tensor | None = None,
    weights: Tensor | None = None,
    sparse: bool = False,
    chunk_bytes: int | None = None,
    unit: bool = False,
) -> Tensor:
    """Cross-entropy of the target against negatives that all rows share, with logits less log q (logQ correction).

    Bengio & Senécal 2008; Yi et al., RecSys 2019, eq. 3. A negative that is the target of a row is no negative of it:
    it is left out there. A row that has no other negative costs nothing.

    Parameters
    ----------
    states : float[m, d]
    table : float[n, d]
    targets : int64[m]
    negatives : int64[s], may repeat
    log_q_targets, log_q_negatives : float[m], float[s], logs of how likely each was to be sampled; 0 if None
    weights : float[m], 1 if None
    sparse : whether the gradient of the table is a sparse tensor of m + s rows, so that memory does not grow with n
    chunk_bytes : how many bytes the logits held at a time may take. None: as measured for the device.
    unit : whether the rows of the table are taken at length 1
    """
    needs_grad = _needs_grad(states, table)
    m, s = len(states), len(negatives)
    kind = _kind(states, table)
    rows = _rows_of_chunk(m, s, kind.itemsize, states.device.type, chunk_bytes)
    low = _low_precision(states.device.type)
    with torch.autocast(states.device.type, enabled=False):
        # One gather, so that the gradient of the table is made once.
        rows_of_table = functional.embedding(torch.cat([targets, negatives]), table, sparse=sparse)
        if unit:
            rows_of_table = functional.normalize(rows_of_table, dim=1)
        near, far = rows_of_table.split([m, s])
        hits = _pairs(targets, negatives)
        return _SampledSoftmax.apply(
            states,
            near,
            far,
            log_q_targets,
            log_q_negatives,
            hits,
            weights,
            rows,
            low,
            (*needs_grad[:2], needs_grad[1]),
        )


def gbce(positive: Tensor, negative: Tensor, n_items: int, t: float, weights: Tensor | None = None) -> Tensor:
    """Generalised binary cross-entropy (Petrov & Macdonald, RecSys 2023): bce with σ(positive) to the power β.

    -(log σ^β(s⁺) + sum over negatives of log(1 - σ(s⁻))) / (s + 1), β = α (t (1 - 1/α) + 1/α), α = s / (n_items - 1).
    The power is a product with the log-sigmoid, so nothing over- or underflows. t = 0 is plain cross-entropy, t = 1
    makes the scores calibrated.

    Parameters
    ----------
    positive : float[m], logits of targets
    negative : float[m, s], logits of negatives sampled uniformly
    n_items : how many items negatives were sampled from, with the target
    t : calibration, 0..1
    """
    positive, negative = _wide(positive), _wide(negative)
    s = negative.shape[1]
    alpha = s / max(1, n_items - 1)
    beta = t * (alpha - 1) + 1
    return _total((functional.softplus(-positive) * beta + functional.softplus(negative).sum(1)) / (s + 1), weights)


def bce(positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy: -log σ(s⁺) - sum over negatives of log(1 - σ(s⁻)) (Kang & McAuley, ICDM 2018, eq. 6).

    `positive` is float[m], `negative` float[m] or float[m, s]. With s negatives it is (s + 1) times gbce at t = 0.
    """
    positive, negative = _wide(positive), _wide(negative)
    return _total(
        functional.softplus(-positive) + functional.softplus(negative).reshape(len(negative), -1).sum(1), weights
    )


def bpr(positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking: mean over negatives of -log σ(s⁺ - s⁻) (Rendle et al., UAI 2009).

    `positive` is float[m], `negative` float[m] or float[m, s]: the mean over s is of Hidasi et al., ICLR 2016.
    """
    positive, negative = _wide(positive), _wide(negative)
    negative = negative.reshape(len(positive), -1)
    return _total(functional.softplus(negative - positive[:, None]).mean(1), weights)


def bpr_max(positive: Tensor, negative: Tensor, reg: float, weights: Tensor | None = None) -> Tensor:
    """BPR-max (Hidasi & Karatzoglou, CIKM 2018, eq. 9): -log sum_j p_j σ(s⁺ - s_j) + reg sum_j p_j s_j².

    p is the softmax over the row's negatives. The sum is taken in log space, so it does not vanish with σ.

    Parameters
    ----------
    positive : float[m]
    negative : float[m, s]
    reg : weight of the penalty on scores of negatives
    """
    positive, negative = _wide(positive), _wide(negative)
    log_p = functional.log_softmax(negative, 1)
    ranked = torch.logsumexp(log_p + functional.logsigmoid(positive[:, None] - negative), 1)
    # A negative left out by a very low score has no weight, and its square must not overflow into one.
    penalty = (log_p.exp() * negative.clamp(min=-1e4).square()).sum(1)
    return _total(reg * penalty.where(negative.amax(1) > -1e4, 0.0) - ranked, weights)


def mse(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Squared error, float[m] or float[m, ...]: the mean over what a row holds, the sum over rows."""
    error = (_wide(predicted) - target).square()
    return _total(error.reshape(len(error), -1).mean(1), weights)


def multinomial(logits: Tensor, counts: Tensor, weights: Tensor | None = None) -> Tensor:
    """Multinomial likelihood -sum_j c_j log softmax(x)_j of MultVAE (Liang et al., WWW 2018, eq. 2).

    `logits` and `counts` are float[m, n]; counts are of a user's events with items and need not be whole.
    """
    return _total(-(counts * functional.log_softmax(_wide(logits), 1)).sum(1), weights)


def gaussian_kl(mean: Tensor, log_variance: Tensor, weights: Tensor | None = None) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)), both float[m, k], from N(0, I) (Kingma & Welling 2014, app. B)."""
    mean, log_variance = _wide(mean), _wide(log_variance)
    # expm1 keeps the digits that exp(v) - 1 loses near v = 0, where training starts.
    return _total(0.5 * (torch.expm1(log_variance) - log_variance + mean.square()).sum(1), weights)


class _FullSoftmax(torch.autograd.Function):
    """See full_softmax; `shape`: rows and items of a chunk; `needs_grad`: which of states, table and bias need one."""

    @staticmethod
    def forward(ctx: Any, states, table, bias, targets, weights, shape, low, needs_grad):  # type: ignore[no-untyped-def]
        kind = _kind(states, table)
        x, t = states.to(kind), table.to(kind)
        b = None if bias is None else bias.to(kind)
        w = torch.ones(len(x), dtype=kind, device=x.device) if weights is None else weights.to(kind)
        by = _by_rows if shape[1] >= len(t) else _by_tiles
        losses, grads = by(x, t, b, targets, w, shape, low, needs_grad)
        saved = [None if g is None else g.to(v.dtype) for g, v in zip(grads, (states, table, bias))]
        ctx.save_for_backward(*saved)
        return (losses * w).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        return (*_scaled_gradients(ctx, grad), None, None, None, None, None)


def _scaled_gradients(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """The gradients that `forward` has saved, times that of the sum of losses."""
    return [None if saved is None else (saved * grad).to(saved.dtype) for saved in ctx.saved_tensors]


def _by_rows(x, t, b, targets, w, shape, low, needs_grad):
    """Losses [m] and gradients, a chunk of whole rows of logits at a time."""
    rows = min(shape[0], max(len(x), 1))
    buffer, losses, grads = x.new_empty(rows, len(t)), x.new_empty(len(x)), _zeros(needs_grad, x, t, b)
    low_t = None if low is None else t.to(low)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        logits, at = buffer[: len(x[part])], targets[part, None]
        _product(x[part], t.T, logits, low, low_right=None if low_t is None else low_t.T)
        if b is not None:
            logits += b
        logits -= logits.amax(1, keepdim=True)
        target_logits = logits.gather(1, at)
        total = logits.exp_().sum(1, keepdim=True)
        torch.sub(total.log()[:, 0], target_logits[:, 0], out=losses[part])
        if not any(needs_grad):
            continue
        # Divided by the total where the result is [rows, d], and not here where it is [rows, n].
        logits.scatter_add_(1, at, -total)
        scale = w[part, None] / total
        if needs_grad[0]:
            _product(logits, t, grads[0][part], low, low_right=low_t)
            grads[0][part] *= scale
        if needs_grad[1]:
            _add_product(grads[1], logits.T, x[part] * scale, low)
        if needs_grad[2]:
            grads[2].addmv_(logits.T, scale[:, 0])
    return losses, grads


def _by_tiles(x, t, b, targets, w, shape, low, needs_grad):
    """Losses [m] and gradients, a tile of rows × items at a time, in two passes."""
    rows, columns = min(shape[0], max(len(x), 1)), shape[1]
    buffer, grads = x.new_empty(rows * columns), _zeros(needs_grad, x, t, b)
    maximum, total = x.new_full((len(x), 1), -torch.inf), x.new_zeros(len(x), 1)

    def tiles():
        for first in range(0, len(t), columns):
            items = slice(first, first + columns)
            for start in range(0, len(x), rows):
                part = slice(start, start + rows)
                n_rows, n_items = len(x[part]), len(t[items])
                logits = buffer[: n_rows * n_items].view(n_rows, n_items)
                _product(x[part], t[items].T, logits, low)
                if b is not None:
                    logits += b[items]
                yield part, items, logits

    for part, _, logits in tiles():
        highest = torch.maximum(logits.amax(1, keepdim=True), maximum[part])
        total[part] *= (maximum[part] - highest).exp_()
        total[part] += logits.sub_(highest).exp_().sum(1, keepdim=True)
        maximum[part] = highest
    # Rounded as the logits were: the loss of a sure row must not be what rounding left.
    target_logits = x.new_empty(len(x))
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        near = t[targets[part]]
        if low is None:
            target_logits[part] = (x[part] * near).sum(1)
        else:
            target_logits[part] = (x[part].to(low).to(x.dtype) * near.to(low).to(x.dtype)).sum(1).to(low)
    if b is not None:
        target_logits += b[targets]
    losses = (total.log() + (maximum - target_logits[:, None]))[:, 0]
    if not any(needs_grad):
        return losses, grads
    for part, items, logits in tiles():
        logits.sub_(maximum[part]).exp_()
        at = targets[part] - items.start
        inside = ((at >= 0) & (at < logits.shape[1])).to(x.dtype)[:, None]
        logits.scatter_add_(1, at.clamp(0, logits.shape[1] - 1)[:, None], -total[part] * inside)
        scale = w[part, None] / total[part]
        if needs_grad[0]:
            _add_product(grads[0][part], logits, t[items], low, scale)
        if needs_grad[1]:
            _add_product(grads[1][items], logits.T, x[part] * scale, low)
        if needs_grad[2]:
            grads[2][items].addmv_(logits.T, scale[:, 0])
    return losses, grads


class _SampledSoftmax(torch.autograd.Function):
    """See sampled_softmax: `near` [m, d] are the targets' vectors, `far` [s, d] the negatives', `hits` as of _pairs."""

    @staticmethod
    def forward(ctx: Any, states, near, far, log_q_near, log_q_far, hits, weights, rows, low, needs_grad):  # type: ignore[no-untyped-def]
        kind = _kind(states, near)
        x, p, t = states.to(kind), near.to(kind), far.to(kind)
        w = torch.ones(len(x), dtype=kind, device=x.device) if weights is None else weights.to(kind)
        target_logits = (x * p).sum(1, keepdim=True)
        if log_q_near is not None:
            target_logits -= log_q_near.to(kind)[:, None]
        rows = min(rows, max(len(x), 1))
        held, losses = x.new_empty(rows, len(t)), x.new_empty(len(x))
        pulls = x.new_empty(len(x), 1)  # the derivative of the loss in the target's logit
        grads = _zeros((needs_grad[0], False, needs_grad[2]), x, p, t)
        low_t = None if low is None else t.to(low)
        hit_rows, hit_columns = hits
        edges = torch.searchsorted(hit_rows, torch.arange(0, len(x) + rows, rows, device=x.device)).tolist()
        for nth, start in enumerate(range(0, len(x), rows)):
            part = slice(start, start + rows)
            logits = held[: len(x[part])]
            _product(x[part], t.T, logits, low, low_right=None if low_t is None else low_t.T)
            if log_q_far is not None:
                logits -= log_q_far.to(kind)
            hit = slice(edges[nth], edges[nth + 1])
            if hit.stop > hit.start:
                logits[hit_rows[hit] - start, hit_columns[hit]] = -torch.inf
            highest = torch.maximum(logits.amax(1, keepdim=True), target_logits[part])
            others = logits.sub_(highest).exp_().sum(1, keepdim=True)
            own = target_logits[part] - highest
            total = others + own.exp()
            torch.sub(total.log()[:, 0], own[:, 0], out=losses[part])
            if not any(needs_grad):
                continue
            scale = w[part, None] / total
            pulls[part] = -others * scale  # and not p - 1, which loses digits where p is near 1
            if needs_grad[0]:
                _product(logits, t, grads[0][part], low, low_right=low_t)
                grads[0][part] *= scale
            if needs_grad[2]:
                _add_product(grads[2], logits.T, x[part] * scale, low)
        if needs_grad[0]:
            grads[0].addcmul_(pulls, p)
        near_grad = pulls * x if needs_grad[1] else None
        saved = [None if g is None else g.to(states.dtype if at == 0 else near.dtype)
                for at, g in enumerate((grads[0], near_grad, grads[2]))]  # fmt: skip
        ctx.save_for_backward(*saved)
        return (losses * w).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        return (*_scaled_gradients(ctx, grad), None, None, None, None, None, None, None)


def _product(
    left: Tensor, right: Tensor, out: Tensor, low: torch.dtype | None, low_right: Tensor | None = None
) -> None:
    """out = left right, the factors rounded to `low`, if given."""
    if low is None:
        torch.mm(left, right, out=out)
    else:
        out.copy_(torch.mm(left.to(low), right.to(low) if low_right is None else low_right))


def _add_product(
    out: Tensor, left: Tensor, right: Tensor, low: torch.dtype | None, scale: Tensor | None = None
) -> None:
    """out += scale · left right in the precision of `out`, the factors rounded to `low`, if given."""
    if low is None and scale is None:
        out.addmm_(left, right)
        return
    product = torch.mm(left, right) if low is None else torch.mm(left.to(low), right.to(low)).to(out.dtype)
    out += product if scale is None else product * scale


def _pairs(targets: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of accidental hits, by row: where negatives[column] == targets[row].

    Few pairs are, so a search in sorted negatives is cheaper than comparing all m × s.
    """
    ordered, order = torch.sort(negatives)
    low = torch.searchsorted(ordered, targets)
    many = torch.searchsorted(ordered, targets, right=True) - low
    rows = torch.repeat_interleave(torch.arange(len(targets), device=targets.device), many)
    ends = many.cumsum(0)
    columns = low[rows] + torch.arange(len(rows), device=rows.device) - (ends - many)[rows]
    return rows, order[columns]


def _shape_of_chunk(m: int, n: int, itemsize: int, device: str, chunk_bytes: int | None) -> tuple[int, int]:
    """Rows and items of the logits held at a time: all items where enough rows fit, else a tile."""
    if chunk_bytes is None:
        rows = _rows_of_chunk(m, n, itemsize, device, None)
        if rows >= min(FEW_ROWS, m):
            return rows, n
        chunk_bytes = HOST_BYTES if device == "cpu" else DEVICE_BYTES
    elif chunk_bytes >= n * itemsize:
        return max(1, chunk_bytes // (n * itemsize)), n
    room = max(1, chunk_bytes // itemsize)
    columns = min(n, room, TILE_COLUMNS if device == "cpu" else 16 * TILE_COLUMNS)
    return max(1, room // columns), columns


def _rows_of_chunk(m: int, n: int, itemsize: int, device: str, chunk_bytes: int | None) -> int:
    """How many whole rows of n logits are held at a time."""
    row = max(1, n) * itemsize
    if chunk_bytes is not None:
        return max(1, chunk_bytes // row)
    target_bytes, max_bytes = (HOST_BYTES, HOST_MOST_BYTES) if device == "cpu" else (DEVICE_BYTES, 4 * DEVICE_BYTES)
    return max(1, min(m, max(target_bytes // row, min(FEW_ROWS, max_bytes // row))))


def _zeros(needs_grad, *tensors):
    """A place for each gradient that is wanted."""
    return [torch.zeros_like(v) if want else None for want, v in zip(needs_grad, tensors)]


def _needs_grad(*tensors: Tensor | None) -> tuple[bool, ...]:
    """Which tensors need a gradient; none where gradients are disabled, which `needs_input_grad` does not reflect."""
    return tuple(v is not None and v.requires_grad and torch.is_grad_enabled() for v in tensors)


def _kind(*tensors: Tensor) -> torch.dtype:
    """The type of accumulators: the widest type of the tensors, at least float32."""
    kind = torch.float32
    for v in tensors:
        kind = torch.promote_types(kind, v.dtype)
    return kind


def _low_precision(device: str) -> torch.dtype | None:
    """bfloat16 where autocast asks for it and has units for it. A host keeps float32: few have, and are slower."""
    if device == "cpu" or not torch.is_autocast_enabled(device):
        return None
    # float16 has not the range for sums of exponentials.
    return torch.bfloat16 if torch.get_autocast_dtype(device) == torch.bfloat16 else None


def _wide(x: Tensor) -> Tensor:
    """`x` in float32 at least: logs and exponentials of half precision lose the loss."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _total(losses: Tensor, weights: Tensor | None) -> Tensor:
    return losses.sum() if weights is None else (losses * weights).sum()
