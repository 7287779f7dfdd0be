"""Callbacks that own when: rollouts, checkpoints, progress."""
