"""Where signals come from: one file a source, one function that opens them all."""

from pipeline.config import SignalsConfig
from pipeline.signals.digits import load_digits
from pipeline.signals.folder import load_folder
from pipeline.signals.signals import Signals, coordinates

__all__ = ["Signals", "coordinates", "load_signals"]


def load_signals(config: SignalsConfig) -> Signals:
    """All signals that `config` names. Raises InputError where one cannot be read."""
    match config.source:
        case "digits":
            signals = load_digits(config)
        case "folder":
            signals = load_folder(config)
    return signals if config.limit is None else signals.take(config.limit)
