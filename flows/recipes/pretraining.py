"""Pretraining without labels, followed by probes or fine-tuning."""

from math import pi

from flows.recipe import Recipe
from flows.recipes.classification import digits
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.encoders import DWSNetConfig
from pipeline.tasks import Contrastive
from pipeline.tasks.augmentation import Augmentation
from pipeline.training.config import FinetuneConfig, ProbeConfig, TrainingConfig


def digits_pretrain() -> Recipe:
    """Pretrain on digits without labels, then probe and fine-tune with 1, 10 and 100 % of labels.

    The pretraining task is to find which two INRs fit the same one of scikit-learn's digits.
    Fine-tuning is compared with training the same model from scratch.
    """
    return Recipe(
        zoo=digits().zoo.model_copy(update={"views": 2}),
        training=TrainingConfig(
            task=Contrastive(positives="views", augmentation=Augmentation(noise=0.05)),
            baselines=(),
            encoder=DWSNetConfig(channels=32, num_layers=4, width=64, canonical_signs=True),
            epochs=18,
            batch_size=256,
            learning_rate=5e-3,
        ),
        probe=ProbeConfig(targets=("label",), finetune=FinetuneConfig(epochs=6)),
    )


WAVES = ProbeConfig(targets=("amplitude", "frequency"))


def waves_embedding() -> Recipe:
    """Embed INRs of waves a sin(bx) in 16 numbers, without labels. Minutes on two cores.

    The pretraining task is to find which two independently fitted INRs fit the same wave. Linear
    probes then predict amplitude and frequency, as in E4 of the DWSNets paper, with the same kind
    of INRs.
    """
    zoo = dws_waves().zoo
    few = zoo.signals.model_copy(update={"size": 64, "limit": 3000})
    return Recipe(
        zoo=zoo.model_copy(update={"signals": few, "views": 2}),
        training=TrainingConfig(
            task=Contrastive(positives="views"),
            baselines=(),
            encoder=DWSNetConfig(channels=16, num_layers=4, width=16, canonical_signs=True),
            epochs=34,
            batch_size=256,
            learning_rate=5e-3,
        ),
        probe=WAVES,
    )


def dws_waves() -> Recipe:
    """The DWSNets paper's self-supervised experiment (E4): 10,000 waves a sin(bx), one INR each.

    a and b are from 0 to 10; 8,000 / 1,000 / 1,000. The 1-32-32-1 INRs output the unscaled waves at
    2,000 points x in [-pi, pi], and fits stop at a mean squared error of 1e-4. Training takes 500
    epochs on two copies of each INR, with noise of 0.2 and half of the weights set to 0. The paper
    also fits with a weight decay of 1e-4; this recipe does not.
    """
    return Recipe(
        zoo=ZooConfig(
            signals=SignalsConfig(source="wide-waves", test_fraction=0.1),
            inr=SirenConfig(hidden=(32, 32), output_scale=0.05, coordinate_range=(-pi, pi)),
            fit=FitConfig(learning_rate=1e-3, max_steps=1500, target_psnr=66.0),
        ),
        training=TrainingConfig(
            task=Contrastive(augmentation=Augmentation(noise=0.2, mask=0.5)),
            baselines=(),
            encoder=DWSNetConfig(channels=16, num_layers=5, num_heads=8, width=16),
            epochs=500,
            batch_size=512,
            learning_rate=5e-3,
            weight_decay=5e-4,
        ),
        probe=WAVES,
    )
