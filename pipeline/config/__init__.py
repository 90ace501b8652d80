"""Configurations of signals, zoos and resources; `pipeline.training.config` has training's."""

from pipeline.config.base import ADDED, LOCATION, Config, Frozen, describe, differences, fingerprint
from pipeline.config.inrs import AnyInrConfig, Frequencies, InrConfig, SirenConfig
from pipeline.config.resources import ResourcesConfig
from pipeline.config.signals import FUNCTION, Operation, SignalsConfig
from pipeline.config.zoos import (
    AnyOrigin,
    AnyZooConfig,
    ClassifierConfig,
    ClassifierZooConfig,
    EditConfig,
    ExchangeFormat,
    FitConfig,
    HyperparametersConfig,
    ImportConfig,
    MergeConfig,
    ZooConfig,
)

__all__ = [
    "ADDED",
    "FUNCTION",
    "LOCATION",
    "AnyInrConfig",
    "AnyOrigin",
    "AnyZooConfig",
    "ClassifierConfig",
    "ClassifierZooConfig",
    "Config",
    "EditConfig",
    "ExchangeFormat",
    "FitConfig",
    "Frequencies",
    "Frozen",
    "HyperparametersConfig",
    "ImportConfig",
    "InrConfig",
    "MergeConfig",
    "Operation",
    "ResourcesConfig",
    "SignalsConfig",
    "SirenConfig",
    "ZooConfig",
    "describe",
    "differences",
    "fingerprint",
]
