"""The kinds of zoo, by their configuration: a module each, with the same names.

`plan_shards(config, signals)` fixes the members, `weight_space` and `decode_contract` (of the same two) describe them,
`class_counts(signals, shards)` says how many of each class each split will have (None where members are of no class),
`fit_members(config, signals, shard, device, advance)` fits those of a shard, with the catalog columns of `SCHEMA`, and
tells how many more are done. `MEMBERS` is what they are called, `QUALITY` the column that says how good each is, `tell`
puts a mean of it into words, `prepare(config, signals, device)` is called once before workers fit.
"""

from types import ModuleType

from pipeline.archive import classifiers, inrs
from pipeline.config import ClassifierZooConfig, Config, ZooConfig

KINDS: dict[type[Config], ModuleType] = {ZooConfig: inrs, ClassifierZooConfig: classifiers}


def kind_of(config: Config) -> ModuleType:
    return KINDS[type(config)]
