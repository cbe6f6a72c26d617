"""Where a run of a bundle is."""

from pathlib import Path

import pytest

from medssl_monai.bundle.run import output_dir, path_value
from medssl_monai.data import Datalist


@pytest.mark.parametrize("folder", ["$x", "@x", "%x"])
def test_a_path_as_a_value_begins_with_nothing_that_is_evaluated(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert path_value(folder) == str(tmp_path / folder)


@pytest.mark.parametrize("folder", ["a#b", "a@::b", "x%::y"])
def test_a_path_that_monai_would_change_is_refused(folder):
    with pytest.raises(ValueError, match="which MONAI's configurations replace; give the folder another name"):
        path_value(folder)


def test_a_list_of_another_tool_is_trained_on_in_a_folder_of_its_own(tmp_path, monkeypatch):
    assert output_dir(tmp_path, Datalist()) == str(tmp_path / "eval")
    assert Path(output_dir(tmp_path, [])).parent == tmp_path / "eval"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one-for-all-processes")
    assert output_dir(tmp_path, []) == str(tmp_path / "eval" / "one-for-all-processes")
