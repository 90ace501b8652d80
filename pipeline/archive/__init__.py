"""The archive: WebDataset shards with a Parquet catalog.

`Zoo` reads one; `ZooDataset` and `IterableZoo` are datasets for a PyTorch DataLoader.
"""

from pipeline.archive.dataset import IterableZoo, ZooDataset
from pipeline.archive.zoo import Zoo

__all__ = ["IterableZoo", "Zoo", "ZooDataset"]
