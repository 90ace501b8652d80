"""The archive: WebDataset shards with a Parquet catalog. `Zoo` reads one, `IterableZoo` shares one out."""

from pipeline.archive.dataset import IterableZoo
from pipeline.archive.zoo import Zoo

__all__ = ["IterableZoo", "Zoo"]
