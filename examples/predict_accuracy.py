"""How accurate is a network? Predicted from its weights, and compared with gradient boosting.

python examples/predict_accuracy.py         # 1,000 MLPs, 3 minutes on two cores
"""

import json
from pathlib import Path

import pyarrow.parquet as pq

from flows.cli import main as dwszoo
from flows.run import run


def main(out: Path, *settings: str) -> dict[str, float]:
    """R^2 on the test split of the DWSNet and of gradient boosting on statistics of the weights."""
    made = run("mlps", out, settings)
    (own, *_) = made["metrics"].values()
    boosted = json.loads((out / "boosted.json").read_text())

    table = out / "predictions.parquet"
    assert dwszoo(["predict", str(out), "--zoo", str(out / "zoo"), "--out", str(table)]) == 0
    rows = pq.read_table(table).sort_by([("predicted test_accuracy", "descending")])
    print(rows.select(["key", "true test_accuracy", "predicted test_accuracy"]).slice(0, 5))
    return {"DWSNet": own["r2"], "boosting": boosted["r2"]}


if __name__ == "__main__":
    print(main(Path("runs/mlps")))
