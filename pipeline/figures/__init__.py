"""Drawing: style, fonts, captions, and the pictures of tasks."""
