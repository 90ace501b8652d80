"""For mypy: submodules, buffers and parameters that a class does not declare are of any type.

PyTorch declares `nn.Module.__getattr__` as Tensor | Module, so each use would have to say which of
them it means. Everything else about tensors and modules is checked.
"""

from collections.abc import Callable

from mypy.plugin import AttributeContext, Plugin
from mypy.types import AnyType, Type, TypeOfAny

GETATTR = "torch.nn.modules.module.Module."


class TorchAttributes(Plugin):
    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        return any_type if fullname.startswith(GETATTR) else None


def any_type(context: AttributeContext) -> Type:
    declared = str(context.default_attr_type)
    is_found = "Tensor" in declared and "Module" in declared
    return AnyType(TypeOfAny.explicit) if is_found else context.default_attr_type


def plugin(version: str) -> type[Plugin]:
    return TorchAttributes
