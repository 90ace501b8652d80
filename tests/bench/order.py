"""How well batches are mixed: `dwszoo bench order`.

The worst case is a zoo sorted by class: 1,000,000 members of 10 classes in blocks of 256, batches
of 128. Prints the variance of the number of members of a class per batch, and per sequence of
consecutive batches, as a ratio to that of a full shuffle, which draws without replacement: 1 is as
good. For comparison, windows of 65,536 members in random shards of 4,096, and random blocks without
shuffling.
"""

import numpy as np

from pipeline.training.order import Order

NUM_MEMBERS, NUM_CLASSES, BLOCK, SHARD, BATCH = 1_000_000, 10, 256, 4096, 128
HELD = 65_536
STRETCHES = (1, 16, 128, 1024)
"""Numbers of steps whose members are counted together."""
LABELS = np.repeat(np.arange(NUM_CLASSES), NUM_MEMBERS // NUM_CLASSES)


def full_shuffle(rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(NUM_MEMBERS)


def lanes(rng: np.random.Generator) -> np.ndarray:
    """Members in the order of the feed."""
    sizes = np.full(NUM_MEMBERS // BLOCK, BLOCK)
    order = Order.of(sizes, BATCH, HELD, seed=int(rng.integers(1 << 30)))
    epoch = order.epoch(1)
    streams = [
        np.concatenate([epoch.window(lane, number) for number in range(epoch.num_windows(lane))])
        for lane in range(order.lanes)
    ]
    widths = np.diff(order.cuts)
    parts = [
        stream[: order.num_steps * width].reshape(order.num_steps, width)
        for stream, width in zip(streams, widths, strict=True)
    ]
    return np.concatenate(parts, 1).flatten()


def windows_of(size: int, held: int, rng: np.random.Generator) -> np.ndarray:
    """Runs of `size` members in random order, shuffled `held` members at a time."""
    members = np.arange(NUM_MEMBERS // size * size).reshape(-1, size)
    members = rng.permutation(members).flatten()
    return np.concatenate(
        [rng.permutation(members[i : i + held]) for i in range(0, len(members), held)]
    )


def shard_windows(rng: np.random.Generator) -> np.ndarray:
    return windows_of(SHARD, HELD, rng)


def single_blocks(rng: np.random.Generator) -> np.ndarray:
    return windows_of(BLOCK, BLOCK, rng)


def dispersion(members: np.ndarray, steps: int) -> float:
    """Variance of a class's count in `steps` consecutive batches, relative to a multinomial one."""
    size = steps * BATCH
    labels = LABELS[members[: len(members) // size * size]].reshape(-1, size)
    counts = np.stack([(labels == label).sum(1) for label in range(NUM_CLASSES)])
    share = 1 / NUM_CLASSES
    return float(np.square(counts - size * share).mean() / (size * share * (1 - share)))


def main():
    print(f"{'order of members':18s}" + "".join(f"{steps:>7d} steps" for steps in STRETCHES))
    reference = None
    for order in (full_shuffle, lanes, shard_windows, single_blocks):
        found = []
        for seed in range(3):
            members = order(np.random.default_rng(seed))
            found.append([dispersion(members, steps) for steps in STRETCHES])
        mean = np.mean(found, 0)
        reference = mean if reference is None else reference
        row = "".join(f"{ratio:12.2f}x" for ratio in mean / reference)
        print(f"{order.__name__.replace('_', ' '):18s}{row}")


if __name__ == "__main__":
    main()
