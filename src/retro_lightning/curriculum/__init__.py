"""Curriculum: what is learnt from and which tasks are tried next. Arrays in, weights out."""
