"""One network's way from a signal to a prediction: signals, fit, archive, training, report."""
