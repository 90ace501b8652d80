"""Heads without labels keep the symmetry of their encoder, and NT-Xent is the paper's."""

import math

import pytest
import torch
from torch.nn import functional as F

from dwsnet.encoders import DWSNetEncoder
from dwsnet.pretraining import EntriesHead, ProjectionHead, RenderingHead, similarities
from dwsnet.symmetry import canonical_signs, permute, random_permutation, random_signs, scale_units
from dwsnet.weight_space import WeightSpace
from tests.dwsnet.small_networks import largest_difference, random_network

SPACE = WeightSpace.mlp((2, 7, 5, 3))
POINTS = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(9, 2)
NETWORKS = random_network(SPACE, 3, 1)
HIDDEN = [x > 0.5 for x in random_network(SPACE, 3, 4)]


def encoder(canonical: bool = False) -> DWSNetEncoder:
    torch.manual_seed(0)
    made = DWSNetEncoder(SPACE, 12, 6, 2, canonical).double().eval()
    statistics = {spec.name: {"mean": 0.1, "std": 0.7} for spec in SPACE.tensors}
    return made.calibrate(statistics, as_state(random_network(SPACE, 4, 9)))


def as_state(tensors) -> dict[str, torch.Tensor]:
    return {spec.name: x for spec, x in zip(SPACE.tensors, tensors, strict=True)}


def masks(tensors) -> list[torch.Tensor]:
    """Which entries are hidden: where these tensors are large."""
    return [x > 0.5 for x in tensors]


def nt_xent(projections: torch.Tensor, partner: list[int], temperature: float) -> float:
    """Chen et al. 2020, equation 1, term by term."""
    losses = []
    for i, j in enumerate(partner):
        cosine = [float(F.cosine_similarity(projections[i], other, dim=0)) for other in projections]
        below = sum(math.exp(value / temperature) for k, value in enumerate(cosine) if k != i)
        losses.append(-math.log(math.exp(cosine[j] / temperature) / below))
    return sum(losses) / len(losses)


def test_nt_xent_is_that_of_the_paper():
    one, other = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.manual_seed(1))
    logits, partner = similarities(one, other, torch.arange(4), 0.1)
    expected = nt_xent(torch.cat([one, other]), [4, 5, 6, 7, 0, 1, 2, 3], 0.1)
    assert float(F.cross_entropy(logits, partner)) == pytest.approx(expected, rel=1e-10)
    assert nt_xent(torch.cat([one, other]), [1, 0, 3, 2, 5, 4, 7, 6], 0.1) != pytest.approx(
        expected
    )


def test_other_networks_of_a_signal_are_no_negatives():
    """For two pairs of signal 5, the logits of each are those without the other pair."""
    one, other = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.manual_seed(1))
    logits, _ = similarities(one, other, torch.tensor([5, 8, 5]), 0.1)
    alone, _ = similarities(one[:2], other[:2], torch.tensor([5, 8]), 0.1)
    seen = logits[0][logits[0].isfinite()]
    assert torch.allclose(seen, alone[0][alone[0].isfinite()])
    apart, _ = similarities(one, other, torch.tensor([5, 8, 6]), 0.1)
    assert apart[0].isfinite().sum() == 5


@pytest.mark.parametrize("head", [ProjectionHead, lambda made: RenderingHead(made, POINTS, 3)])
def test_vectors_and_what_is_made_of_them_are_invariant(head):
    model, tensors = head(encoder()).double(), NETWORKS
    shuffled = permute(SPACE, tensors, random_permutation(SPACE, torch.manual_seed(2)))
    assert largest_difference(model(as_state(tensors)), model(as_state(shuffled))) < 1e-10
    other = random_network(SPACE, 3, 5)
    assert largest_difference(model(as_state(tensors)), model(as_state(other))) > 1e-3


def test_a_decoder_renders_every_vector_at_every_point():
    model = RenderingHead(encoder(), POINTS, 3, hidden=8, num_layers=2).double()
    embedding, values = model(as_state(random_network(SPACE, 4, 1)))
    assert embedding.shape == (4, 12)
    assert values.shape == (4, 9, 3)
    assert "waves" not in model.state_dict()
    assert (values[:, 0] - values[:, 8]).abs().max() > 1e-3


def test_predicted_entries_move_with_the_neurons():
    model, tensors, chosen = EntriesHead(encoder()).double(), NETWORKS, random_network(SPACE, 3, 4)
    permutation = random_permutation(SPACE, torch.manual_seed(2))
    shuffled = permute(SPACE, tensors, permutation)
    vector, predicted, truth = model(as_state(tensors), masks(chosen))
    moved = model(as_state(shuffled), masks(permute(SPACE, chosen, permutation)))
    assert largest_difference([vector], [moved[0]]) < 1e-10
    assert largest_difference(permute(SPACE, predicted, permutation), moved[1]) < 1e-10
    assert largest_difference(permute(SPACE, truth, permutation), moved[2]) < 1e-10
    assert largest_difference(predicted, moved[1]) > 1e-3


@pytest.mark.parametrize("canonical", [False, True])
def test_what_is_hidden_is_not_seen(canonical):
    """Hidden biases do not decide the signs of visible entries either."""
    model, tensors, hidden = EntriesHead(encoder(canonical)).double(), NETWORKS, HIDDEN
    changed = [torch.where(mask, x - 9, x) for x, mask in zip(tensors, hidden, strict=True)]
    _, predicted, truth = model(as_state(tensors), hidden)
    _, same, moved = model(as_state(changed), hidden)
    assert largest_difference(predicted, same) == 0
    assert largest_difference(truth, moved) == pytest.approx(9 / 0.7)
    assert largest_difference(model(as_state(changed))[1], predicted) > 1e-3


def test_where_signs_are_canonical_the_hidden_entries_are_too():
    """Negated units change neither prediction nor target: visible entries decide the signs."""
    model, tensors, hidden = EntriesHead(encoder(True)).double(), NETWORKS, HIDDEN
    flipped = scale_units(SPACE, tensors, random_signs(SPACE, 3, torch.manual_seed(2)))
    one, other = model(as_state(tensors), hidden), model(as_state(flipped), hidden)
    assert largest_difference(one[1], other[1]) < 1e-10
    assert largest_difference(one[2], other[2]) < 1e-10
    seen = [x.masked_fill(mask, 0) for x, mask in zip(tensors, hidden, strict=True)]
    for x, mask, canonical in zip(one[2], hidden, canonical_signs(SPACE, seen), strict=True):
        assert torch.allclose((0.7 * x + 0.1)[~mask], canonical[~mask], rtol=0, atol=1e-12)
    biases = torch.cat([x[mask] for x, mask in list(zip(one[2], hidden, strict=True))[1:4:2]])
    assert (biases > 0.1).any()  # hidden ones have either sign
    assert (biases < -1).any()
