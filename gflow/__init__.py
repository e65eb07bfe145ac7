"""gflow: the gradient flow of linear networks, where it ends, and what theory predicts.

```python
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
import gflow

problem  = gflow.Regression(X=jnp.array([[1.0, 2.0]]), y=jnp.array([1.0]))
network  = gflow.Diagonal((jnp.array([1.0, 0.5]), jnp.array([0.3, -0.2])))   # weights v_1, v_2: the initial directions
start    = gflow.scale(network, 0.01)                                       # v_l(0) = alpha v_l
path     = gflow.flow(start, problem)                                       # the trajectory, by diffrax
end      = gflow.limit(start, problem)                                      # where it goes as t -> infinity
expected = gflow.predict.limit(start, problem)                              # what the theory says, and which theorem
print(gflow.compare(end, expected))
scales   = jnp.logspace(-6, 2, 100)
ends     = jax.vmap(lambda a: gflow.limit(gflow.scale(network, a), problem).network.coefficients())(scales)
```

Nouns (Network, Problem, Solution, Path, Prediction, Comparison) and verbs (flow, limit, descend, predict,
compare, and sweep for grids of them). The names below are in reading order.
"""

# isort: skip_file
import importlib as _importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

from ._checks import as_weights as as_weights
from .networks import Network as Network
from .networks import LinearNetwork as LinearNetwork
from .networks import LinearTensorNetwork as LinearTensorNetwork
from .networks import Modes as Modes
from .networks import Reduced as Reduced
from .networks import row_basis as row_basis
from .networks import Diagonal as Diagonal
from .networks import Convolutional as Convolutional
from .networks import FullyConnected as FullyConnected
from .networks import MatrixProduct as MatrixProduct
from .networks import Orthogonal as Orthogonal
from .networks import sparsifying as sparsifying
from .networks import Multilinear as Multilinear
from .networks import DifferenceOfPowers as DifferenceOfPowers
from .networks import Nonlinear as Nonlinear
from .networks import scale as scale
from .networks import with_weights as with_weights
from .networks import initial as initial
from .problems import Problem as Problem
from .problems import Regression as Regression
from .problems import RegressionLoss as RegressionLoss
from .problems import squares as squares
from .problems import Classification as Classification
from .problems import ClassificationLoss as ClassificationLoss
from .problems import exponential as exponential
from .problems import logistic as logistic
from ._forms import orthogonal_form as orthogonal_form
from .records import Status as Status
from .records import Route as Route
from .records import Certificate as Certificate
from .records import Effective as Effective
from .records import Solution as Solution
from .records import Path as Path
from .records import explain as explain
from . import measures as measures
from .measures import angle as angle
from . import invariants as invariants
from . import potential as potential
from .methods import Auto as Auto
from .methods import Weights as Weights
from .methods import Dual as Dual
from .methods import Steps as Steps
from .methods import Times as Times
from .methods import LogTimes as LogTimes
from .methods import Decades as Decades
from .methods import Batches as Batches
from .methods import RandomBatches as RandomBatches
from .methods import LabelNoise as LabelNoise
from .dynamics import Dynamics as Dynamics
from .dynamics import WeightDecay as WeightDecay
from .dynamics import Momentum as Momentum
from .dynamics import SharpnessAware as SharpnessAware
from .flows.stopping import LogLoss as LogLoss
from .flows.stopping import LogTime as LogTime
from .flows.stopping import Turning as Turning
from ._flow import flow as flow
from ._limit import limit as limit
from ._descend import descend as descend
from . import predict as predict
from ._compare import compare as compare
from ._compare import Comparison as Comparison
from ._sweep import sweep as sweep
from ._sweep import open_sweep as open_sweep
from ._sweep import Eager as Eager

if _TYPE_CHECKING:
    from . import plot as plot

__version__ = _version("gflow")


def __getattr__(name: str) -> object:
    if name == "plot":  # matplotlib's users ask for it; everybody else need not wait for it
        return _importlib.import_module(".plot", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
