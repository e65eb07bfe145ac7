"""An implicit solver for the flows of regressions, whose linear algebra is that of the data points.

In θ′ = −Jᵀρ with ρ = ∂L/∂f and J = ∂f/∂θ the stiff part is JᵀDJ, D = ∂ρ/∂f, which has the rank of the outputs:
their rates are spread over the square of the condition number of the data. The stages of a step are solved for in
(z, ρ), displacements and residuals together, by

    z + h (A ⊗ Jᵀ) ρ = 0,     ρ(f(θ + z)) − ρ = 0

with the J and D of the step's start in the derivatives. Without z that is (I + hA ⊗ DJJᵀ) δρ = …, one small system for
each eigenvalue of A: no matrix is larger than J. Corrections contract by how much J changes in the step, however
stiff the flow is; of z alone they would not: a residual that z implies is wrong by the stiffness times the error of z,
while the residual of a stiff output is as small as its rate is large.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Inexact, Int, Scalar
from numpy.polynomial import Legendre

from ..networks import with_weights
from .engine import with_complex

STAGES = 7
MOST_OUTPUTS = 128  # a step costs about so many gradients by itself; J for more would be most of its work


def _collocation() -> tuple[np.ndarray, np.ndarray]:
    """A and c of Radau IIA: A integrates polynomials through the nodes c, the zeros of P_s − P_{s−1} on [0, 1]."""
    right = Legendre.basis(STAGES, domain=[0, 1]) - Legendre.basis(STAGES - 1, domain=[0, 1])
    c = np.sort(right.roots().real)
    for _ in range(3):
        c = c - right(c) / right.deriv()(c)
    powers = np.arange(1, STAGES + 1)
    return c[:, None] ** powers / powers @ np.linalg.inv(np.vander(c.astype(float), increasing=True)), c


_A, _C = _collocation()
_FROM_STAGES = np.linalg.inv(np.vander(_C, increasing=True))  # to the coefficients of the polynomial through them
_FROM_ZERO = np.linalg.inv(np.vander(np.append(0.0, _C), increasing=True))[:, 1:]  # that is 0 at 0, besides


def _eigen() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues of A, the real one first, without the conjugates; the matrix to their coordinates, and the one from
    these, whose real part is meant."""
    values, vectors = np.linalg.eig(_A)
    phases = np.angle(values)
    kept = np.argsort(phases)[STAGES // 2 :]
    pairs = np.where(phases[kept] > 0, 2.0, 1.0)
    return values[kept], np.linalg.inv(vectors)[kept], pairs * vectors[:, kept]


_EIGENVALUES, _TO_EIGEN, _FROM_EIGEN = _eigen()
_GAMMA = float(_EIGENVALUES[0].real)


def _embedded() -> np.ndarray:
    """e: hγF(θ_0) + Σ e_i z_i is the difference to a formula of order s, of weight γ at 0.

    Hairer & Wanner, Solving Ordinary Differential Equations II, section IV.8.
    """
    moments = 1 / np.arange(1, STAGES + 1)
    moments[0] -= _GAMMA
    weights = np.linalg.solve(np.vander(_C, increasing=True).T, moments)
    return np.linalg.solve(_A.T, weights - _A[-1])


_E = _embedded()


class _Stages(NamedTuple):
    """Displacements from the step's start and residuals, at the nodes."""

    z: Float[Array, "s N"]
    rho: Float[Array, "s m"]


class _Last(NamedTuple):
    """The step before, whose polynomials foretell the stages; `length` is ∞ at the start, where there is none."""

    length: Scalar
    stages: _Stages


class _Iterate(NamedTuple):
    stages: _Stages
    change: Scalar  # the last correction, in units of the tolerance
    rate: Scalar  # by how much it is smaller than the one before
    steps: Int[Array, ""]


class _Collocated(diffrax.AbstractLocalInterpolation):
    """The polynomial through the stages, which is one in the time t of u = log(1 + t)."""

    t0: Any
    t1: Any
    y0: Float[Array, " N"]
    z: Float[Array, "s N"]

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> Array:
        if t1 is not None:
            return self.evaluate(t1) - self.evaluate(t0)
        c = jnp.expm1(t0 - self.t0) / jnp.expm1(self.t1 - self.t0)
        return self.y0 + _vander(c[None], STAGES + 1)[0] @ (_FROM_ZERO.astype(self.z.dtype) @ self.z)


class Radau(diffrax.AbstractAdaptiveSolver):
    """Radau IIA with seven stages, of order 13, for the flows of `GradientClock` by a loss that separates into outputs.

    - `rtol`, `unit`: corrections of the stages end below a tenth of rtol (unit + |θ|), or where round-off keeps them
      larger, below a hundredth of what the embedded formula's error may be.

    The embedded formula's error is of order h⁸ where that of the step is of order h¹⁴, so it may be as large as
    rtol^`ESTIMATED`; it is reported in units in which that is rtol.
    """

    rtol: Scalar
    unit: Scalar
    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = _Collocated

    def order(self, terms: Any) -> int:
        return 2 * STAGES - 1

    def error_order(self, terms: Any) -> int:
        return STAGES + 1

    def func(self, terms: Any, t0: Any, y0: Array, args: Any) -> Array:
        return terms.vf(t0, y0, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Array, args: Any) -> _Last:
        outputs = _Flow.of(args).residual(y0)
        none = _Stages(jnp.zeros((STAGES, y0.size), y0.dtype), jnp.zeros((STAGES, outputs.size), y0.dtype))
        return _Last(jnp.full((), jnp.inf, y0.dtype), none)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Array, args: Any, solver_state: _Last, made_jump: Any
    ) -> tuple[Array, Array, dict[str, Any], _Last, diffrax.RESULTS]:
        # A step of the clock u = log(1 + t) is one of t, in which the flow is autonomous.
        flow, h = _Flow.of(args), jnp.exp(t0) * jnp.expm1(t1 - t0)
        inverse = _Inverse.at(flow, y0, h)
        units = self.rtol * (self.unit + jnp.abs(y0))
        stages, solved = _solve(flow, y0, h, inverse, _foretold(solver_state, h), units, self._allowed())
        y1 = y0 + stages.z[-1]
        error = inverse.damped(jnp.asarray(_E, y0.dtype) @ stages.z, flow.residual(y0)) / self._allowed()
        error = jax.lax.stop_gradient(jnp.where(solved, error, _HALVED * units))
        return y1, error, {"y0": y0, "z": stages.z}, _Last(h, stages), diffrax.RESULTS.successful

    def _allowed(self) -> Scalar:
        """The embedded formula's error that is accepted, in units of rtol."""
        return self.rtol ** (ESTIMATED - 1)


ESTIMATED = 0.7  # the ratio of the orders is 0.57: steps are larger than those for which it holds


class _Flow(eqx.Module):
    """θ′ = −R Jᵀρ in time, with R the clock's `rates`, in vectors.

    `_Inverse` leaves R out: those of a limit differ from 1 by a fraction of rtol, which corrections do not feel.
    """

    clock: Any
    of_vector: Any

    @staticmethod
    def of(args: tuple) -> "_Flow":
        field, _, of_vector = args
        return _Flow(with_complex(field), of_vector)

    def outputs(self, theta: Float[Array, " N"]) -> Float[Array, "n ..."]:
        return with_weights(self.clock.network, self.of_vector(theta))(self.clock.problem.X)

    def residual(self, theta: Float[Array, " N"]) -> Float[Array, " m"]:
        return self.clock.problem.residual(self.outputs(theta)).ravel()

    def moving(self, theta: Float[Array, " N"], rho: Float[Array, " m"]) -> tuple[Array, Array]:
        """The residual at θ, and R Jᵀρ for a residual of its own."""
        outputs, pull_back = jax.vjp(self.outputs, theta)
        gradient = pull_back(rho.reshape(outputs.shape))[0]
        if self.clock.rates is not None:
            gradient = gradient * ravel_pytree(self.clock.rates)[0]
        return self.clock.problem.residual(outputs).ravel(), gradient

    def defects(self, theta: Float[Array, " N"], h: Scalar, stages: _Stages) -> _Stages:
        """By how much the equations of the stages are not met."""
        found, gradients = jax.vmap(self.moving)(theta + stages.z, stages.rho)
        return _Stages(stages.z + h * _A.astype(h.dtype) @ gradients, found - stages.rho)


class _Inverse(eqx.Module):
    """That of the derivatives of `_Flow.defects`, with J and D of the step's start.

    `J`: √D J. `root`: √D. `inverses`: (I + hμJJᵀ)⁻¹ for each eigenvalue μ of A.
    """

    J: Float[Array, "m N"]
    root: Float[Array, " m"]
    inverses: Inexact[Array, "k m m"]
    h: Scalar

    @staticmethod
    def at(flow: _Flow, theta: Float[Array, " N"], h: Scalar) -> "_Inverse":
        outputs, pull_back = jax.vjp(flow.outputs, theta)
        slopes = jax.jvp(flow.clock.problem.residual, (outputs,), (jnp.ones_like(outputs),))[1].ravel()
        # A loss that is flat, or not convex, there may not be so within the step.
        root = jnp.sqrt(jnp.maximum(slopes, 1e-6 * jnp.max(jnp.abs(slopes))))
        root = jnp.where(root > 0, root, 1.0)
        J = root[:, None] * jax.vmap(lambda e: pull_back(e.reshape(outputs.shape))[0])(
            jnp.eye(root.size, dtype=root.dtype)
        )
        J, root, h = jax.lax.stop_gradient((J, root, h))
        return _Inverse(J, root, _inverses(J, h), h)

    def __call__(self, defects: _Stages) -> _Stages:
        rho = self._inverted(defects.rho / self.root - defects.z @ self.J.T)
        return _Stages(defects.z + self.h * _A.astype(self.h.dtype) @ rho @ self.J, -self.root * rho)

    def _inverted(self, right: Float[Array, "s m"]) -> Float[Array, "s m"]:
        """(I + hA ⊗ JJᵀ)⁻¹, by the eigenvectors of A, of which one of each conjugate pair is enough."""
        dtype = self.inverses.dtype
        along = jnp.einsum("kij,kj->ki", self.inverses, jnp.asarray(_TO_EIGEN, dtype) @ right)
        return (jnp.asarray(_FROM_EIGEN, dtype) @ along).real

    def solve(self, linear: Callable[[_Stages], _Stages], right: _Stages) -> _Stages:
        """Of equations whose matrix this all but inverts, in both modes of differentiation."""

        def corrected(inverse: Callable[[_Stages], _Stages]) -> Callable[[Any, _Stages], _Stages]:
            def solve(linear: Callable[[_Stages], _Stages], right: _Stages) -> _Stages:
                enough = 1e-2 * jnp.finfo(self.J.dtype).eps ** 0.5 * _largest(right)

                def correct(at: tuple[_Stages, _Stages, Array]) -> tuple[_Stages, _Stages, Array]:
                    x = jax.tree.map(jnp.add, at[0], inverse(at[1]))
                    return x, jax.tree.map(jnp.subtract, right, linear(x)), at[2] + 1

                def unfinished(at: tuple[_Stages, _Stages, Array]) -> Bool[Array, ""]:
                    return (_largest(at[1]) > enough) & (at[2] < 2 * _CORRECTIONS)

                nothing = jax.tree.map(jnp.zeros_like, right)
                return jax.lax.while_loop(unfinished, correct, (nothing, right, jnp.array(0)))[0]

            return solve

        transposed = jax.linear_transpose(self.__call__, right)
        return jax.lax.custom_linear_solve(linear, right, corrected(self), corrected(lambda v: transposed(v)[0]))

    def damped(self, v: Float[Array, " N"], rho: Float[Array, " m"]) -> Float[Array, " N"]:
        """(I + hγJᵀJ)⁻¹ (v − hγJᵀρ), of which a stiff output's part is lost to round-off if the products come first."""
        return v - _GAMMA * self.h * self.J.T @ (self.inverses[0].real @ (self.J @ v + rho / self.root))


def _inverses(J: Float[Array, "m N"], h: Scalar) -> Inexact[Array, "k m m"]:
    """(I + hμJJᵀ)⁻¹ for the eigenvalues of A, each row of J in units of its own: rates may differ by more than 1/ε."""
    size = jnp.linalg.norm(J, axis=1)
    unit = jnp.hypot(1.0, jnp.sqrt(h) * size)
    rows = (jnp.sqrt(h) * size / unit)[:, None] * (J / jnp.where(size > 0, size, 1.0)[:, None])
    values = jnp.asarray(_EIGENVALUES, jnp.result_type(J, 1j))[:, None, None]
    return jnp.linalg.inv(jnp.diag(unit**-2) + values * (rows @ rows.T)) / (unit[:, None] * unit)


def _largest(stages: _Stages) -> Scalar:
    return jnp.maximum(jnp.max(jnp.abs(stages.z)), jnp.max(jnp.abs(stages.rho)))


def _foretold(last: _Last, h: Scalar) -> _Stages:
    """The polynomials of the last step, continued; zeros where there is none."""
    c = 1 + h * _C.astype(h.dtype) / last.length
    z = _vander(c, STAGES + 1) @ (_FROM_ZERO.astype(h.dtype) @ last.stages.z) - last.stages.z[-1]
    return _Stages(z, _vander(c, STAGES) @ (_FROM_STAGES.astype(h.dtype) @ last.stages.rho))


def _vander(c: Float[Array, " s"], powers: int) -> Float[Array, "s k"]:
    return c[:, None] ** jnp.arange(powers)


def _solve(
    flow: _Flow,
    theta: Float[Array, " N"],
    h: Scalar,
    inverse: _Inverse,
    first: _Stages,
    units: Float[Array, " N"],
    allowed: Scalar,
) -> tuple[_Stages, Bool[Array, ""]]:
    """The stages, and whether they were found; zeros where they were not. Derivatives are those of the equations."""

    def defects(stages: _Stages) -> _Stages:
        return flow.defects(theta, h, stages)

    def corrected(at: _Iterate) -> _Iterate:
        correction = inverse(defects(at.stages))
        stages = jax.tree.map(jnp.subtract, at.stages, correction)
        change = jnp.max(jnp.abs(correction.z) / units)
        return _Iterate(stages, change, change / at.change, at.steps + 1)

    def unfinished(at: _Iterate) -> Bool[Array, ""]:
        grows = (at.steps >= 2) & ~(at.rate < 2)
        rests = (at.change <= enough) & ~(at.rate < 0.5)  # at round-off: otherwise corrections contract by far more
        return ~(at.change <= _SOLVED) & ~grows & ~rests & (at.steps < _CORRECTIONS)

    enough = jnp.maximum(_SOLVED, 0.01 * allowed)

    def solve(_: Any, first: _Stages) -> tuple[_Stages, Scalar]:
        infinite = jnp.full((), jnp.inf, theta.dtype)
        end = jax.lax.while_loop(unfinished, corrected, _Iterate(first, infinite, infinite, jnp.array(0)))
        # Round-off may keep corrections above their tolerance. What is left then must not be felt in the estimate.
        return jax.tree.map(lambda v: jnp.where(end.change <= enough, v, 0.0), end.stages), end.change

    first = jax.lax.stop_gradient(first)
    stages, change = jax.lax.custom_root(defects, first, solve, inverse.solve, has_aux=True)
    return stages, change <= enough


_SOLVED = 0.1  # of the tolerance: what is left then is less by how much corrections contract
_CORRECTIONS = 12
# The error, in units of the tolerance, after which a step of this order is tried again at half its size.
_HALVED = 100.0
