"""The stages of a run, as plain functions. Called again, they do not repeat finished work."""
