"""Trains language-model agents by policy gradient on their own past trajectories."""

__version__ = "0.1.0"
