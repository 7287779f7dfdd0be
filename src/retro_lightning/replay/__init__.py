"""Trajectories kept for years: an append-only dataset of Arrow shards and its index."""
