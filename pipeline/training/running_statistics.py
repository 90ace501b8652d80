"""The running statistics of batch norm, the state of a model other than its parameters."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class RunningStatistics:
    """The running statistics of a model: its persistent floating-point buffers."""

    def __init__(self, model: nn.Module):
        tensors = model.state_dict(keep_vars=True).values()
        self.tensors = [
            tensor
            for tensor in tensors
            if not isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
        ]
        self.kept = [tensor.clone() for tensor in self.tensors]

    def keep(self):
        """Save them for `put_back`."""
        if self.tensors:
            torch._foreach_copy_(self.kept, self.tensors)

    def put_back(self, where: Tensor):
        """Restore those of the last `keep` if `where` is true; it stays on the device."""
        for tensor, kept in zip(self.tensors, self.kept, strict=True):
            torch.where(where, kept, tensor, out=tensor)

    def average(self):
        """Replace them by their mean over the ranks, each of which saw its own share.

        They are linear in the data, so it does not matter how often this is done.
        """
        for tensor in self.tensors:
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()
