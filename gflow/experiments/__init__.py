"""Experiments of papers, run by the verbs above."""
