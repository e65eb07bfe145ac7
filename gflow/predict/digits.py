"""Linear equations in float64 numbers, solved to fifty digits: what decides where float64 leaves a sign open.

A float64 is an integer times a power of two. Vectors are *fixed*: integers, in units of 2^−BITS. Matrices are integers
in units of 2^−shift, which loses nothing. So residuals are exact, and iterative refinement with a float64 factorisation
gains digits until all are right; where the factorisation is too inaccurate to gain any, integers eliminate.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

Fixed = Shaped[np.ndarray, "_"]  # of Python integers
BITS = 400  # more than twice the bits that are wanted, so that products of tiny and huge numbers keep them
_WANTED = 200  # bits in the largest entry of a solution; a sign is decided by far fewer, see `ZERO`
ZERO = 2.0**-150  # relative to the largest entry: less is zero, since a solution is right to 2^−_WANTED
LARGEST_ELIMINATION = 80  # unknowns; integers grow to thousands of digits, and this many take a second or two


class Matrix(NamedTuple):
    """numbers · 2^−shift, exactly."""

    numbers: Shaped[np.ndarray, "n m"]
    shift: int

    def times(self, x: Fixed) -> Fixed:
        """The product, rounded down to a unit."""
        return (self.numbers @ x) >> self.shift

    def transposed_times(self, x: Fixed) -> Fixed:
        return (self.numbers.T @ x) >> self.shift

    def rows(self, index: list[int]) -> "Matrix":
        return Matrix(self.numbers[index], self.shift)


def integers(A: Float[np.ndarray, "n m"]) -> Matrix:
    """A as integers, exactly."""
    _, exponents = np.frexp(A[A != 0])
    shift = max(0, 53 - int(exponents.min(initial=53)))
    return Matrix(_scaled(A, shift), shift)


def fixed(x: Float[np.ndarray, " k"]) -> Fixed:
    """x in units of 2^−BITS."""
    return _scaled(x, BITS)


def _scaled(x: np.ndarray, bits: int) -> np.ndarray:
    found = np.empty(x.shape, object)
    for index, value in np.ndenumerate(x):
        numerator, denominator = float(value).as_integer_ratio()
        found[index] = (numerator << bits) // denominator
    return found


def floats(x: Fixed) -> Float[np.ndarray, " k"]:
    """The nearest float64 numbers."""
    return np.array([value / (1 << BITS) for value in x], float)


def refined(residual: Callable[[Fixed], Fixed], correct: Callable[[np.ndarray], np.ndarray], size: int) -> Fixed | None:
    """x with residual(x) = 0, from approximate corrections; None where these do not halve its changes, or cancel."""
    x, last = fixed(np.zeros(size)), math.inf
    while True:
        left = residual(x)
        change = correct(floats(left))
        largest = float(np.abs(change).max(initial=0.0))
        if not largest <= last / 2 or (largest == 0 and left.any()):
            return None
        x, last = x + fixed(change), largest
        if largest <= 2.0**-_WANTED * float(np.abs(floats(x)).max(initial=0.0)):
            return x


def solve(B: Matrix, b: Fixed) -> Fixed | None:
    """x with Bx = b for square B, by refinement, else by elimination; None where B is singular or too large for it."""
    try:
        inverse = np.linalg.inv(np.array(B.numbers / (1 << B.shift), float))
    except np.linalg.LinAlgError:
        inverse = None
    found = None if inverse is None else refined(lambda x: b - B.times(x), lambda r: inverse @ r, len(b))
    if found is not None:
        return found
    eliminated = eliminate(B, b)
    return None if eliminated is None else (eliminated[0] << B.shift) // eliminated[1]


def eliminate(B: Matrix, b: Fixed) -> tuple[Fixed, int] | None:
    """Integers x and D with B.numbers x = D b, without rounding (Bareiss 1968); None where singular or too large."""
    n = len(b)
    if n > LARGEST_ELIMINATION:
        return None
    M, previous = np.concatenate([B.numbers, b[:, None]], axis=1), 1
    for k in range(n):
        pivot = next((i for i in range(k, n) if M[i, k] != 0), None)
        if pivot is None:
            return None
        M[[k, pivot]] = M[[pivot, k]]
        M[k + 1 :, k + 1 :] = (M[k, k] * M[k + 1 :, k + 1 :] - M[k + 1 :, k, None] * M[k, k + 1 :]) // previous
        previous = M[k, k]
    D, x = previous, np.empty(n, object)
    for k in reversed(range(n)):
        x[k] = (D * M[k, n] - M[k, k + 1 : n] @ x[k + 1 :]) // M[k, k]
    return x, D
