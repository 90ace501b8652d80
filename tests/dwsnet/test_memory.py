"""Pooled memory belongs to a tensor while anything refers to it, and is reused afterwards."""

import os
import threading

import pytest
import torch

from dwsnet import EquivariantLinear, WeightSpace, memory
from dwsnet.testing import random_features

pytestmark = pytest.mark.fast

LARGE = (3, 40000)


@pytest.fixture(autouse=True)
def nothing_waits():
    memory._free.clear()


def place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_tensors_of_one_block_are_apart_and_aligned():
    first, empty, second, third = memory.empty(torch.ones(1), [LARGE, (0, 5), (7,), LARGE])
    assert [tuple(x.shape) for x in (first, empty, second, third)] == [LARGE, (0, 5), (7,), LARGE]
    for i, x in enumerate((first, second, third)):
        x.fill_(i)
    assert [(x == i).all().item() for i, x in enumerate((first, second, third))] == [True] * 3
    assert all(x.data_ptr() % 64 == 0 for x in (first, second, third))
    assert all(x.dtype == torch.float32 and not x._is_view() for x in (first, second, third))


def test_memory_is_used_again_once_nothing_holds_it():
    first = memory.empty(torch.ones(1), [LARGE])[0]
    before, part = place(first), first[1:]
    del first
    other = memory.empty(torch.ones(1), [LARGE])[0]
    assert place(other) != before, "a view still held it"
    del part
    again = memory.empty(torch.ones(1), [LARGE])[0]
    assert place(again) == before


def test_a_numpy_array_holds_its_memory():
    array = memory.empty(torch.ones(1), [LARGE])[0].fill_(3).numpy()
    memory.empty(torch.ones(1), [LARGE])[0].fill_(4)
    assert (array == 3).all()


def test_another_size_gives_back_what_waits():
    memory.empty(torch.ones(1), [LARGE])
    assert sum(map(len, memory._free.values())) == 1
    other = memory.empty(torch.ones(1), [(5, *LARGE)])
    assert sum(map(len, memory._free.values())) == 0
    del other
    assert [len(blocks) for blocks in memory._free.values()] == [1]


@pytest.mark.parametrize(
    ("like", "shape"),
    [(torch.ones(1), (7,)), (torch.ones(1).double(), LARGE), (torch.ones(1, device="meta"), LARGE)],
    ids=["small", "float64", "meta"],
)
def test_the_rest_is_pytorchs(like, shape):
    (found,) = memory.empty(like, [shape])
    assert (found.dtype, found.device, found.shape) == (like.dtype, like.device, shape)
    del found
    assert not any(memory._free.values())


def test_threads_never_share_what_they_hold():
    wrong = []

    def work(number: int):
        for _ in range(200):
            (x,) = memory.empty(torch.ones(1), [LARGE])
            x[:, :9] = number
            if not (x[:, :9] == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_writes_into_its_own():
    (x,) = memory.empty(torch.ones(1), [LARGE])
    x.fill_(1)
    child = os.fork()
    if not child:
        x.numpy()[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (x == 1).all()


def test_activations_may_work_in_place_on_large_outputs():
    space = WeightSpace.mlp((2, 33, 32, 1))
    layer = EquivariantLinear(space, 16, 16)
    outputs = layer([x.float() for x in random_features(space, 9, 16, torch.Generator())])
    assert outputs[2].nbytes > memory.LEAST
    sum(x.relu_().sum() for x in outputs).backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
