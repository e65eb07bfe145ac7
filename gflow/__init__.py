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
ends     = jax.jit(jax.vmap(lambda a: gflow.limit(gflow.scale(network, a), problem).network.coefficients()))(scales)
```

Five nouns (Network, Problem, Solution, Prediction, Comparison) and six verbs (flow, limit, descend,
predict, compare, and `jax.vmap` for sweeps). The names below are in reading order.
"""

# isort: skip_file
from .networks import Network as Network
from .networks import Diagonal as Diagonal
from .networks import Convolutional as Convolutional
from .networks import FullyConnected as FullyConnected
from .networks import MatrixProduct as MatrixProduct
from .networks import Orthogonal as Orthogonal
from .networks import sparsifying as sparsifying
from .networks import Multilinear as Multilinear
from .networks import DifferenceOfPowers as DifferenceOfPowers
from .networks import LinearTensorNetwork as LinearTensorNetwork
from .nonlinear import Nonlinear as Nonlinear
from .networks import scale as scale
from .networks import with_weights as with_weights
from .problems import Problem as Problem
from .problems import Regression as Regression
from .problems import Classification as Classification
from .problems import exponential as exponential
from .problems import logistic as logistic
from . import initial as initial
from . import decomposition as decomposition
from . import potential as potential
from . import invariants as invariants
from .flow import flow as flow
from .flow import Solution as Solution
from .flow import Status as Status
from . import dual as dual
from .dual_classification import direction_flow as direction_flow
from .dual_classification import DirectionPath as DirectionPath
from . import finite_loss as finite_loss
from .limit import limit as limit
from .limit_direction import limit_direction as limit_direction
from .descent import descend as descend
from .descent import Descent as Descent
from . import predict as predict
from .compare import compare as compare
from .compare import angle as angle
from .compare import Comparison as Comparison
