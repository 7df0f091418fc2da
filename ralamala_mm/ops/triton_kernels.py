"""The passes over q, k, v of RALA and MALA, and the rotary turn, as Triton kernels. `triton.py` puts them together.

Shapes: B batch, N heads, L tokens, D channels per head; `WIDTH` is D rounded up to a power of two, `ROWS` tokens are
worked on at a time. Tensors of tokens are `[B, N, L, D]` with any strides, those of q, k and v being one and the same.
A program has a head of an image (axis 1 of the grid) and a run of `chunk` tokens (axis 0); what it sums over them is
written for itself and added up by the caller, so that results do not depend on the order in which programs run.
Everything is computed in fp32. With `RALA` false the formulas are MALA's. Names as in `naive`:

    φ(t) = elu(t) + 1,  q̂ = φ(q),  k̂ = φ(k),  s = D^(-1/2),  n_i = R(q̂_i) S
    RALA   w = softmax_j(s · mean_i(q̂_i) · k̂_j),  κ = Σ_j w_j k̂_j,  S = Σ_j w_j R(k̂_j)ᵀ v_j
           z_i = q̂_i · κ + ε,  out_i = n_i / z_i
    MALA   κ = s/L Σ_j k̂_j,  μ = 1/L Σ_j v_j,  S = s/L Σ_j R(k̂_j)ᵀ v_j
           z_i = q̂_i · κ,  out_i = n_i (1 + 1/(z_i + ε)) − z_i μ
"""

import triton
import triton.language as tl

# Lengths and widths differ from image to image, heads from stage to stage: nothing is compiled for one of them.
_SIZES = ['heads', 'length', 'width', 'height', 'chunk']


@triton.jit
def _feature_map(x):
    return tl.where(x > 0, x + 1, tl.exp(tl.minimum(x, 0)))


@triton.jit
def _feature_gradient(x):
    return tl.where(x > 0, 1, tl.exp(tl.minimum(x, 0)))


@triton.jit
def _rounded(x, PRECISION: tl.constexpr):
    """fp32 as a factor of a TF32 product, where tensor cores would cut off the digits that TF32 lacks.

    Rounding halves the error and takes away its bias, which adds up over tokens. Loaded fp16 and bf16 fit as they are;
    `tf32x3` rounds by itself.
    """
    if PRECISION == 'tf32':
        x = tl.inline_asm_elementwise('cvt.rna.tf32.f32 $0, $1;', '=r,r', [x], dtype=tl.float32, is_pure=True, pack=1)
    return x


@triton.jit
def _head(pointer, heads, stride_batch, stride_head):
    """Start of this program's head; in 64 bits, for batches of more than 2³¹ values."""
    index = tl.program_id(1)
    return pointer + (index // heads).to(tl.int64) * stride_batch + (index % heads).to(tl.int64) * stride_head


@triton.jit
def _offsets(tokens, stride_token, stride_channel, WIDTH: tl.constexpr):
    return tokens.to(tl.int64)[:, None] * stride_token + tl.arange(0, WIDTH)[None, :] * stride_channel


@triton.jit
def _mask(tokens, end, D: tl.constexpr, WIDTH: tl.constexpr):
    return (tokens < end)[:, None] & (tl.arange(0, WIDTH) < D)[None, :]


@triton.jit
def _load_turn(cos, sin, tokens, end, width, height, D: tl.constexpr, WIDTH: tl.constexpr):
    """cos and sin `[ROWS, WIDTH/2]` of the angles of tokens, from tables of H rows and then W columns, `[H + W, D/4]`."""
    pairs = tl.arange(0, WIDTH // 2)
    by_row = (pairs < D // 4)[None, :]
    y = tokens // width
    line = tl.where(by_row, y[:, None], height + (tokens - y * width)[:, None])
    offsets = line * (D // 4) + tl.where(by_row, pairs[None, :], pairs[None, :] - D // 4)
    mask = (tokens < end)[:, None] & (pairs < D // 2)[None, :]
    return tl.load(cos + offsets, mask=mask, other=1.0), tl.load(sin + offsets, mask=mask, other=0.0)


@triton.jit
def _turn(x, cos, sin, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """R(x); with −sin its inverse, which is also its transpose."""
    even, odd = tl.split(tl.reshape(x, (ROWS, WIDTH // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, odd * cos + even * sin), (ROWS, WIDTH))


@triton.jit
def _square(pointer, WIDTH: tl.constexpr):
    """Where this head's `[WIDTH, WIDTH]` matrix stands."""
    rows = tl.arange(0, WIDTH)
    return pointer + tl.program_id(1) * WIDTH * WIDTH + rows[:, None] * WIDTH + rows[None, :]


@triton.jit
def _vector(pointer, WIDTH: tl.constexpr):
    """Where this head's vector of `WIDTH` stands."""
    return pointer + tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)


@triton.jit
def _partial(WIDTH: tl.constexpr):
    """Offsets of this program's own vector among those of all programs, `[B·N, programs, WIDTH]`."""
    return (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * WIDTH + tl.arange(0, WIDTH)


@triton.jit
def _partial_square(WIDTH: tl.constexpr):
    """Offsets of this program's own matrix, `[B·N, programs, WIDTH, WIDTH]`."""
    rows = tl.arange(0, WIDTH)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    return program * WIDTH * WIDTH + rows[:, None] * WIDTH + rows[None, :]


@triton.jit(do_not_specialize=_SIZES)
def sum_queries(q, sums, heads, stride_batch, stride_head, stride_token, stride_channel, length, chunk,
                D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Σ_i q̂_i over this program's tokens."""
    q = _head(q, heads, stride_batch, stride_head)
    start = tl.program_id(0) * chunk
    end = tl.minimum(start + chunk, length)
    total = tl.zeros((WIDTH,), tl.float32)
    for first in range(start, end, ROWS):
        tokens = first + tl.arange(0, ROWS)
        mask = _mask(tokens, end, D, WIDTH)
        x = tl.load(q + _offsets(tokens, stride_token, stride_channel, WIDTH), mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(tl.where(mask, _feature_map(x), 0.0), axis=0)
    tl.store(sums + _partial(WIDTH), total)


@triton.jit(do_not_specialize=_SIZES)
def sum_keys(k, v, cos, sin, asked, buffers, key_sums, value_sums, maxima, totals,
             heads, stride_batch, stride_head, stride_token, stride_channel, length, width, height, chunk,
             D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, RALA: tl.constexpr, PRECISION: tl.constexpr):
    """Σ_j w_j R(k̂_j)ᵀ v_j and Σ_j w_j k̂_j over this program's tokens.

    RALA: `asked` is s · mean_i(q̂_i); w_j = exp(asked · k̂_j − the largest of these here), whose maximum and sum go to
    `maxima` and `totals`. MALA: w_j = 1, and `value_sums` gets Σ_j v_j.
    """
    k = _head(k, heads, stride_batch, stride_head)
    v = _head(v, heads, stride_batch, stride_head)
    start = tl.program_id(0) * chunk
    end = tl.minimum(start + chunk, length)
    buffer = tl.zeros((WIDTH, WIDTH), tl.float32)
    key_sum = tl.zeros((WIDTH,), tl.float32)
    value_sum = tl.zeros((WIDTH,), tl.float32)
    largest = float('-inf')
    total = 0.0
    if RALA:
        mean_query = tl.load(_vector(asked, WIDTH))
    for first in range(start, end, ROWS):
        tokens = first + tl.arange(0, ROWS)
        mask = _mask(tokens, end, D, WIDTH)
        offsets = _offsets(tokens, stride_token, stride_channel, WIDTH)
        keys = tl.where(mask, _feature_map(tl.load(k + offsets, mask=mask, other=0.0).to(tl.float32)), 0.0)
        values = tl.load(v + offsets, mask=mask, other=0.0).to(tl.float32)
        turn_cos, turn_sin = _load_turn(cos, sin, tokens, end, width, height, D, WIDTH)
        turned = _turn(keys, turn_cos, turn_sin, ROWS, WIDTH)
        if RALA:
            scores = tl.where(tokens < end, tl.sum(keys * mean_query[None, :], axis=1), float('-inf'))
            new_largest = tl.maximum(largest, tl.max(scores, axis=0))
            shrink = tl.exp(largest - new_largest)
            weights = tl.exp(scores - new_largest)
            total = total * shrink + tl.sum(weights, axis=0)
            key_sum = key_sum * shrink + tl.sum(keys * weights[:, None], axis=0)
            buffer = buffer * shrink + tl.dot(
                tl.trans(_rounded(turned * weights[:, None], PRECISION)), values, input_precision=PRECISION)
            largest = new_largest
        else:
            key_sum += tl.sum(keys, axis=0)
            value_sum += tl.sum(values, axis=0)
            buffer += tl.dot(tl.trans(_rounded(turned, PRECISION)), values, input_precision=PRECISION)
    tl.store(buffers + _partial_square(WIDTH), buffer)
    tl.store(key_sums + _partial(WIDTH), key_sum)
    if RALA:
        program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        tl.store(maxima + program, largest)
        tl.store(totals + program, total)
    else:
        tl.store(value_sums + _partial(WIDTH), value_sum)


@triton.jit(do_not_specialize=_SIZES)
def attend(q, cos, sin, buffer, key_sum, value_mean, out,
           heads, stride_batch, stride_head, stride_token, stride_channel,
           out_stride_batch, out_stride_head, out_stride_token, length, width, height, chunk, epsilon,
           D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, RALA: tl.constexpr, PRECISION: tl.constexpr):
    """out_i of this program's tokens."""
    q = _head(q, heads, stride_batch, stride_head)
    out = _head(out, heads, out_stride_batch, out_stride_head)
    start = tl.program_id(0) * chunk
    end = tl.minimum(start + chunk, length)
    square = _rounded(tl.load(_square(buffer, WIDTH)), PRECISION)
    kappa = tl.load(_vector(key_sum, WIDTH))
    if not RALA:
        mu = tl.load(_vector(value_mean, WIDTH))
    for first in range(start, end, ROWS):
        tokens = first + tl.arange(0, ROWS)
        mask = _mask(tokens, end, D, WIDTH)
        x = tl.load(q + _offsets(tokens, stride_token, stride_channel, WIDTH), mask=mask, other=0.0).to(tl.float32)
        queries = tl.where(mask, _feature_map(x), 0.0)
        turn_cos, turn_sin = _load_turn(cos, sin, tokens, end, width, height, D, WIDTH)
        z = tl.sum(queries * kappa[None, :], axis=1)
        turned = _turn(queries, turn_cos, turn_sin, ROWS, WIDTH)
        n = tl.dot(_rounded(turned, PRECISION), square, input_precision=PRECISION)
        if RALA:
            result = n / (z + epsilon)[:, None]
        else:
            result = n * (1 + 1 / (z + epsilon))[:, None] - z[:, None] * mu[None, :]
        tl.store(out + _offsets(tokens, out_stride_token, 1, WIDTH), result.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_SIZES)
def query_gradients(q, gradient, cos, sin, buffer, key_sum, value_mean, mean_gradient,
                    q_gradient, buffer_gradients, key_sum_gradients, value_mean_gradients,
                    heads, stride_batch, stride_head, stride_token, stride_channel,
                    out_stride_batch, out_stride_head, out_stride_token, out_stride_channel,
                    own_stride_batch, own_stride_head, own_stride_token,
                    length, width, height, chunk, epsilon,
                    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, RALA: tl.constexpr,
                    SUM: tl.constexpr, WRITE: tl.constexpr, PRECISION: tl.constexpr):
    """What the queries give: with `SUM` ∂/∂S, ∂/∂κ (MALA: and ∂/∂μ) over this program's tokens, with `WRITE` ∂/∂q.

    MALA does both in one pass. RALA's ∂/∂q needs `mean_gradient`, 1/L · ∂/∂mean(q̂), which follows from ∂/∂S.
    """
    q = _head(q, heads, stride_batch, stride_head)
    gradient = _head(gradient, heads, out_stride_batch, out_stride_head)
    start = tl.program_id(0) * chunk
    end = tl.minimum(start + chunk, length)
    square = tl.trans(_rounded(tl.load(_square(buffer, WIDTH)), PRECISION))
    kappa = tl.load(_vector(key_sum, WIDTH))
    if not RALA:
        mu = tl.load(_vector(value_mean, WIDTH))
    if SUM:
        square_sum = tl.zeros((WIDTH, WIDTH), tl.float32)
        kappa_sum = tl.zeros((WIDTH,), tl.float32)
        mu_sum = tl.zeros((WIDTH,), tl.float32)
    if WRITE:
        q_gradient = _head(q_gradient, heads, own_stride_batch, own_stride_head)
        if RALA:
            shared = tl.load(_vector(mean_gradient, WIDTH))
    for first in range(start, end, ROWS):
        tokens = first + tl.arange(0, ROWS)
        mask = _mask(tokens, end, D, WIDTH)
        x = tl.load(q + _offsets(tokens, stride_token, stride_channel, WIDTH), mask=mask, other=0.0).to(tl.float32)
        g = tl.load(gradient + _offsets(tokens, out_stride_token, out_stride_channel, WIDTH), mask=mask, other=0.0).to(tl.float32)
        queries = tl.where(mask, _feature_map(x), 0.0)
        turn_cos, turn_sin = _load_turn(cos, sin, tokens, end, width, height, D, WIDTH)
        turned = _turn(queries, turn_cos, turn_sin, ROWS, WIDTH)
        z = tl.sum(queries * kappa[None, :], axis=1)
        inverse = 1 / (z + epsilon)
        # g_i · n_i = R(q̂_i) · (g_i Sᵀ), so that one product with Sᵀ serves ∂/∂z and ∂/∂q.
        projected = tl.dot(g, square, input_precision=PRECISION)
        z_gradient = -tl.sum(turned * projected, axis=1) * inverse * inverse
        if RALA:
            n_scale = inverse
        else:
            n_scale = 1 + inverse
            z_gradient -= tl.sum(g * mu[None, :], axis=1)
        if SUM:
            square_sum += tl.dot(tl.trans(_rounded(turned * n_scale[:, None], PRECISION)), g, input_precision=PRECISION)
            kappa_sum += tl.sum(queries * z_gradient[:, None], axis=0)
            if not RALA:
                mu_sum -= tl.sum(g * z[:, None], axis=0)
        if WRITE:
            result = _turn(projected * n_scale[:, None], turn_cos, -turn_sin, ROWS, WIDTH) + z_gradient[:, None] * kappa[None, :]
            if RALA:
                result += shared[None, :]
            tl.store(q_gradient + _offsets(tokens, own_stride_token, 1, WIDTH),
                     (result * _feature_gradient(x)).to(q_gradient.dtype.element_ty), mask=mask)
    if SUM:
        tl.store(buffer_gradients + _partial_square(WIDTH), square_sum)
        tl.store(key_sum_gradients + _partial(WIDTH), kappa_sum)
        if not RALA:
            tl.store(value_mean_gradients + _partial(WIDTH), mu_sum)


@triton.jit(do_not_specialize=_SIZES)
def key_gradients(k, v, cos, sin, asked, largest, total, weighted, buffer_gradient, key_sum_gradient, value_mean_gradient,
                  k_gradient, v_gradient, mean_gradients,
                  heads, stride_batch, stride_head, stride_token, stride_channel,
                  own_stride_batch, own_stride_head, own_stride_token, length, width, height, chunk,
                  D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, RALA: tl.constexpr, PRECISION: tl.constexpr):
    """∂/∂k and ∂/∂v of this program's tokens.

    RALA: w_j = exp(asked · k̂_j − largest) / total, t_j = ∂/∂w_j, `weighted` = Σ_j w_j t_j, and `mean_gradients` gets
    Σ_j w_j (t_j − weighted) k̂_j. MALA: the gradients of S, κ and μ come multiplied by s/L, s/L and 1/L.
    """
    k = _head(k, heads, stride_batch, stride_head)
    v = _head(v, heads, stride_batch, stride_head)
    k_gradient = _head(k_gradient, heads, own_stride_batch, own_stride_head)
    v_gradient = _head(v_gradient, heads, own_stride_batch, own_stride_head)
    start = tl.program_id(0) * chunk
    end = tl.minimum(start + chunk, length)
    square = _rounded(tl.load(_square(buffer_gradient, WIDTH)), PRECISION)
    kappa = tl.load(_vector(key_sum_gradient, WIDTH))
    if RALA:
        mean_query = tl.load(_vector(asked, WIDTH))
        top = tl.load(largest + tl.program_id(1))
        share = 1 / tl.load(total + tl.program_id(1))
        mean_term = tl.load(weighted + tl.program_id(1))
        mean_sum = tl.zeros((WIDTH,), tl.float32)
    else:
        mu = tl.load(_vector(value_mean_gradient, WIDTH))
    for first in range(start, end, ROWS):
        tokens = first + tl.arange(0, ROWS)
        mask = _mask(tokens, end, D, WIDTH)
        offsets = _offsets(tokens, stride_token, stride_channel, WIDTH)
        x = tl.load(k + offsets, mask=mask, other=0.0).to(tl.float32)
        values = tl.load(v + offsets, mask=mask, other=0.0).to(tl.float32)
        keys = tl.where(mask, _feature_map(x), 0.0)
        turn_cos, turn_sin = _load_turn(cos, sin, tokens, end, width, height, D, WIDTH)
        turned = _turn(keys, turn_cos, turn_sin, ROWS, WIDTH)
        from_values = tl.dot(_rounded(turned, PRECISION), square, input_precision=PRECISION)
        turned_gradient = tl.dot(values, tl.trans(square), input_precision=PRECISION)
        key_result = _turn(turned_gradient, turn_cos, -turn_sin, ROWS, WIDTH) + kappa[None, :]
        if RALA:
            weights = tl.exp(tl.sum(keys * mean_query[None, :], axis=1) - top) * share
            terms = tl.sum(from_values * values, axis=1) + tl.sum(keys * kappa[None, :], axis=1)
            score_gradient = tl.where(tokens < end, weights * (terms - mean_term), 0.0)
            mean_sum += tl.sum(keys * score_gradient[:, None], axis=0)
            key_result = key_result * weights[:, None] + score_gradient[:, None] * mean_query[None, :]
            value_result = from_values * weights[:, None]
        else:
            value_result = from_values + mu[None, :]
        own = _offsets(tokens, own_stride_token, 1, WIDTH)
        tl.store(k_gradient + own, (key_result * _feature_gradient(x)).to(k_gradient.dtype.element_ty), mask=mask)
        tl.store(v_gradient + own, value_result.to(v_gradient.dtype.element_ty), mask=mask)
    if RALA:
        tl.store(mean_gradients + _partial(WIDTH), mean_sum)


@triton.jit(do_not_specialize=_SIZES)
def turn_tokens(x, cos, sin, out, heads, stride_batch, stride_head, stride_token, stride_channel,
                out_stride_batch, out_stride_head, out_stride_token, length, width, height, chunk,
                D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BACK: tl.constexpr):
    """R(x) of this program's tokens, or with `BACK` its inverse."""
    x = _head(x, heads, stride_batch, stride_head)
    out = _head(out, heads, out_stride_batch, out_stride_head)
    start = tl.program_id(0) * chunk
    end = tl.minimum(start + chunk, length)
    for first in range(start, end, ROWS):
        tokens = first + tl.arange(0, ROWS)
        mask = _mask(tokens, end, D, WIDTH)
        value = tl.load(x + _offsets(tokens, stride_token, stride_channel, WIDTH), mask=mask, other=0.0).to(tl.float32)
        turn_cos, turn_sin = _load_turn(cos, sin, tokens, end, width, height, D, WIDTH)
        if BACK:
            turn_sin = -turn_sin
        tl.store(out + _offsets(tokens, out_stride_token, 1, WIDTH),
                 _turn(value, turn_cos, turn_sin, ROWS, WIDTH).to(out.dtype.element_ty), mask=mask)
