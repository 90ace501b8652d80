"""The archive: WebDataset shards with a Parquet catalog.

`Zoo` reads one; `Zoo.dataset` and `IterableZoo` are datasets for a PyTorch DataLoader.
"""

from pipeline.archive.dataset import ZooDataset
from pipeline.archive.iterable import IterableZoo
from pipeline.archive.zoo import Zoo

__all__ = ["IterableZoo", "Zoo", "ZooDataset"]
