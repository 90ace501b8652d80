"""The example in the README runs as it stands and learns."""

from pathlib import Path

README = Path(__file__).parents[2] / "dwsnet" / "README.md"


def test_the_example_trains_and_comes_back_from_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = README.read_text().split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(source, names)  # nothing but what the README shows
    assert names["accuracy"] > 0.9
    assert len([line for line in source.splitlines() if line]) <= 22
