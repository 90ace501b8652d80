"""Work on a cluster of two nodes: tasks on their GPUs, and training while nodes come and go."""

import os
from itertools import groupby
from operator import itemgetter
from unittest.mock import patch

import pytest

from cluster.fanout import given_gpu, run_tasks
from cluster.session import ray_session
from flows.recipes import smoke
from pipeline.config import ResourcesConfig
from pipeline.encoders.transformer import TransformerConfig
from pipeline.tasks.own import task_of
from pipeline.training.checkpoint_folders import latest
from pipeline.training.launch import Job, launch_training
from tests.conftest import wait_for
from tests.pipeline.test_training_state import figures
from tests.pipeline.worlds import without_ray


@pytest.fixture(scope="module")
def two_nodes():
    """A Ray cluster of two nodes, each with one CPU and a fictitious GPU; this is its driver."""
    from ray.cluster_utils import Cluster

    health = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000}
    nodes = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "num_gpus": 1,
            "include_dashboard": False,
            "_system_config": health,
        },
    )
    try:
        nodes.second = nodes.add_node(num_cpus=1, num_gpus=1)
        nodes.wait_for_nodes()
        with patch.dict(os.environ, RAY_ADDRESS=nodes.address), ray_session(2):
            yield nodes
    finally:
        nodes.shutdown()


def gpu_and_process(folder, number):
    """Wait until the other task has begun too: two run at a time."""
    (folder / str(number)).touch()
    wait_for((folder / str(number ^ 1)).exists, 30)
    return given_gpu(), os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def test_tasks_on_gpus_are_run_by_the_processes_of_those_before_them(two_nodes, tmp_path):
    results = dict(run_tasks(gpu_and_process, range(6), (tmp_path,), 2, 1))
    gpus, processes, visible = zip(*results.values(), strict=True)
    assert {*gpus} == {0}  # of its node
    assert len({*processes}) == 2
    assert {*visible} == {None}  # a process may be given another GPU later


def slowly(spec):
    """Train as workers do, and write a line to `steps` for each step of rank 0: world size, step.

    A single worker waits before step 6 for another.
    """
    import time

    from pipeline.training.loop import Trainer
    from pipeline.training.worker import train_worker

    original = Trainer.step

    def step(trainer, batch):
        world, number = trainer.worker.world_size, trainer.step_number
        time.sleep(300 if (world, number) == (1, 6) else 0.3)
        if trainer.worker.rank == 0:
            with open(trainer.run / "steps", "a") as file:
                file.write(f"{world} {number}\n")
        return original(trainer, batch)

    Trainer.step = step
    return train_worker(spec)


def look_often_for_nodes():
    """The actor that tells Ray Train of nodes polls twice a second, not every 20 seconds."""
    import ray
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as ray_data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Coordinator(ray_data._AutoscalingCoordinatorActor):
        TICK_INTERVAL_S = 0.5

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    name = {key: "AutoscalingCoordinator" for key in ("name", "namespace")}
    actor = ray.remote(num_cpus=0, scheduling_strategy=here, lifetime="detached")(Coordinator)
    actor.options(**name).remote()


def saved(steps: int) -> tuple[int, int]:
    """The steps of the newest checkpoint after this many, and of the one before, while the newest
    is being written."""
    newest = steps // 2 * 2
    return newest, newest - 2


@pytest.mark.timeout(420)  # it is up to Ray when it learns of a node
def test_a_node_that_dies_costs_the_steps_since_the_newest_checkpoint_and_another_may_come(
    two_nodes, zoo, tmp_path, monkeypatch
):
    """Two workers train, then one, then two, with the result of one that is undisturbed."""
    monkeypatch.setattr("pipeline.training.launch.train_worker", slowly)
    monkeypatch.setattr("pipeline.training.launch.RESIZE_SECONDS", 1.0)
    look_often_for_nodes()
    changes = {"encoder": TransformerConfig(head_dim=2), "epochs": 1, "checkpoint_steps": 2}
    training = smoke().training.model_copy(update=changes)
    prepared = task_of(training.task, ()).prepare(zoo)
    job, undisturbed = (
        Job("dwsnet", tmp_path / name, training, prepared, 256) for name in ("run", "undisturbed")
    )
    removed, added = [], []

    def steps() -> list[tuple[int, int]]:
        lines = (job.run / "steps").read_text().splitlines()
        return [tuple(map(int, line.split())) for line in lines]

    def change_nodes():
        if not removed and latest(job.run) is not None:
            two_nodes.remove_node(two_nodes.second, allow_graceful=False)
            removed.extend(steps())
        elif removed and not added and steps()[-1][0] == 1:
            added.append(two_nodes.add_node(num_cpus=1))

    launch_training(zoo, [[job]], ResourcesConfig(workers="1:2"), change_nodes)
    worlds = [(world, [step for _, step in own]) for world, own in groupby(steps(), itemgetter(0))]
    (two, first), (one, alone), (again, last) = worlds
    assert (two, one, again) == (2, 1, 2)
    assert first == list(range(len(first)))
    assert alone == list(range(alone[0], alone[-1] + 1))
    assert alone[0] in saved(len(first))
    assert last == list(range(last[0], 8))
    assert last[0] in saved(alone[-1] + 1)
    with without_ray():
        launch_training(zoo, [[undisturbed]], ResourcesConfig(workers=1), change_nodes)
    assert figures(job.run) == pytest.approx(figures(undisturbed.run), rel=1e-5)
