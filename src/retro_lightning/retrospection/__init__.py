"""Attempt, reflect, retry: reflections as actions, and what they do to a retry as their reward."""
