"""An archive read with nothing of ours: webdataset, safetensors and pyarrow.

python examples/read_archive.py zoos/digits
"""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import safetensors.torch
import webdataset


def main(folder: Path) -> int:
    """Counts the members of the train split, and prints the first one."""
    catalog = pq.read_table(folder / "catalog.parquet")
    labels = dict(zip(catalog["key"].to_pylist(), catalog["label"].to_pylist(), strict=True))
    shards = [str(path) for path in sorted(folder.glob("shards/train-*.tar"))]
    count = 0
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        state = safetensors.torch.load(sample["safetensors"])  # stacked: (members, *shape) each
        keys = json.loads(sample["json"])
        if not count:
            shapes = {name: tuple(tensor[0].shape) for name, tensor in state.items()}
            print(f"{keys[0]}, of class {labels[keys[0]]}: {shapes}")
        count += len(keys)
    return count


if __name__ == "__main__":
    print(f"{main(Path(sys.argv[1])):,} members in the train split")
