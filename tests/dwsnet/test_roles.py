"""Operations that depend on roles work for every order of axes, or say what is missing."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dwsnet import Axis, DWSNetEditor, TensorSpec, WeightSpace
from dwsnet.align import match_weights
from dwsnet.augment import flip_signs, move_picture
from dwsnet.canonical import canonical_phases, canonical_scales
from dwsnet.encoders.rows import to_rows
from dwsnet.pretrained import space_as_json, space_from_json
from dwsnet.symmetry import (
    canonical_signs,
    permute,
    random_permutation,
    random_scales,
    scale_units,
    turn_phases,
)
from tests.dwsnet.small_networks import OMEGA, random_network

pytestmark = pytest.mark.fast

WORD, STREAM, INNER, KEY, CLASS = (
    Axis("word", 6, False),
    Axis("stream", 4, True),
    Axis("inner", 5, True),
    Axis("key", 3, True),
    Axis("class", 2, False),
)
TRANSFORMER = WeightSpace(
    (
        TensorSpec("embedding", (WORD, STREAM), ("in", "out")),
        TensorSpec("up", (INNER, STREAM), ("out", "in")),
        TensorSpec("up.bias", (INNER,), ("out",)),
        TensorSpec("down", (STREAM, INNER), ("out", "in")),
        TensorSpec("query", (KEY, STREAM), ("out", "in")),
        TensorSpec("key", (KEY, STREAM), ("in", "in")),
        TensorSpec("head", (CLASS, STREAM), ("out", "in")),
    )
)
"""An embedding, a residual block with ReLU, and a head weighted by a score of two words."""


def transformer(state: dict[str, Tensor]) -> Tensor:
    """Outputs for two words, `(batch, classes)`, of tensors in the order of `TRANSFORMER`."""
    stream = state["embedding"][:, [1, 4]]  # (batch, two words, stream)
    inner = torch.relu(
        torch.einsum("bws,bis->bwi", stream, state["up"]) + state["up.bias"][:, None]
    )
    stream = stream + torch.einsum("bwi,bsi->bws", inner, state["down"])
    query = torch.einsum("bs,bks->bk", stream[:, 0], state["query"])
    key = torch.einsum("bs,bks->bk", stream[:, 1], state["key"])
    score = torch.tanh((query * key).sum(1, keepdim=True))
    return score * torch.einsum("bs,bcs->bc", stream.sum(1), state["head"])


def reordered(space: WeightSpace, orders: list[int]) -> WeightSpace:
    """The same space, the axes of each tensor in one of their orders."""
    specs = []
    for spec, order in zip(space.tensors, orders, strict=False):
        dims = sorted(permutations(range(len(spec.axes))))[order % 2 if len(spec.axes) > 1 else 0]
        axes, roles = ([values[i] for i in dims] for values in (spec.axes, spec.roles))
        specs.append(replace(spec, axes=tuple(axes), roles=tuple(roles)))
    return WeightSpace(tuple(specs))


def in_order(space: WeightSpace, like: WeightSpace, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of `space` with their axes as `like` has them."""
    result = {}
    for spec, target in zip(space.tensors, like.tensors, strict=True):
        dims = [1 + spec.position(axis.name) for axis in target.axes]
        result[spec.name] = state[spec.name].permute(0, *dims)
    return result


def named(space: WeightSpace, tensors) -> dict[str, Tensor]:
    return {spec.name: x for spec, x in zip(space.tensors, tensors, strict=True)}


ORDERS = st.lists(st.integers(0, 1), min_size=7, max_size=7)


@given(ORDERS, st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_scales_keep_a_transformer_whatever_the_order_of_axes(orders, seed):
    space = reordered(TRANSFORMER, orders)
    tensors = random_network(space, 2, seed)
    before = transformer(in_order(space, TRANSFORMER, named(space, tensors)))
    scales = random_scales(space, 2, torch.Generator().manual_seed(seed), 3.0)
    after = named(space, scale_units(space, tensors, scales))
    assert torch.allclose(transformer(in_order(space, TRANSFORMER, after)), before, atol=1e-9)


@given(ORDERS)
@settings(max_examples=8, deadline=None)
def test_an_editor_widens_a_transformer_whatever_the_order_of_axes(orders):
    space = reordered(TRANSFORMER, orders)
    editor = DWSNetEditor(space, 4, 1, expansion=2, init_scale=0.0).double().eval()
    state = named(space, random_network(space, 2, 0))
    before = transformer(in_order(space, TRANSFORMER, state))
    after = in_order(space, TRANSFORMER, editor(state))
    assert after["query"].shape == (2, 6, 8)
    assert torch.allclose(transformer(after), before, atol=1e-9)


def test_wrong_roles_show():
    """Torch's order for an embedding, or keys that are not summed over, change the function."""
    for name, roles in (("embedding", ("out", "in")), ("key", ("out", "in"))):
        specs = [
            replace(spec, roles=roles) if spec.name == name else spec
            for spec in TRANSFORMER.tensors
        ]
        if name == "key":  # something else sums over the axis, so that nothing is missing
            specs.append(TensorSpec("more", (CLASS, KEY), ("out", "in")))
        space = WeightSpace(tuple(specs))
        tensors = random_network(space, 2, 0, spread=0.4)
        scales = random_scales(space, 2, torch.Generator().manual_seed(0), 3.0)
        before = transformer(named(space, tensors))
        after = transformer(named(space, scale_units(space, tensors, scales)))
        assert (after - before).abs().max() > 1e-2


def mlp(*turned: int) -> WeightSpace:
    """An MLP (2, 5, 4, 3) some of whose tensors are stored the other way."""
    space = WeightSpace.mlp((2, 5, 4, 3))
    return reordered(space, [int(i in turned) for i in range(6)])


@pytest.mark.parametrize("turned", [(0,), (2, 4), (0, 2, 4)])
def test_canonical_forms_are_those_of_torchs_order(turned):
    torchs, space = mlp(), mlp(*turned)
    tensors = random_network(torchs, 2, 0)
    other = in_order(torchs, space, named(torchs, tensors)).values()
    turns = {name: torch.arange(size) for name, size in space.hidden.items()}
    for act in (
        canonical_scales,
        canonical_signs,
        lambda space, x: canonical_phases(space, x, OMEGA),
        lambda space, x: turn_phases(space, x, turns, OMEGA),
        lambda space, x: flip_signs(space, x, torch.arange(len(x[0]))),
    ):
        expected = in_order(torchs, space, named(torchs, act(torchs, tensors)))
        for x, y in zip(act(space, tuple(other)), expected.values(), strict=True):
            assert torch.allclose(x, y, atol=1e-12)


def test_matching_and_rows_do_not_depend_on_the_order_of_axes():
    torchs, space = mlp(), mlp(0, 2)
    tensors = random_network(torchs, 2, 0)
    moved = permute(torchs, tensors, random_permutation(torchs, torch.Generator().manual_seed(0)))
    there, here = (
        tuple(in_order(torchs, space, named(torchs, x)).values()) for x in (tensors, moved)
    )
    found, expected = match_weights(space, there, here), match_weights(torchs, tensors, moved)
    assert all(torch.equal(found[name], expected[name]) for name in space.hidden)
    assert torch.allclose(to_rows(space, there), to_rows(torchs, tensors), atol=1e-12)


def test_canonical_scales_do_not_depend_on_the_order_of_tensors():
    torchs = WeightSpace.mlp((2, 5, 4, 3))
    space = WeightSpace(torchs.tensors[::-1])
    tensors = random_network(torchs, 2, 0)
    expected = canonical_scales(torchs, tensors)[::-1]
    for x, y in zip(canonical_scales(space, tensors[::-1]), expected, strict=True):
        assert torch.allclose(x, y, atol=1e-12)
    with pytest.raises(ValueError, match=r"computed one after the other, found .* from each other"):
        canonical_scales(TRANSFORMER, random_network(TRANSFORMER, 2, 0))


def test_a_space_that_does_not_say_is_refused():
    silent = WeightSpace(tuple(replace(spec, roles=None) for spec in mlp().tensors))
    both = WeightSpace(
        tuple(
            replace(spec, roles=("out", "in")) if spec.name == "key" else spec
            for spec in TRANSFORMER.tensors
        )
    )
    for space, message in (
        (silent, r"'layers.0.weight' must say what it does with its axes \['layer1', 'layer0'\]"),
        (
            both,
            "hidden axis 'key' must be 'out' of one tensor and 'in' of another .*'query': 'out'",
        ),
    ):
        tensors = random_network(space, 2, 0)
        scales = {name: torch.ones(size) for name, size in space.hidden.items()}
        for act in (
            lambda: scale_units(space, tensors, scales),  # noqa: B023  called at once
            lambda: turn_phases(space, tensors, scales, OMEGA),  # noqa: B023
            lambda: canonical_signs(space, tensors),  # noqa: B023
            lambda: canonical_scales(space, tensors),  # noqa: B023
            lambda: canonical_phases(space, tensors, OMEGA),  # noqa: B023
            lambda: flip_signs(space, tensors, torch.arange(2)),  # noqa: B023
            lambda: DWSNetEditor(space, 4, 1, expansion=2),  # noqa: B023
        ):
            with pytest.raises(ValueError, match=message):
                act()
        assert DWSNetEditor(space, 4, 1).expansion == 1
    tensors = random_network(silent, 2, 0)
    with pytest.raises(ValueError, match=r"must compute one of its axes .*, found roles None"):
        to_rows(silent, tensors)
    with pytest.raises(ValueError, match=r"must begin with a weight \(hidden, inputs\) of roles"):
        move_picture(silent, tensors, torch.eye(2).expand(2, -1, -1), torch.zeros(2, 2))


@pytest.mark.usefixtures("unchecked")
def test_roles_are_checked_and_kept():
    for roles in (("out",), ("out", "input"), ("out", "in", "in")):
        with pytest.raises(ValueError, match=r"roles of 'w' must be one of .* of its 2 axes"):
            WeightSpace((TensorSpec("w", (STREAM, WORD), roles),))
    with pytest.raises(ValueError, match="flat_from of 'w' must be one of its 2 axes, got 2"):
        WeightSpace((TensorSpec("w", (STREAM, WORD), None, 2),))
    assert space_from_json(space_as_json(TRANSFORMER)) == TRANSFORMER


def test_folders_without_roles_have_torchs():
    space = WeightSpace.cnn(1, (3, 4), 3, 2)
    old = [{"name": spec["name"], "axes": spec["axes"]} for spec in space_as_json(space)]
    assert space_from_json(old) == space
