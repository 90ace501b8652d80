"""Augmentation in tasks: a function of each member's key, exact where it claims to be."""

from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.archive.zoo import Zoo
from pipeline.decode import DecodeContract
from pipeline.errors import InputError
from pipeline.tasks.augmentation import Augmentation

pytestmark = pytest.mark.fast

ALL = Augmentation(noise=0.1, mask=0.05, signs=True, shift=0.2, rotation=20, zoom=1.2)
EXACT = Augmentation(signs=True)


def some(zoo: Zoo, count: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    keys = torch.randint(-(2**62), 2**62, (count,), generator=torch.Generator().manual_seed(0))
    return zoo[np.arange(count)], keys


def test_what_becomes_of_a_member_depends_on_its_key_alone(zoo):
    state, keys = some(zoo, 12)
    before = {name: x.clone() for name, x in state.items()}
    whole, part = ALL.apply(zoo.space, state, keys), torch.tensor([7, 2, 3])
    again = ALL.apply(zoo.space, {name: x[part] for name, x in state.items()}, keys[part])
    other = ALL.apply(zoo.space, state, keys + 1)
    for name, x in whole.items():
        assert torch.equal(state[name], before[name])
        torch.testing.assert_close(again[name], x[part], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(other[name], x, atol=1e-3)


@pytest.mark.parametrize("field", ["noise", "mask", "signs", "shift", "rotation", "zoom"])
def test_each_field_does_something_and_nothing_is_done_by_default(zoo, field):
    state, keys = some(zoo, 5)
    assert Augmentation().apply(zoo.space, state, keys) is state
    alone = Augmentation(**{field: getattr(ALL, field)}).apply(zoo.space, state, keys)
    assert any(not torch.equal(alone[name], state[name]) for name in state)
    assert {name: (x.shape, x.dtype) for name, x in alone.items()} == {
        name: (x.shape, x.dtype) for name, x in state.items()
    }


def with_contract(zoo: Zoo, **changes) -> Zoo:
    decode: DecodeContract = zoo.record.decode.model_copy(update=changes)
    record = zoo.record.model_copy(update={"decode": decode})
    return Zoo(zoo.folder, record, zoo.shards, zoo._seal)


def test_what_would_not_be_exact_is_refused_in_a_sentence(zoo):
    ALL.check(zoo)
    relu = with_contract(zoo, activations=("relu", "sine", "linear"))
    with pytest.raises(InputError, match=r"augmentation.signs needs .* odd .* are relu, sine: set"):
        EXACT.check(relu)
    with pytest.raises(InputError, match=r"augmentation.signs needs .* are unknown: set it to"):
        EXACT.check(with_contract(zoo, activations=None))
    for own, refused in (
        (["tanh", "sine"], None),
        (["tanh", "relu"], "are relu, tanh: set it to"),
        (["tanh", None], "are tanh, unknown: set it to"),
    ):
        each = with_contract(zoo, activations=("catalog", "catalog", "linear"))
        column = pa.array([own[i % 2] for i in range(len(zoo))])
        each.catalog = zoo.catalog.append_column("activation", column)
        with pytest.raises(InputError, match=refused) if refused else nullcontext():
            EXACT.check(each)
    unknown = with_contract(zoo, coordinate_range=None)
    for field in ("shift", "rotation", "zoom"):
        with pytest.raises(InputError, match=f"augmentation.{field} needs INRs"):
            Augmentation(**{field: getattr(ALL, field)}).check(unknown)
    for exact in (Augmentation(noise=0.1, mask=0.1), Augmentation()):
        exact.check(unknown)
