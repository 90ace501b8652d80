"""Fitting many small networks at once."""
