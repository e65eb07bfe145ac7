"""The same flow in dual coordinates: n unknowns instead of the weights."""
