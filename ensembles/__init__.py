"""Ensembles: rank, select, combine, score, artifact, report."""
