"""Many small networks fitted at once."""
