"""Sweeps: a labelled grid of initialisations, on one machine or many."""
