"""Running policies and scripted behaviours in environments until trajectories come out."""
