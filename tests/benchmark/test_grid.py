"""A grid file, and what is wrong with one."""

from __future__ import annotations

import pytest
from support import ROOT

from medssl_monai.benchmark import (
    load_grid,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {}}, "unknown key 'methods', did you mean 'method'"),
        ({"data": {"toy": {"datalists": "x"}}}, "data, toy: unknown key 'datalists', did you mean 'datalist'"),
        ({"data": {"toy": {}}}, "data, toy: give either 'datalist'"),
        ({"data": {"toy": {"datalist": "x", "phantom": {"kind": "chest"}}}}, "data, toy: give either 'datalist'"),
        ({"data": {"toy": {"phantom": {"kinds": "chest"}}}}, "toy, phantom: unknown key 'kinds', did you mean 'kind'"),
        ({"data": {"toy": {"prepare": {"source": "x", "splits": 1}}}}, "toy, prepare: unknown key 'splits', .*'split'"),
        ({"data": {"toy": {"prepare": {"split": 1}}}}, "the key 'source' is missing"),
        ({"method": {}}, "'method' is empty"),
        (
            {"method": {"new": {"method_deff": 1}}, "baselines": {}},
            "method, new: .*`--method_deff` names nothing.*`--method_def`",
        ),
        ({"query": {"new": {"query::budgets": 1}}, "baselines": {}}, "query, new: .*did you mean `--query::budget`"),
        ({"overrides": {"query::budget": 3}}, "overrides: leave 'query::budget' out, since the axis 'labels' decides"),
        ({"overrides": {"output_dir": "x"}}, "leave 'output_dir' out, since every cell has a folder of its own"),
        ({"overrides": [1]}, r"overrides must be a mapping of names to values, got \[1\]"),
        ({"method": {"new": None}, "baselines": {}}, "method, new must be a mapping"),
        ({"labels": {"few": {"start": 6, "end": 9}}}, "labels, few: the key 'rounds' is missing"),
        (
            {"labels": {"few": {"start": 6, "end": 9, "rounds": 3}}},
            "2 queries of equal size cannot bring 6 labels to 9",
        ),
        ({"labels": {"few": {"start": 6, "end": 9, "rounds": 1}}}, "cannot bring 6 labels to 9"),
        ({"labels": {"few": {"start": 9, "end": 6, "rounds": 2}}}, "needs 1 <= start <= end"),
        ({"labels": {"few": {"start": 6, "end": 9.5, "rounds": 2}}}, "must be whole numbers"),
        ({"seeds": 3}, "'seeds' must be a list of whole numbers, got 3"),
        ({"rows": [{"methods": "fixmatch"}]}, r"rows\[0\]: unknown key 'methods'"),
        ({"rows": [{}, {"method": "fixmach"}]}, r"rows\[1\], method: there is no 'fixmach', did you mean 'fixmatch'"),
        ({"baselines": {"b": {"method": "supervised", "query": "none"}}}, "baselines, b: there is no 'none'"),
        ({"baselines": {"b": {"method": "supervised"}}}, "baselines, b: the key 'query' is missing"),
        (
            {"data": {"toy": {"prepare": {"source": "x", "fold": "seed"}}}},
            "toy, prepare: `fold` is a number, or 'seed' .* needs `folds`, .*got fold 'seed' of None",
        ),
        ({"data": {"toy": {"prepare": {"source": "x", "folds": 3, "fold": "sed"}}}}, "got fold 'sed' of 3"),
        ({"labels": {"few": {"groups": 1.5}}}, "`groups` is a share above 0 and up to 1, got 1.5"),
        ({"labels": {"few": {"groups": 0.5, "rounds": 1}}}, "labels, few: unknown key 'rounds'"),
        ({"labels": {"few": {"groups": 0.5}}}, r"rows\[0\]: the labels 'few' are a share .*'toy' is not"),
        ({"pretrain": {"jcl": {"max_epoch": 2}}}, "pretrain, jcl: .*`--max_epoch` names nothing.*`--max_epochs`"),
        ({"pretrain": {"jcl": {"labels": 6}}}, "pretrain, jcl: leave 'labels' out"),
        (
            {"pretrain": {"jcl": {}}, "method": {"a": {"pretrain": "jlc"}}, "baselines": {}},
            "method, a, pretrain: there is no 'jlc', did you mean 'jcl'",
        ),
        (
            {"pretrain": {"jcl": {}}, "method": {"a": {"pretrain": "jcl", "pretrained": "x.pt"}}, "baselines": {}},
            "method, a: leave 'pretrained' out, since 'pretrain' decides it",
        ),
        ({"method": {"a": {"overlay": "prob"}}, "baselines": {}}, "a: the bundle has no overlay 'prob', .*'probe'"),
        ({"method": {"a": {"probe": "knn"}}, "baselines": {}}, "method, a: .*`--probe` names nothing"),
    ],
)
def test_a_wrong_key_or_name_is_an_error_that_says_where_and_what_was_meant(grid_file, changes, message):
    with pytest.raises(ValueError, match=message):
        load_grid(grid_file(**changes))


def test_what_is_not_there_is_an_error(grid_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="no grid file"):
        load_grid(tmp_path / "nowhere.yaml")
    with pytest.raises(FileNotFoundError, match="no bundle 'boostmiss'"):
        load_grid(grid_file(bundle="boostmiss"))
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_grid(tmp_path / "broken.yaml")


def test_the_grid_of_the_repository_is_valid():
    wanted = load_grid(ROOT / "benchmarks" / "boostmis" / "grid.yaml")
    assert wanted.labels["20-60"].budget == 10
    on_pneumonia = [row for row in wanted.rows if row["data"] == ["pneumonia"]]
    assert {method for row in on_pneumonia for method in row["method"]} == set(wanted.method)
    assert {query for row in on_pneumonia for query in row["query"]} == set(wanted.query)


GRIDS = sorted((ROOT / "benchmarks").rglob("grid*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_grid_of_the_repository_is_read(path):
    assert load_grid(path).name.startswith(path.parent.name)


def test_there_are_grids_to_read():
    assert len(GRIDS) >= 6
