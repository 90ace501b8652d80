"""Your own images to a trained classifier: one INR per image, read by a DWSNet.

python examples/own_images.py photos        # photos/cat/1.jpg, photos/dog/2.png, ...
"""

import sys
from pathlib import Path

from flows.run import run


def main(images: Path, out: Path, *settings: str) -> float:
    """Builds a zoo of the images, trains on it and draws the report; returns the test accuracy."""
    settings = (f"zoo.signals.path={images}", "zoo.signals.size=28", "zoo.views=4", *settings)
    made = run("images", out, settings)
    print("The report is", made["report"])
    (own, *_) = made["metrics"].values()
    return own["accuracy"]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(f"test accuracy {main(folder, Path('runs') / folder.name):.1%}")
