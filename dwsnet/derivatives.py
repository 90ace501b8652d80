"""Derivatives of every order and kind, of layers whose own backward pass gives the first and no other.

What is fast, compiled or with its backward pass written out, has a plain twin: the same map in operations that PyTorch
differentiates and maps. Where torch.func or forward mode is at work (`is_transformed`) the twin runs instead; where a
gradient is to be differentiated (`create_graph=True`), or many are taken at once, the twin's gradient is returned.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from dwsnet.autocast import no_autocast

Plain = Callable[..., Sequence[Tensor]]
"""Takes the tensors that the fast function takes, gives what it gives."""


def is_transformed() -> bool:
    """Whether a transform of torch.func (`grad`, `jvp`, `vmap`, ...) or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def wants_more(gradients: Sequence[Tensor]) -> bool:
    """In a backward pass: whether its own gradient will not do, since it is differentiated or taken of many at once."""
    if torch.compiler.is_compiling():
        return False
    many = any(map(torch._C._functorch.is_legacy_batchedtensor, gradients))  # is_grads_batched=True
    return many or torch.is_grad_enabled() or is_transformed()


def gradients_of(
    plain: Plain, inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients of the inputs of `plain` from those of its outputs, to be differentiated like any others."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad(), no_autocast(inputs[0].device.type):
        inputs = [x.view_as(x) for x in inputs]  # one that others were computed from gets its own
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
    """The output of an operation of PyTorch's that has a first derivative alone, of which `plain` has all."""
    if torch.compiler.is_compiling() or not output.requires_grad:
        return output
    return _Again.apply(plain, output, *inputs)


class _Again(torch.autograd.Function):
    """The gradient goes back through the operation itself, or around it by way of its plain twin."""

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
    """Whether somebody wants to see what goes into the module or comes out: then it has to be called."""
    everywhere = (getattr(nn.modules.module, f"_global{name}") for name in HOOKS)
    return any(getattr(module, name) for name in HOOKS) or any(everywhere)


def hooked_inside(module: nn.Module) -> bool:
    """Whether this is so of a module inside of this one."""
    return any(hooked(part) for part in module.modules() if part is not module)
