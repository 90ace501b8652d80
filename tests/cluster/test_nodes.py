"""A shard's task on a cluster of two nodes, one of which goes away."""

import time

from cluster.fanout import run_tasks
from flows.recipes import smoke
from pipeline.archive.write import pending_shards, seal_zoo
from pipeline.zoos.build import ShardSummary, fit_shard, plan_zoo
from tests.conftest import contents


def fit_where_told(config, folder, signals, shard):
    """Fits a shard slowly and tells on which node."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (folder.with_name("marks") / node).touch()
    time.sleep(0.5)
    return node, fit_shard(config, folder, signals, shard)


def test_a_node_that_is_removed_costs_nothing_but_time(two_nodes, built_zoo, tmp_path):
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
    two_nodes.remove_node(two_nodes.second, allow_graceful=False)
    rest = {shard.name: result for shard, result in results}
    assert {first.name, *rest} == {shard.name for shard in plan.shards}
    assert all(isinstance(summary, ShardSummary) for _, summary in rest.values())
    assert pending_shards(zoo) == {}
    seal_zoo(zoo)
    assert contents(zoo) == contents(built_zoo)
