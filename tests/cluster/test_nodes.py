"""A shard's task on a cluster of two nodes, one of which goes away."""

import time

import pytest

from cluster.fanout import run_tasks
from cluster.session import ray_session
from flows.recipes import smoke
from pipeline.archive.write import pending_shards, seal_zoo
from pipeline.zoos.build import ShardSummary, fit_shard, plan_zoo
from tests.conftest import contents


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one CPU each, and this process their driver."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        nodes.second = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        with ray_session(2):
            yield nodes
    finally:
        nodes.shutdown()


def fit_where_told(config, folder, signals, shard):
    """Fits a shard slowly and tells on which node."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (folder.with_name("marks") / node).touch()
    time.sleep(0.5)
    return node, fit_shard(config, folder, signals, shard)


def test_a_node_that_is_removed_costs_nothing_but_time(cluster, built_zoo, tmp_path):
    config = smoke().zoo
    zoo, marks = tmp_path / "zoo", tmp_path / "marks"
    marks.mkdir()
    plan = plan_zoo(config, zoo)
    results = run_tasks(fit_where_told, plan.shards, (config, zoo, plan.signals), 2)
    first, _ = next(results)
    deadline = time.monotonic() + 60
    while len(list(marks.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(list(marks.iterdir())) == 2, "both nodes have work"
    cluster.remove_node(cluster.second, allow_graceful=False)
    rest = {shard.name: result for shard, result in results}
    assert {first.name, *rest} == {shard.name for shard in plan.shards}
    assert all(isinstance(summary, ShardSummary) for _, summary in rest.values())
    assert pending_shards(zoo) == {}
    seal_zoo(zoo)
    assert contents(zoo) == contents(built_zoo)
