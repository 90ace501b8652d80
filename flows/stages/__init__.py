"""The stages of a run, as plain functions. Each can be called again: what is done is found done and not repeated."""
