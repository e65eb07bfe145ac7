"""The corollary's number, which only those who know the architecture can tell: dispatch for outsiders."""

import functools

from ..networks import Convolutional, Diagonal, MatrixProduct, Network


@functools.singledispatch
def theorem_2(network: Network) -> str:
    """What Theorem 2 is called for this architecture."""
    return "Theorem 2"


@functools.singledispatch
def theorem_5(network: Network) -> str:
    """What Theorem 5 is called for this architecture."""
    return "Theorem 5"


@theorem_2.register
def _(network: Diagonal) -> str:
    return "Corollary 2"


@theorem_2.register
def _(network: Convolutional) -> str:
    return "Corollary 3"


@theorem_5.register
def _(network: Diagonal) -> str:
    return "Corollary 5"


@theorem_5.register
def _(network: Convolutional) -> str:
    return "Corollary 6"


@theorem_5.register
def _(network: MatrixProduct) -> str:
    return "Corollary 7"
