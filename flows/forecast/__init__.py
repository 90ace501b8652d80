"""Forecasts the work and time of a recipe, from its plan and a few seconds of measurements."""
