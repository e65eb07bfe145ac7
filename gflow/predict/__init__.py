"""What the theory predicts, computed without integrating anything.

`limit` picks the strongest theorem whose hypotheses hold and says which; each theorem family can be
asked by itself.
"""

from .choose import limit as limit
from .norms import dft as dft
from .norms import maximum_margin as maximum_margin
from .norms import minimum_norm as minimum_norm
from .prediction import Hypothesis as Hypothesis
from .prediction import Prediction as Prediction
from .two_layers import two_layer_limit as two_layer_limit
