"""Integration: clocks, stopping rules, rows of a path, implicit solvers, and the engine that diffrax drives."""
