"""Metrics of image quality: against a reference picture by picture, between ensembles, or alone."""
