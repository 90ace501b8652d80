"""What the nodes of a cluster must have in common."""

from dataclasses import replace

import pytest

from cluster.nodes import Look, differences, look, marked, trouble, versions, wrong_clocks

WANTED = {"dwszoo": "1 with code aa", "torch": "2"}
LOOK = Look("10.0.0.2", WANTED, "", 100.0)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("clock", "sentences"),
    [
        (100.0, []),
        (101.9, []),
        (
            104.0,
            ["the clock of node 10.0.0.2 is 3 seconds ahead: set it by NTP, as `chronyd` does"],
        ),
        (
            93.0,
            ["the clock of node 10.0.0.2 is 6 seconds behind: set it by NTP, as `chronyd` does"],
        ),
    ],
)
def test_a_clock_is_wrong_where_no_delay_explains_it(clock, sentences):
    looks = [LOOK, replace(LOOK, clock=clock)]
    assert wrong_clocks(looks, before=99.0, after=101.0) == sentences


@pytest.mark.fast
def test_each_thing_that_differs_on_a_node_is_a_sentence():
    assert differences(LOOK, WANTED, "/runs") == []
    other = replace(LOOK, versions=WANTED | {"torch": "3"}, folder="is another folder there")
    version, folder = differences(other, WANTED, "/runs")
    assert version.startswith("node 10.0.0.2 has torch 3, expected 2 as on ")
    assert folder == "/runs of node 10.0.0.2 is another folder there"


@pytest.mark.fast
def test_a_node_that_sees_the_folder_leaves_nothing_in_it(tmp_path):
    with marked(tmp_path) as mark:
        assert look("10.0.0.2", mark).folder == ""
        assert trouble(tmp_path / "gone" / mark.name).startswith("does not exist")
    assert trouble(mark).startswith("is another folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.fast
def test_the_version_of_this_package_changes_with_its_code(tmp_path, monkeypatch):
    from cluster import nodes

    before = versions()["dwszoo"]
    (tmp_path / "cluster").mkdir()
    for name in ("cluster/a.py", "pipeline.py", "cluster/a.pyc"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(nodes, "__file__", str(tmp_path / "cluster" / "nodes.py"))
    other = versions()["dwszoo"]
    assert other != before
    for name in ("pipeline.py", "cluster/a.pyc"):
        (tmp_path / name).write_text("changed")
    assert versions()["dwszoo"] == other
    (tmp_path / "cluster/a.py").write_text("changed")
    assert versions()["dwszoo"] != other
