"""Both stages of S2MTS2, and findings in every bundle."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from support import assert_same_state, outputs_of

from medssl_monai.data import load_datalist, write_datalist
from medssl_monai.engines import SSLTrainer
from medssl_monai.networks import weights_metadata

FINDINGS = ["left", "bright", "never"]


@pytest.fixture(scope="session")
def findings_datalist(toy_datalist, tmp_path_factory):
    """The toy images with three findings: one in half of the images, one often unknown, one that nobody has."""
    content = json.loads(toy_datalist.read_text())
    sections = {name: content[name] for name in ("training", "validation", "testing")}
    for section in sections.values():
        for number, item in enumerate(section):
            item["image"] = str(toy_datalist.parent / item["image"])
            item["label"] = [1 - item["label"], -1 if number % 3 == 0 else number // 2 % 2, 0]
    path = tmp_path_factory.mktemp("findings") / "datalist.json"
    write_datalist(path, sections, classes=FINDINGS, name="toy findings", synthetic=True)
    return path


def part_of(state, prefix):
    return {name: value for name, value in state.items() if name.startswith(prefix)}


class TestStages:
    @pytest.fixture
    def weights(self, pretrain, tmp_path):
        pretrain()
        return tmp_path / "pretrain" / "models" / "pretrained.pt"

    def test_stage_b_starts_student_and_teacher_from_stage_a(self, weights, run_bundle):
        """The released code overwrote the pre-trained student by its teacher."""
        before = {}

        def stop(self, engine, batch):
            before.update({name: value.clone() for name, value in self.core.state_dict().items()})
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SSLTrainer, "_iteration", stop)
            with pytest.raises(KeyboardInterrupt):
                run_bundle("s2mts2", pretrained=str(weights))
        trained = torch.load(weights, weights_only=True)
        for prefix in ("backbone.", "projection."):
            wanted = part_of(trained, prefix)
            assert wanted
            for who in ("network.", "teacher.network."):
                found = {f"{prefix}{name}": value for name, value in part_of(before, who + prefix).items()}
                assert_same_state({k.removeprefix(prefix + who): v for k, v in found.items()}, wanted)

    @pytest.mark.parametrize("name", ["boostmis", "tear"])
    def test_any_bundle_starts_from_it(self, weights, run_bundle, name, caplog):
        more = {"convert_channels": True} if name == "tear" else {}
        with caplog.at_level("INFO"):
            run = run_bundle(name, rounds=1, epochs_per_round=1, epoch_length=1, pretrained=str(weights), **more)
        assert f"tensors from {weights}" in caplog.text
        assert run.parser.get_parsed_content("method").steps_done == 1

    def test_says_what_it_was_trained_on(self, weights):
        known = weights_metadata(weights)
        assert known["synthetic"] and known["epoch"] == 2 and len(known["datalist_sha256"]) == 64

    def test_reads_no_label(self, pretrain, toy_datalist, tmp_path):
        content = json.loads(toy_datalist.read_text())
        for item in content["training"]:
            del item["label"]
        path = tmp_path / "bare.json"
        path.write_text(json.dumps(content))
        pretrain(folder="with")
        pretrain(folder="without", datalist=str(path), dataset_dir=str(toy_datalist.parent))
        states = [
            torch.load(tmp_path / part / "models/pretrained.pt", weights_only=True) for part in ("with", "without")
        ]
        assert_same_state(*states)

    def test_leaves_out_what_cannot_be_read(self, pretrain, toy_datalist, tmp_path):
        content = json.loads(toy_datalist.read_text())
        content["training"][3]["image"] = str(tmp_path / "broken.png")
        (tmp_path / "broken.png").write_bytes(b"no image")
        (tmp_path / "list.json").write_text(json.dumps(content))
        where = {"datalist": str(tmp_path / "list.json"), "dataset_dir": str(toy_datalist.parent)}
        run = pretrain(**where, on_bad_file="skip")
        assert len(run.parser.get_parsed_content("pool").first.indices("all")) == 39
        with pytest.raises(RuntimeError):
            pretrain(folder="stops", **where)


@pytest.mark.parametrize("name", ["boostmis", "s2mts2", "tear"])
class TestFindings:
    """Labels of 1, 0 and -1 from the datalist to the table of predictions."""

    @pytest.fixture
    def trained(self, name, run_bundle, own_bundle, findings_datalist):
        more = {"convert_channels": True} if name == "tear" else {}
        overrides = {"datalist": str(findings_datalist), "ckpt_dir": str(own_bundle(name) / "models"), "labels": 12}
        return run_bundle(name, **overrides, **more)

    def test_figures_list_what_has_no_outcome(self, name, trained, tmp_path):
        record = json.loads((tmp_path / "run/rounds/round_01.json").read_text())["evaluation"]
        assert "never" in json.dumps(record["undefined"])
        assert 0 <= record["metrics"]["auroc"]["value"] <= 1
        text = (tmp_path / "run/rounds/round_01.json").read_text()
        assert "NaN" not in text
        assert "never" in (tmp_path / "run/report.html").read_text()

    def test_queries_ask_for_findings(self, name, trained, tmp_path):
        rows = list(csv.DictReader((tmp_path / "run/queries/round_00.csv").read_text().splitlines()))
        assert rows
        pool = trained.parser.get_parsed_content("pool")
        assert pool.first.kind.word == "findings" and int(pool.first.mask.sum()) > 12

    def test_infers_each_finding_for_itself(self, name, trained, own_bundle, infer, findings_datalist):
        more = {"convert_channels": True} if name == "tear" else {}
        rows = infer(name, datalist=str(findings_datalist), **more).values()
        assert len(rows) == len(load_datalist(findings_datalist, "testing"))
        assert weights_metadata(own_bundle(name) / "models" / "model.pt")["kind"] == "findings"
        sums = [sum(float(row[finding]) for finding in FINDINGS) for row in rows]
        assert any(abs(total - 1) > 1e-3 for total in sums)
        assert all(0 <= float(row[finding]) <= 1 for row in rows for finding in FINDINGS)

    def test_is_deterministic(self, name, trained, run_bundle, findings_datalist, tmp_path):
        more = {"convert_channels": True} if name == "tear" else {}
        run_bundle(name, folder="again", datalist=str(findings_datalist), labels=12, **more)
        assert outputs_of(tmp_path / "run").keys() == outputs_of(tmp_path / "again").keys()
        first, again = (json.loads((tmp_path / f / "rounds/round_01.json").read_text()) for f in ("run", "again"))
        assert first["evaluation"]["metrics"] == again["evaluation"]["metrics"]


def test_stage_b_makes_no_strong_views(run_bundle):
    run = run_bundle("s2mts2", rounds=1, epochs_per_round=1, epoch_length=1)
    assert run.parser.get_parsed_content("views").strong is None
    run = run_bundle(
        "s2mts2", folder="other", rounds=1, epochs_per_round=1, epoch_length=1, method_def="@methods::fixmatch"
    )
    assert run.parser.get_parsed_content("views").strong is not None
