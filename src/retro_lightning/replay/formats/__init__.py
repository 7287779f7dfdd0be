"""Records of other agents' logs: read into trajectories, and written for other tools."""
