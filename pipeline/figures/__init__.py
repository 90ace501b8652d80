"""How pictures are drawn: their style, fonts, names, and those that more than one task has."""
