"""What the theory predicts, computed without integrating anything.

`limit` picks the strongest theorem whose hypotheses hold and says which; each theorem family can be
asked by itself.
"""

# isort: skip_file
from .choose import limit as limit
from .prediction import Prediction as Prediction
from .prediction import Refusal as Refusal
from .prediction import Hypothesis as Hypothesis
from .two_layers import two_layer_limit as two_layer_limit
from .two_layers import two_layer_direction as two_layer_direction
from .orthogonal import orthogonal_limit as orthogonal_limit
from .orthogonal import large_scale_limit as large_scale_limit
from ._saddles import small_scale_limit as small_scale_limit
from ._saddles import saddles as saddles
from ._saddles import Saddles as Saddles
from .directions import orthogonal_direction as orthogonal_direction
from .stationary import stationarity as stationarity
from .stationary import stationary_points as stationary_points
from .fully_connected import fully_connected_limit as fully_connected_limit
from .directions import fully_connected_direction as fully_connected_direction
from .powers import power_limit as power_limit
from ._effective import effective as effective
from .linear_model import linear_limit as linear_limit
from .linear_model import linear_direction as linear_direction
from .courses import path as path
from .courses import TimeCourse as TimeCourse
from .norms import minimum_norm as minimum_norm
from .margins import maximum_margin as maximum_margin
from .pivots import NotSeparable as NotSeparable
from .pivots import Undecided as Undecided
from .norms import dft as dft
