"""Add members' pixels to running totals in one pass, compiled for the processor at hand; scores.py has the plain form.

A pass reads each value once and keeps all else in a core's caches: main memory and the logarithms are what it costs.
Logarithm and exponential are polynomials without a branch, which a compiler turns into the processor's widest operations;
a call of a library's for each value would cost several times the rest. The functions let go of the interpreter's lock,
so that threads may work on blocks of their own.
"""

from typing import Any

import numpy as np
from numba import njit

PIXELS = 4096  # long rows are fetched from memory ahead of time; at 19 classes they stay in a core's second cache
Array = np.ndarray[Any, np.dtype[Any]]
F32, I32 = np.float32, np.int32
# Fused multiply-add; NaN and infinity keep their meaning. What was compiled is kept beside this file, else where
# NUMBA_CACHE_DIR says: compiling takes seconds.
compiled = njit(nogil=True, cache=True, fastmath={"contract", "nsz"})


@compiled
def logarithm(x: Any) -> Any:
    """Return log x of a float32 of at least the smallest normal number, to 1e-7; something finite for 0, so that 0 log 0 is 0.

    Source: Cephes' logf: x = m 2^e with m in [sqrt(1/2), sqrt(2)), a polynomial in m - 1 for log m.
    """
    bits = F32(x).view(np.int32)
    exponent = I32(I32(bits >> I32(23)) - I32(126))
    m = I32(I32(bits & I32(0x7FFFFF)) | I32(0x3F000000)).view(np.float32)
    low = m < F32(0.707106781186547524)
    e = F32(exponent) - (F32(1) if low else F32(0))
    m = m + (m if low else F32(0)) - F32(1)
    square = m * m
    y = F32(7.0376836292e-2)
    y = y * m + F32(-1.1514610310e-1)
    y = y * m + F32(1.1676998740e-1)
    y = y * m + F32(-1.2420140846e-1)
    y = y * m + F32(1.4249322787e-1)
    y = y * m + F32(-1.6668057665e-1)
    y = y * m + F32(2.0000714765e-1)
    y = y * m + F32(-2.4999993993e-1)
    y = y * m + F32(3.3333331174e-1)
    y = y * m * square + F32(-2.12194440e-4) * e - F32(0.5) * square
    return (m + y) + F32(0.693359375) * e


@compiled
def exponential(x: Any) -> Any:
    """Return exp x of a float32 from -87 to 88, to 1e-7.

    Source: Cephes' expf: x = n log 2 + r with |r| <= log(2) / 2, a polynomial in r for exp r.
    """
    n = np.floor(x * F32(1.44269504088896341) + F32(0.5))
    r = x - n * F32(0.693359375) + n * F32(2.12194440e-4)
    y = F32(1.9875691500e-4)
    y = y * r + F32(1.3981999507e-3)
    y = y * r + F32(8.3334519073e-3)
    y = y * r + F32(4.1665795894e-2)
    y = y * r + F32(1.6666665459e-1)
    y = y * r + F32(5.0000001201e-1)
    y = y * r * r + r + F32(1)
    return y * I32(I32(I32(n) + I32(127)) << I32(23)).view(np.float32)


# Rows are slices of one class: the compiler knows of those alone that their pixels lie side by side.


@compiled
def _raise_to(greatest: Array, row: Array) -> None:
    for i in range(row.size):
        greatest[i] = row[i] if row[i] > greatest[i] else greatest[i]


@compiled
def _add_exponentials(row: Array, greatest: Array, result: Array, total: Array, product: Array) -> None:
    for i in range(row.size):
        z = row[i] - greatest[i]
        z = F32(-87) if z < F32(-87) else z  # exp(-inf) is 0, but 0 * -inf would be NaN
        e = exponential(z)
        result[i] = e
        total[i] += e
        product[i] += e * z


@compiled
def _softmax(values: Array, frame: int, first: int, probabilities: Array, entropy: Array) -> None:
    """Write softmax, (class, pixel), and its entropy, log S - sum_c p_c z_c with z the logits less their greatest."""
    classes, pixels = values.shape[1], entropy.size
    last = first + pixels
    greatest, total, product = values[frame, 0, first:last].copy(), np.zeros(pixels, F32), np.zeros(pixels, F32)
    for c in range(1, classes):
        _raise_to(greatest, values[frame, c, first:last])
    for c in range(classes):
        _add_exponentials(values[frame, c, first:last], greatest, probabilities[c], total, product)
    for i in range(pixels):
        entropy[i] = logarithm(total[i]) - product[i] / total[i]
        total[i] = F32(1) / total[i]
    for c in range(classes):
        row = probabilities[c]
        for i in range(pixels):
            row[i] *= total[i]


@compiled
def _take_entropy(row: Array, entropy: Array) -> None:
    for i in range(row.size):
        entropy[i] -= row[i] * logarithm(row[i])


@compiled
def _move(mean: Array, row: Array, share: Any) -> None:
    for i in range(mean.size):
        mean[i] += (row[i] - mean[i]) * share


@compiled
def _take_and_move(row: Array, entropy: Array, mean: Array, share: Any) -> None:
    for i in range(row.size):
        p = row[i]
        entropy[i] -= p * logarithm(p)
        mean[i] += (p - mean[i]) * share


@compiled
def _add_squares(spread: Array, mean: Array, row: Array, weight: Any) -> None:
    for i in range(mean.size):
        spread[i] += (row[i] - mean[i]) ** 2 * weight


@compiled
def _improve(best: Array, winner: Array, row: Array, c: int) -> None:
    for i in range(best.size):
        better = row[i] > best[i]
        best[i] = row[i] if better else best[i]
        winner[i] = np.int32(c) if better else winner[i]


@compiled
def _count(votes: Array, winner: Array, c: int) -> None:
    for i in range(winner.size):
        votes[i] += np.int16(winner[i] == np.int32(c))


@compiled
def add(
    logits: bool, values: Array, mean: Array, entropy: Array, spread: Array, votes: Array, part: tuple, count: int
) -> None:
    """Add the member number `count` (1 for the first) to the totals of a part, by Welford's update, exact for equal members.

    values: (frame, class, pixel) float32, logits or probabilities. mean: the same shape. entropy: (frame, pixel), the
    mean of the members' entropies. spread: (frame, pixel), the sum of squares; votes: (frame, class, pixel) int16; both
    are left alone where they have no element. part: (frame, first pixel, one past the last).
    """
    frame, start, stop = part
    classes = values.shape[1]
    softmax, own = np.empty((classes, PIXELS), F32), np.empty(PIXELS, F32)
    best, winner = np.empty(PIXELS, F32), np.empty(PIXELS, np.int32)
    share, weight = F32(1) / F32(count), F32(count - 1) / F32(count)
    for first in range(start, stop, PIXELS):
        last = min(first + PIXELS, stop)
        pixels = last - first
        own[:] = 0
        best[:] = -1
        winner[:] = 0
        if logits:
            _softmax(values, frame, first, softmax, own[:pixels])
        for c in range(classes):
            row = softmax[c, :pixels] if logits else values[frame, c, first:last]
            average = mean[frame, c, first:last]
            if spread.size:
                _add_squares(spread[frame, first:last], average, row, weight)
            if logits:
                _move(average, row, share)
            else:
                _take_and_move(row, own, average, share)
            if votes.size:
                _improve(best[:pixels], winner, row, c)
        _move(entropy[frame, first:last], own, share)
        if votes.size:
            for c in range(classes):
                _count(votes[frame, c, first:last], winner[:pixels], c)


@compiled
def write_entropy(mean: Array, entropy: Array, part: tuple) -> None:
    """Write the entropy of the mean, (frame, pixel), of a part."""
    frame, start, stop = part
    entropy[frame, start:stop] = 0
    for first in range(start, stop, PIXELS):
        last = min(first + PIXELS, stop)
        for c in range(mean.shape[1]):
            _take_entropy(mean[frame, c, first:last], entropy[frame, first:last])
