"""Ray: where work runs. Knows nothing of zoos or networks."""
