"""The archive: WebDataset shards with a Parquet catalog. `Zoo` reads one."""

from pipeline.archive.zoo import Zoo

__all__ = ["Zoo"]
