"""Flags that override a bundle's configuration."""

from __future__ import annotations

import pytest

from medssl_monai.cli import main
from medssl_monai.cli.overrides import parse_overrides


def test_overrides_are_read_as_yaml():
    values = parse_overrides(["--labels", "20", "--image_size=[28, 28]", "--datalist", "a.json"])
    assert values == {"labels": 20, "image_size": [28, 28], "datalist": "a.json"}
    with pytest.raises(ValueError, match="must be a flag with a value"):
        parse_overrides(["--labels"])


@pytest.mark.parametrize("text", ["{a: b", "!!python/name:os.system", "- a: b: c", "[" * 5000])
def test_a_value_that_is_no_yaml_is_named(text):
    with pytest.raises(ValueError, match=r"the value of --labels, .* is no YAML"):
        parse_overrides(["--labels", text])


def test_a_misspelt_override_of_the_loop_is_named(own_bundle, tmp_path, capsys):
    assert main(["loop", str(own_bundle("boostmis")), str(tmp_path / "out"), "--datalsit", "x.json"]) == 1
    assert "did you mean `--datalist`?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["@methods::x", "%configs/other.yaml::x", "$@seed + 1", "$[1, 2]"])
def test_references_macros_and_expressions_stay_texts(text):
    assert parse_overrides(["--value", text]) == parse_overrides([f"--value={text}"]) == {"value": text}


def test_a_flag_without_a_value_is_named(own_bundle, tmp_path, capsys):
    assert main(["loop", str(own_bundle("boostmis")), str(tmp_path / "out"), "--labels"]) == 1
    assert "'--labels' must be a flag with a value" in capsys.readouterr().err
