"""INRs edited so that they show thicker digits, and a picture of them before and after.

python examples/edit_networks.py            # two minutes on two cores
"""

from pathlib import Path

from flows.cli import main as dwszoo
from flows.run import run
from flows.verbs import edit


def main(out: Path, *settings: str) -> tuple[float, float]:
    """The mean squared error to the thicker digits, before and after."""
    made = run("digits-dilate", out, settings)
    (own, *_) = made["metrics"].values()

    edited = edit(out, str(out / "zoo"), str(out / "edited"))  # a zoo like any other
    assert dwszoo(["zoo", "render", str(out / "edited"), "--out", str(out / "edited.png")]) == 0
    print(f"{len(edited):,} edited INRs in {out / 'edited'}, some of them in {out / 'edited.png'}")
    return own["trivial_mse"], own["mse"]


if __name__ == "__main__":
    print("mean squared error before {:.3f}, after {:.3f}".format(*main(Path("runs/dilate"))))
