"""How far each coordinate's clock runs before the coordinate is large: what decides limits as the scale α → 0.

In the basis where the flow decouples, a coordinate starts at η_1, …, η_L and moves as ρ(ζ) in its own clock ζ, with
dζ = dq / Π_k √(q² + c_k), q the smallest layer and c_k the others' constants η_k² − q². From a start of size α it stays
of size α^L until ζ nears one of two horizons, h t⁺ above and −h t⁻ below, with h = α^{2−L}, or log(1/α) for two layers:

    t⁺ = ∫_{q(0)}^∞ dq / Π_k √(q² + c_k),    t⁻ the same towards −∞;    t⁺ = t⁻ = 1 for two layers.

Where two layers tie for the smallest q keeps its sign, and the horizon of the other sign is infinitely far.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._forms import real_modes, vanishes
from ..networks import Modes, Network
from ..problems import Regression
from .norms import data
from .prediction import Refusal, require_served, require_true_modes

Modal = Float[np.ndarray, " m"]


def real_start(
    network: Network, problem: Regression
) -> tuple[Modes, Float[np.ndarray, "n m"], Float[np.ndarray, " n"]]:
    """The real modes of a network of two layers or more on this problem, Z = X Sᵀ, and y. **Raises** Refusal where
    there are none."""
    require_served(problem, Regression)
    require_true_modes(network)
    found = real_modes(network, problem)
    if found is None or len(found[0].eta) < 2:
        raise Refusal(
            "Saddles and limits as α → 0 are those of networks of two layers or more with a real orthogonal "
            f"decomposition (Assumption 1); {type(network).__name__} with {len(network.weights)} weights has none. "
            "Use gflow.limit with a small log_alpha."
        )
    modes, errors = found
    failing = [f"{statement} (off by {float(error):.1e})" for statement, error in errors.items() if not vanishes(error)]
    if failing:
        raise Refusal(f"{type(network).__name__} does not decouple on this problem: {'; '.join(failing)}.")
    if jnp.finfo(modes.eta[0].dtype).bits < 64:
        raise Refusal(
            f"A prediction is certified in float64, and the network is in {modes.eta[0].dtype}. Type "
            "jax.config.update('jax_enable_x64', True) first, and make the network anew."
        )
    X, y = data(problem)
    return modes, X @ np.asarray(modes.matrix()).T, y


def horizons(eta: Float[np.ndarray, "L m"]) -> tuple[Modal, Modal]:
    """t⁺ and t⁻ of the start `eta`, in units of h; ∞ where ρ never takes that sign."""
    size = np.sort(np.abs(eta), axis=0)
    tied, frozen = size[1] == size[0], size[1] == 0
    if len(eta) == 2:
        near, far = np.ones(eta.shape[1]), np.where(tied, np.inf, 1.0)
    else:
        positive = np.where(frozen, 1.0, size)  # any that is finite, for coordinates that never move
        c = (positive[1:] - positive[0]) * (positive[1:] + positive[0])
        near = _to_infinity(positive**2)
        whole = 2 * _to_infinity(np.concatenate([np.zeros_like(c[:1]), np.where(tied, 1.0, c)]))
        far = np.where(tied, np.inf, whole - near)
    if not (np.isfinite(near) & (near > 0)).all():
        raise Refusal(
            f"Weights from {size[size > 0].min():.1e} to {size.max():.1e} in size leave float64's range. Pass initial "
            "directions of moderate size, and their scale as log_alpha."
        )
    near = np.where(frozen, np.inf, near)
    positive_side = np.prod(np.sign(np.where(eta == 0, 1.0, eta)), axis=0) > 0
    return np.where(positive_side, near, far), np.where(positive_side, far, near)


def _to_infinity(squares: Float[np.ndarray, "L m"]) -> Modal:
    """½ ∫_0^∞ du Π_l (u + η_l²)^{−1/2}, which is ∫ dq from |η_1| to ∞; with η_1 = 0 from q = 0 on.

    In log u the integrand is analytic for |Im| < π and falls exponentially: the trapezoidal rule with step ½ leaves
    e^{−4π²}, and tails beyond e^{−40} are dropped.
    """
    positive = squares[squares > 0]
    low, high = np.log(positive.min()) - 80.0, np.log(squares.max()) + 80.0 / (len(squares) - 2)
    log_u = np.arange(low, high, 0.5)[:, None, None]
    with np.errstate(divide="ignore"):
        radii = np.logaddexp(log_u, np.log(squares))
    return np.exp(log_u[:, 0] - radii.sum(axis=1) / 2).sum(axis=0) / 4
