"""Running work on Ray; knows nothing about zoos or networks."""
