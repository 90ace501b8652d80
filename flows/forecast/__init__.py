"""What a recipe would do, and how long it would take: from its plan, and a few seconds of its work."""
