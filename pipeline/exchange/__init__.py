"""Reads and writes zoos in other formats, bit for bit."""
