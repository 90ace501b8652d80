"""Ray's trainer without the processes that our training does not need."""

from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

NOT_NEEDED = (DatasetsCallback, PlacementGroupCleanerCallback)
"""Each has an actor, which takes seconds of a core to start. The first serves Ray datasets, and
workers read our archives; the second frees the resources of a controller that dies, after which
our command ends, and all that it has reserved is free."""


class LeanTrainer(DataParallelTrainer):
    def _create_default_callbacks(self):
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, NOT_NEEDED)]


class TorchWorkers(BackendConfig):
    """A Ray Train backend without a process group; workers see the GPUs of all on their node."""

    @property
    def backend_cls(self):
        return SharedGpus


class SharedGpus(Backend):
    share_cuda_visible_devices = True
