"""The formats by name, one module each, with `read(path)`, which returns a `Source`, and
`write(zoo, folder, advance)`."""

from types import ModuleType

from pipeline.config import ExchangeFormat
from pipeline.exchange import dwsnets, fit_a_nef, huggingface, modelzoos, unterthiner, webdataset

FORMATS: dict[ExchangeFormat, ModuleType] = {
    "dwsnets": dwsnets,
    "unterthiner": unterthiner,
    "modelzoos": modelzoos,
    "fit-a-nef": fit_a_nef,
    "webdataset": webdataset,
    "huggingface": huggingface,
}
