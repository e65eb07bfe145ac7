"""The architectures. A network is a pytree whose `weights` are the state of the flow."""

# isort: skip_file
from .network import Network as Network
from .network import LinearNetwork as LinearNetwork
from .network import LinearTensorNetwork as LinearTensorNetwork
from .network import Modes as Modes
from .network import Reduced as Reduced
from .network import scale as scale
from .network import with_weights as with_weights
from .reductions import row_basis as row_basis
from .diagonal import Diagonal as Diagonal
from .convolutional import Convolutional as Convolutional
from .fully_connected import FullyConnected as FullyConnected
from .matrix_product import MatrixProduct as MatrixProduct
from .orthogonal import Orthogonal as Orthogonal
from .orthogonal import sparsifying as sparsifying
from .multilinear import Multilinear as Multilinear
from .difference_of_powers import DifferenceOfPowers as DifferenceOfPowers
from .nonlinear import Nonlinear as Nonlinear
from . import initial as initial
