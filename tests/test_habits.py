"""What watches over the repository: hooks, workflows, forms and the citation."""

from __future__ import annotations

import json
import os
import re

import pytest
import yaml
from support import BUNDLES, ROOT

from medssl_monai import __version__

WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir() if path.name != "config.yml")
FILE = re.compile(r"(?:\./)?((?:scripts|tests)/\S+\.(?:py|sh))")


def test_hooks_call_what_is_installed_and_fetch_nothing():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert hook["language"] == "system", hook
        assert hook["entry"].split()[0] in {"actionlint", "mypy", "python", "ruff", "shellcheck"}, hook
        assert all((ROOT / name).exists() for name in FILE.findall(hook["entry"])), hook


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_only_read_and_call_scripts_alone(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/(checkout|setup-python)@v\d+", step["uses"])
            else:
                (script,) = FILE.findall(step["run"])
                assert step["run"].startswith(f"./{script}")
                assert os.access(ROOT / script, os.X_OK)


def test_workflows_cover_the_versions_that_the_package_names():
    tests, weekly = (yaml.safe_load((WORKFLOWS[0].parent / f"{name}.yaml").read_text()) for name in ("tests", "weekly"))
    assert tests["jobs"]["pinned"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    words = (ROOT / "scripts" / "test_versions.sh").read_text()
    used = [tests["jobs"]["oldest"]["steps"][-1]["run"].split()[-1]]
    used += weekly["jobs"]["versions"]["strategy"]["matrix"]["versions"]
    assert used == re.findall(r"^  (\w+)\)", words, re.MULTILINE)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_ask_for_no_patient(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    assert path.name == "idea.yml" or "privacy" in ids


def test_the_citation_names_this_version_and_the_paper_of_each_bundle():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    papers = [json.loads(path.read_text())["references"][0] for path in BUNDLES.glob("*/configs/metadata.json")]
    cited = {entry["url"]: entry["title"] for entry in citation["references"]}
    assert len(cited) == len(papers) == 5
    for paper in papers:
        title = cited[paper.split()[-1]]
        assert title in paper
