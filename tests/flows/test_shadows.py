"""Modules where scheduled runs start, which may hide those that the runs need."""

from pathlib import Path

import pytest

from flows import shadows
from flows.shadows import hidden_by, require_no_shadows
from pipeline.errors import InputError

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", ["flows/__init__.py", "logging.py", "cluster.py"])
def test_a_module_that_hides_another_is_refused(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    with pytest.raises(
        InputError, match=r"would import .* in place of .*\.py: rename it"
    ) as caught:
        require_no_shadows(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_files_are_not(tmp_path):
    for name in ("mine.py", "__main__.py", "flows.txt", "time.py", "not-a-name.py"):
        (tmp_path / name).touch()
    (tmp_path / "flows").mkdir()  # without __init__.py it comes after packages
    require_no_shadows(tmp_path)


def test_a_package_does_not_hide_itself():
    assert hidden_by(Path(shadows.__file__).parent) is None
