"""Derivatives of any order and kind for layers whose own backward pass gives only the first.

Each fast function, compiled or with an explicit backward pass, has a plain twin: the same map in
operations that PyTorch can differentiate and vmap. Under torch.func or forward mode
(`is_transformed`) the twin runs instead; if a gradient is to be differentiated
(`create_graph=True`) or batched, the twin's gradient is returned.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from dwsnet.autocast import no_autocast

Plain = Callable[..., Sequence[Tensor]]
"""Takes and returns the same tensors as the fast function."""


def is_transformed() -> bool:
    """Whether a torch.func transform (`grad`, `jvp`, `vmap`, ...) or forward-mode AD is active."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def wants_more(gradients: Sequence[Tensor]) -> bool:
    """Whether a backward pass is differentiated or batched, and so needs the plain twin."""
    if torch.compiler.is_compiling():
        return False
    many = any(map(torch._C._functorch.is_legacy_batchedtensor, gradients))  # is_grads_batched=True
    return many or torch.is_grad_enabled() or is_transformed()


def gradients_of(
    plain: Plain, inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> list[Tensor | None]:
    """Differentiable gradients of the inputs of `plain` from those of its outputs."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad(), no_autocast(inputs[0].device.type):
        inputs = [x.view_as(x) for x in inputs]  # separates inputs computed from each other
        pairs = zip(plain(*inputs), gradients, strict=True)
        outputs, gradients = zip(*((y, g) for y, g in pairs if y.requires_grad), strict=True)
        found = iter(
            torch.autograd.grad(
                outputs,
                [x for x in inputs if x.requires_grad],
                gradients,
                create_graph=create_graph,
                allow_unused=True,
            )
        )
    return [next(found) if x.requires_grad else None for x in inputs]


def differentiable_again(output: Tensor, plain: Plain, inputs: Sequence[Tensor]) -> Tensor:
    """Give the output of a PyTorch operation all the derivatives of `plain`."""
    if torch.compiler.is_compiling() or not output.requires_grad:
        return output
    return _Again.apply(plain, output, *inputs)


class _Again(torch.autograd.Function):
    """Backpropagate through the operation itself, or through its plain twin."""

    @staticmethod
    def forward(ctx, plain: Plain, output: Tensor, *inputs: Tensor):
        ctx.plain = plain
        ctx.save_for_backward(*inputs)
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor):
        if not wants_more([gradient]):
            return None, gradient, *[None] * (len(ctx.needs_input_grad) - 2)
        return None, None, *gradients_of(ctx.plain, ctx.saved_tensors, [gradient])


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hooked(module: nn.Module) -> bool:
    """Whether the module has hooks, which only run if it is called."""
    everywhere = (getattr(nn.modules.module, f"_global{name}") for name in HOOKS)
    return any(getattr(module, name) for name in HOOKS) or any(everywhere)


def hooked_inside(module: nn.Module) -> bool:
    """Whether a module inside this one has hooks."""
    return any(hooked(part) for part in module.modules() if part is not module)
