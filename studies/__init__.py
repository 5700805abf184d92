"""A study's folder: the only truth of a search. Written by the tuner, read by the ensembles, which do not meet."""
