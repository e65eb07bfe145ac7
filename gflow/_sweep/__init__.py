"""Sweeps: a labelled grid of initialisations, on one machine or many. Read `grid`, `columns`, `work`, `engine`,
`store`, `placed`, `dataset`, `verb`."""

from .columns import Eager as Eager
from .dataset import open_sweep as open_sweep
from .store import Damaged as Damaged
from .verb import sweep as sweep
