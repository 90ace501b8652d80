"""What can be learned from a zoo: one file a task."""
