"""A task of your own: how well does an INR render its signal?

dwszoo run digits --set training.task.kind=custom_task:Quality --out runs/quality   # in examples/
dwszoo evaluate runs/quality --trust custom_task
"""

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.tasks import Monitor, Table


class Quality:
    """Predicts the PSNR of members, in dB."""

    columns = ("psnr",)
    group = 1
    monitor = Monitor("error", more_is_better=False)

    def check(self, zoo):
        """Any zoo with a column `psnr` will do: which columns there are is checked already."""

    def prepare(self, zoo):
        return {"mean": float(zoo.members("train")["psnr"].to_numpy().mean())}

    def build(self, encoder, prepared):
        model = nn.Sequential(encoder, nn.Linear(encoder.width, 1))
        model.mean = prepared["mean"]
        return model

    def loss(self, model, batch, keys):
        return F.mse_loss(model.mean + model(batch.state)[:, 0], batch.columns["psnr"])

    def sums(self, model, batch):
        truth, predicted = batch.columns["psnr"], model.mean + model(batch.state)[:, 0]
        return {
            "error": (predicted - truth).square().sum(),
            "trivial": (model.mean - truth).square().sum(),
            "members": torch.tensor(len(batch)),
        }

    def metrics(self, sums):
        error, trivial = (float(sums[name] / sums["members"]) for name in ("error", "trivial"))
        return {"error": error, "trivial_error": trivial, "loss": error}

    def predictions(self, outputs):
        return {"psnr above the mean": outputs[:, 0].numpy()}

    def figures(self, metrics, evaluation):
        rows = [("model", f"{metrics['error']:.2f}"), ("mean", f"{metrics['trivial_error']:.2f}")]
        return [Table("Mean squared error of the PSNR:", ("", "dB^2"), rows)]
