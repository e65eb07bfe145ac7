"""Implicit solvers for the stiff ends of flows.

Imports nothing of gflow.

Both are Kvaerno's fifth-order method. Its equations are solved by an iteration that takes a correction far below the
tolerance for convergence. Those of diffrax and optimistix ask for a rate of convergence, or for a small function value:
corrections at round-off level have no rate, and round-off times a large stiffness is not small, so that steps then fail
at every size.
"""

from typing import Any

import diffrax
import optimistix


def _terminate(self: Any, fn: Any, y: Any, args: Any, options: Any, state: Any, tags: Any) -> tuple[Any, Any]:
    rate = state.diffsize / state.diffsize_prev
    remaining = state.diffsize * rate / (1 - rate)
    known = state.step >= 2
    done = (state.diffsize < self.kappa) | (known & (rate < 1) & (remaining < self.kappa))
    diverged = known & ~done & ~(rate <= 2)
    failed = state.result != optimistix.RESULTS.successful
    outcome = optimistix.RESULTS.where(diverged, optimistix.RESULTS.nonlinear_divergence, optimistix.RESULTS.successful)
    return done | diverged | failed, optimistix.RESULTS.where(failed, state.result, outcome)


class _Chord(diffrax.VeryChord):
    terminate = _terminate


class _Newton(optimistix.Newton):
    terminate = _terminate


# One Jacobian a step: for many unknowns.
CHORD = diffrax.Kvaerno5(root_finder=diffrax.with_stepsize_controller_tols(_Chord)())
# One an iteration: for equations so nonlinear that they change within a step. Its corrections converge quadratically.
NEWTON = diffrax.Kvaerno5(root_finder=diffrax.with_stepsize_controller_tols(_Newton)(kappa=0.1))
