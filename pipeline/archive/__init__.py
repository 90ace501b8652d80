"""The archive: WebDataset shards with a Parquet catalog. `Zoo` reads one; the datasets are for PyTorch's DataLoader."""

from pipeline.archive.dataset import IterableZoo, ZooDataset
from pipeline.archive.zoo import Zoo

__all__ = ["IterableZoo", "Zoo", "ZooDataset"]
