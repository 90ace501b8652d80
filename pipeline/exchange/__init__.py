"""Zoos in the formats of others: read and written, bit for bit."""
