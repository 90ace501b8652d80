"""Configurations of signals, zoos and resources; `pipeline.training.config` has training's."""

from pipeline.config.base import ADDED, LOCATION, Config, Frozen, describe, differences, fingerprint
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
    InrConfig,
    MergeConfig,
    ZooConfig,
)

__all__ = [
    "ADDED",
    "FUNCTION",
    "LOCATION",
    "AnyOrigin",
    "AnyZooConfig",
    "ClassifierConfig",
    "ClassifierZooConfig",
    "Config",
    "EditConfig",
    "ExchangeFormat",
    "FitConfig",
    "Frozen",
    "HyperparametersConfig",
    "ImportConfig",
    "InrConfig",
    "MergeConfig",
    "Operation",
    "ResourcesConfig",
    "SignalsConfig",
    "ZooConfig",
    "describe",
    "differences",
    "fingerprint",
]
