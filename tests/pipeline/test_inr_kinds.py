"""Each kind of INR is the network of its paper, and its zoos work like those of SIRENs."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwsnet.augment import flip_signs
from dwsnet.encoders import DWSNetEncoder
from dwsnet.state import read_state, unpack, write_state
from flows.cli import main
from flows.overrides import resolve_recipe
from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import FitConfig, InrConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.config.inrs import (
    FinerConfig,
    FourierConfig,
    GaussianConfig,
    PositionalConfig,
    WireConfig,
)
from pipeline.decode import DecodeContract, Decoder, Network, encoded
from pipeline.decode.activations import ACTIVATIONS
from pipeline.errors import InputError
from pipeline.figures.reconstructions import draw_reconstructions, grid_of
from pipeline.fit.adam import fit, gradients
from pipeline.fit.inr import decode_contract, init_rows, inr_space
from pipeline.fit.seeds import member_keys
from pipeline.signals import coordinates, load_signals
from pipeline.tasks.augmentation import Augmentation, require_odd_activations
from pipeline.tasks.reconstruction import Reconstruction
from pipeline.zoos.build import fit_shard, plan_zoo
from pipeline.zoos.inrs import channels_first

pytestmark = pytest.mark.fast

SHAPE = {"hidden": (7, 5), "output_scale": 0.5}
KINDS: dict[str, InrConfig] = {
    "siren": SirenConfig(omega=4.0, init="siren", **SHAPE),
    "positional": PositionalConfig(num_frequencies=3, **SHAPE),
    "plain": PositionalConfig(num_frequencies=0, **SHAPE),
    "fourier": FourierConfig(num_frequencies=6, bandwidth=1.5, seed=3, **SHAPE),
    "gaussian": GaussianConfig(sigma=0.3, **SHAPE),
    "wire": WireConfig(omega=4.0, sigma=0.4, **SHAPE),
    "finer": FinerConfig(omega=3.0, bias_range=0.7, **SHAPE),
}
MEMBERS, DIMS, CHANNELS = 4, 2, 3
GRID = torch.from_numpy(coordinates((4, 6))).double()


class Elementwise(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def nerf(x: Tensor) -> Tensor:
    """Equation 4 of Mildenhall et al. 2020 with three frequencies, after the input itself."""
    waves = [function(2**k * math.pi * x) for function in (torch.sin, torch.cos) for k in range(3)]
    return torch.cat([x, *waves], -1)


def tancik(x: Tensor) -> Tensor:
    """Equation 5 of Tancik et al. 2020, after the input itself."""
    b = x.new_tensor(decode_contract(KINDS["fourier"], DIMS).frequencies)
    angles = (2 * math.pi * x.unsqueeze(-2) * b).sum(-1)
    return torch.cat([x, angles.sin(), angles.cos()], -1)


ENCODINGS = {"positional": nerf, "fourier": tancik}
FUNCTIONS = {
    "siren": lambda z: torch.sin(4 * z),
    "gaussian": lambda z: torch.exp(-(z**2) / (2 * 0.3**2)),
    "wire": lambda z: (torch.exp(4j * z) * torch.exp(-((z / (0.4 * 2**0.5)) ** 2))).real,
    "finer": lambda z: torch.sin(3 * z.abs() * z + 3 * z),
}


def in_torch(kind: str, tensors: Sequence[Tensor]) -> nn.Module:
    """One member, as somebody would write it by hand; with `tensors` as its parameters."""
    modules: list[nn.Module] = [Elementwise(ENCODINGS[kind])] if kind in ENCODINGS else []
    for weight, bias in zip(tensors[::2], tensors[1::2], strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        layer.load_state_dict({"weight": weight, "bias": bias})
        modules += [layer, Elementwise(FUNCTIONS[kind]) if kind in FUNCTIONS else nn.ReLU()]
    return nn.Sequential(*modules[:-1], Elementwise(lambda values: 0.5 * values + 0.5))


def keys(count: int) -> np.ndarray:
    return member_keys(3, np.arange(count), np.zeros(count, int))


def rows_of(kind: str) -> Tensor:
    """Initial values and some noise, so that no bias is zero."""
    rows = init_rows(inr_space(KINDS[kind], DIMS, CHANNELS), KINDS[kind], keys(MEMBERS)).double()
    generator = torch.Generator().manual_seed(1)
    return rows + 0.05 * torch.randn(rows.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_members_return_what_torch_returns(kind):
    inr, space = KINDS[kind], inr_space(KINDS[kind], DIMS, CHANNELS)
    contract = decode_contract(inr, DIMS)
    again = DecodeContract.model_validate_json(contract.model_dump_json())  # as in zoo.json
    assert again == contract
    state, decode = unpack(space, rows_of(kind)), Decoder(again, space, "a test")
    found = decode(state, GRID)
    for member in range(MEMBERS):
        own = {name: tensor[member] for name, tensor in state.items()}
        wanted = in_torch(kind, [*own.values()])(GRID)
        torch.testing.assert_close(found[member], wanted, rtol=0, atol=1e-12)
        alone = Network(decode, own)(GRID.view(4, 6, 2))
        torch.testing.assert_close(alone, wanted.view(4, 6, CHANNELS), rtol=0, atol=1e-12)
    assert found.std(1).min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_autograd(kind):
    inr, space = KINDS[kind], inr_space(KINDS[kind], DIMS, CHANNELS)
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(MEMBERS, CHANNELS, len(GRID), generator=generator, dtype=torch.float64)
    inputs = encoded(GRID, inr.frequencies(DIMS))
    gradient, errors = gradients(space, inr, rows_of(kind), inputs, (targets - 0.5) / 0.5)
    for member, row in enumerate(rows_of(kind)):
        network = in_torch(kind, [tensor[0] for tensor in unpack(space, row[None]).values()])
        error = (network(GRID).t() - targets[member]).square().mean() / 0.5**2
        error.backward()
        wanted = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        torch.testing.assert_close(gradient[member], wanted, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(errors[member], error.detach(), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("positional", {"num_frequencies": 2}),
        ("fourier", {"seed": 4}),
        ("fourier", {"bandwidth": 1.4}),
        ("gaussian", {"sigma": 0.31}),
        ("wire", {"sigma": 0.41}),
        ("wire", {"omega": 4.1}),
        ("finer", {"omega": 3.1}),
    ],
)
def test_every_field_matters_to_the_function(kind, changes):
    contract = decode_contract(KINDS[kind], DIMS)
    other = KINDS[kind].model_copy(update=changes)
    assert other.fingerprint() != KINDS[kind].fingerprint()
    assert decode_contract(other, DIMS) != contract
    space = inr_space(other, DIMS, CHANNELS)
    if space == inr_space(KINDS[kind], DIMS, CHANNELS):
        state = unpack(space, rows_of(kind))
        found, changed = (
            Decoder(how, space, "a test")(state, GRID)
            for how in (contract, decode_contract(other, DIMS))
        )
        assert (found - changed).abs().max() > 1e-4


def test_sirens_keep_their_fingerprints():
    assert SirenConfig(hidden=(4,)).identity() == {
        "hidden": (4,),
        "omega": 30.0,
        "init": "dws",
        "shared_init": False,
        "output_offset": 0.5,
    }
    assert {"kind", "learning_rate_factor"} <= GaussianConfig().identity().keys()
    assert len({inr.fingerprint() for inr in KINDS.values()}) == len(KINDS)


def test_the_frequencies_of_encodings():
    assert PositionalConfig(num_frequencies=2).frequencies(2) == (
        *((0.5, 0.0), (0.0, 0.5)),
        *((1.0, 0.0), (0.0, 1.0)),
    )
    drawn = FourierConfig(num_frequencies=2000, bandwidth=3.0).frequencies(3)
    assert (len(drawn), {len(row) for row in drawn}) == (2000, {3})
    assert np.std(drawn) == pytest.approx(3.0, rel=0.03)
    assert np.mean(drawn) == pytest.approx(0.0, abs=0.1)
    assert FourierConfig(num_frequencies=1).frequencies(2) == ((1.0128, 0.699738),)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_odd_activations_are_those_that_say_so(name):
    activation = ACTIVATIONS[name]
    z = torch.linspace(0.1, 3, 50, dtype=torch.float64)
    there, back = (activation.value(x, 1.7, 0.9) for x in (z, -z))
    assert torch.allclose(there, -back, atol=1e-12) == activation.is_odd
    for place, parameter in enumerate(("omega", "sigma")):
        changed = [1.7, 0.9]
        changed[place] += 0.1
        differs = not torch.equal(activation.value(z, *changed), there)
        assert differs == (parameter in activation.parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_sign_flips_keep_the_function_of_odd_kinds_alone(kind):
    inr, space = KINDS[kind], inr_space(KINDS[kind], DIMS, CHANNELS)
    state, draws = unpack(space, rows_of(kind)), torch.arange(MEMBERS)
    flipped = write_state(space, flip_signs(space, read_state(space, state), draws))
    decode = Decoder(decode_contract(inr, DIMS), space, "a test")
    is_same = torch.allclose(decode(state, GRID), decode(flipped, GRID), atol=1e-12)
    assert is_same == ACTIVATIONS[inr.activation].is_odd == (kind in ("siren", "finer"))


DIGITS = load_signals(SignalsConfig(limit=8))


@pytest.mark.parametrize("kind", ["positional", "fourier", "gaussian", "wire", "finer"])
def test_digits_are_fitted_with_the_defaults_of_a_kind(kind):
    """By the fit of the recipe `digits`: each INR stops at the target on its own."""
    inr = type(KINDS[kind])(hidden=(16, 16))
    space, grid = inr_space(inr, 2, 1), torch.from_numpy(coordinates((8, 8)))
    values = channels_first(DIGITS.values)
    config = resolve_recipe("digits", []).zoo.fit
    fitted = fit(space, inr, config, keys(8), grid, values)
    assert np.median(fitted.psnr) >= 30
    assert fitted.psnr.min() > 25
    assert len(set(fitted.steps.tolist())) > 3
    alone = fit(space, inr, config, keys(8)[2:3], grid, values[2:3])
    torch.testing.assert_close(alone.rows[0], fitted.rows[2], rtol=1e-2, atol=1e-3)


def test_the_learning_rate_is_multiplied_by_the_factor_of_the_kind():
    space = inr_space(KINDS["wire"], 2, 1)
    grid, values = GRID.float(), torch.rand(1, 1, 24, generator=torch.Generator().manual_seed(0))
    factors = {5.0: 2e-3, 1.0: 1e-2}
    rows = [
        fit(
            space,
            KINDS["wire"].model_copy(update={"learning_rate_factor": factor}),
            FitConfig(max_steps=3, learning_rate=rate),
            keys(1),
            grid,
            values,
        ).rows
        for factor, rate in factors.items()
    ]
    torch.testing.assert_close(*rows, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module", params=["fourier", "wire", "finer"])
def zoo(request, tmp_path_factory) -> Zoo:
    """INRs of 60 digits, hardly fitted."""
    config = ZooConfig(
        signals=SignalsConfig(limit=60),
        inr=type(KINDS[request.param])(hidden=(5, 4)),
        fit=FitConfig(max_steps=5),
    )
    folder = tmp_path_factory.mktemp(request.param) / "zoo"
    plan = plan_zoo(config, folder)
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    return seal_zoo(folder)


def test_a_zoo_is_run_from_its_record_alone(zoo, tmp_path):
    assert verify_zoo(zoo) == []
    values, source = zoo.signals().values, zoo.catalog["source_index"].to_numpy()
    rendered = zoo.decoder(zoo[:], zoo.record.coordinates()).view(-1, 8, 8, 1).numpy()
    psnr = -10 * np.log10(np.square(rendered - values[source]).mean((1, 2, 3)))
    np.testing.assert_allclose(psnr, zoo.catalog["psnr"].to_numpy(), atol=1e-3)
    assert grid_of(zoo) == (8, 8)
    draw_reconstructions(zoo, tmp_path / "zoo.png")
    kind = zoo.record.inrs.inr
    assert summarize(zoo)["activation"] == {
        "relu": "relu, of coordinates encoded with 8 frequencies"
    }.get(kind.activation, kind.activation)


def test_encoders_read_a_zoo_and_reconstruction_renders_it(zoo):
    state = zoo[:4]
    assert DWSNetEncoder(zoo.space, 6, 4, 2)(state).shape == (4, 6)
    task = Reconstruction(points=30)
    task.check(zoo)
    assert task.prepare(zoo) == {"num_dims": 2, "num_channels": 1}
    model = task.build(DWSNetEncoder(zoo.space, 6, 4, 2), task.prepare(zoo))
    task.attach(model, zoo)
    assert model.decode(state, model.points).shape == model(state)[1].shape == (4, 25, 1)


def test_what_a_kind_does_not_allow_is_refused_in_a_sentence(zoo):
    kind = zoo.record.inrs.inr
    shift = Augmentation(shift=0.1)
    if kind.frequencies(2):
        with pytest.raises(InputError, match=r"shift needs INRs that take coordinates as they are"):
            shift.check(zoo)
    else:
        shift.check(zoo)
    if kind.activation == "finer":
        require_odd_activations(zoo, "training.encoder.canonical_signs")
    else:
        message = r"canonical_signs needs networks of odd .* finer, .* are (relu|wavelet): set"
        with pytest.raises(InputError, match=message):
            require_odd_activations(zoo, "training.encoder.canonical_signs")


def test_a_layout_that_cannot_say_how_to_run_a_kind_refuses_it(zoo, tmp_path, capsys):
    export = ["zoo", "export", str(zoo.folder), "--out", str(tmp_path / "theirs"), "--format"]
    assert main([*export, "fit-a-nef"]) == 2
    assert "to be exported as fit-a-nef, found" in capsys.readouterr().err
    assert not (tmp_path / "theirs").exists()
    assert main([*export, "dwsnets"]) == 0
    back = ["zoo", "import", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours")]
    assert main([*back, "--format", "dwsnets"]) == 0
    ours = Zoo.open(tmp_path / "ours")
    assert ours.record.decode == zoo.record.decode
    assert grid_of(ours) == (8, 8)


def test_a_plain_relu_mlp_can_be_exported_as_fit_a_nef(tmp_path):
    config = ZooConfig(
        signals=SignalsConfig(limit=60),
        inr=PositionalConfig(hidden=(4,), num_frequencies=0),
        fit=FitConfig(max_steps=1),
    )
    plan = plan_zoo(config, tmp_path / "zoo")
    for shard in plan.shards:
        fit_shard(config, tmp_path / "zoo", plan.signals, shard)
    seal_zoo(tmp_path / "zoo")
    export = ["zoo", "export", str(tmp_path / "zoo"), "--out", str(tmp_path / "theirs")]
    assert main([*export, "--format", "fit-a-nef"]) == 0
    assert json.loads((tmp_path / "theirs" / "nef.json").read_text())["name"] == "MLP"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["kind=fuorier"], r"there is no kind 'fuorier': .* wire, finer; did you mean 'fourier'\?"),
        (
            ["bandwidth=2"],
            "zoo.inr.bandwidth is a field of kind 'fourier': choose one with zoo.inr",
        ),
        (["kind=gaussian", "omega=2"], "field of kind 'siren' or 'wire' or 'finer': choose one"),
        (["kind=gaussian", "sigma=0"], "zoo.inr.sigma: input should be greater than 0, got 0"),
        (["kind=positional", "num_frequencies=-1"], "should be greater than or equal to 0, got -1"),
    ],
)
def test_mistakes_are_said_in_a_sentence(settings, message):
    with pytest.raises(InputError, match=message):
        resolve_recipe("digits", [f"zoo.inr.{setting}" for setting in settings])


def test_what_a_contract_leaves_open_or_gets_wrong_is_named():
    inr = KINDS["fourier"]
    space, contract = inr_space(inr, 2, 1), decode_contract(inr, 2)
    fewer = contract.model_copy(update={"frequencies": contract.frequencies[1:]})
    with pytest.raises(InputError, match=r"expected a first layer of 12 inputs, .* found 14"):
        Decoder(fewer, space, "zoo x")
    open_sigma = decode_contract(KINDS["wire"], 2).model_copy(update={"sigma": None})
    with pytest.raises(InputError, match="wavelet activations need sigma, its record has none"):
        Decoder(open_sigma, inr_space(KINDS["wire"], 2, 1), "zoo x")
    for rows in ([[1.0], [1.0, 2.0]], [[]], []):
        with pytest.raises(ValueError, match="frequencies must be rows of one length"):
            DecodeContract.model_validate(contract.model_dump() | {"frequencies": rows})
