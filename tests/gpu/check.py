"""What no CPU can show: `python -m tests.gpu.check [OUT.json]` on a machine with an NVIDIA GPU.

Correctness first, then speed beside quality. Needs torch with Triton, NumPy, PyArrow, pydantic,
safetensors, jaxtyping, WebDataset and scikit-learn, but neither Ray, DeepSpeed nor Prefect. Prints
one table and writes it as JSON; exit code 1 if a check fails.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from tests.gpu import engine, fitting, layers, members, training
from tests.gpu.row import Row

CHECKS = (
    fitting.kernel_gradients,
    fitting.kernel_fits,
    layers.equivariant_layers,
    layers.invariant_layers,
    members.decoding,
    members.augmentation,
    training.training_steps,
    training.training,
    engine.engine,
    fitting.corpus,
)


def run(check: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """The lines of a check, and a failed one if it raises."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001  the other checks are to run all the same
        traceback.print_exc()
        yield Row(check.__name__, f"{type(error).__name__}: {error}"[:200], "no error", False)


def main(out: str | None = None) -> int:
    if not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} sees no GPU here: nothing to check")
        return 2
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    rows, start = [], time.perf_counter()
    for check in CHECKS:
        for row in run(check):
            rows.append(row)
            mark = "ok  " if row.ok else "FAIL"
            print(
                f"{mark} {row.what:<60} {row.found}"
                + (f" (wanted: {row.wanted})" if row.wanted else ""),
                flush=True,
            )
        print(f"     {check.__name__}: {time.perf_counter() - start:.0f} s so far", flush=True)
    if out is not None:
        Path(out).write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return int(not all(row.ok for row in rows))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
