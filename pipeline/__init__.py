"""From signals to predictions: signals, fitting, archives, training, reports."""
