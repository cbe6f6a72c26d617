"""Names planted in tags, tables, files and folders must not come out anywhere but in the user's own datalist."""

import contextlib
import io
import json
import logging

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

from medssl_monai.bundle.run import workflow
from medssl_monai.cli import main

SECRETS = ("Mustermann", "Erika", "MRN4711", "Hauptstrasse", "19670423")
OWN = {"datalist.json", "images.json"}
"""The user's own: paths stand here, so that an id can be found again."""


def radiograph(path, patient, grey):
    ds = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"Mustermann{patient}^Erika", f"MRN4711-{patient}", "19670423"
    ds.PatientAddress = "Hauptstrasse 1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{grey + 1}"
    ds.SeriesInstanceUID = f"1.3.{grey + 1}"
    rng = np.random.default_rng(grey)
    ds.PixelData = (rng.integers(0, 50, (64, 64)) + 20 * grey).astype(np.int16).tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path)


@pytest.fixture
def clinic(tmp_path):
    """DICOM and PNG files of ten patients, one of each cut short, in folders with names, with a table of names."""
    folder = tmp_path / "in" / "Mustermann_Erika"
    rows = ["image,patient,label,referred by"]
    for k in range(20):
        patient = f"Mustermann{k // 2}"
        name = f"{patient}/Erika_{k}" + (".dcm" if k % 2 else ".png")
        if k % 2:
            radiograph(folder / name, k // 2, k)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(100 + k).integers(0, 255, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
        rows.append(f"{name},MRN4711-{k // 2},{'ill' if k % 4 < 2 else 'well'},Dr Mustermann")
    for name in ("Mustermann2/Erika_4.png", "Mustermann2/Erika_5.dcm"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-500])
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def clinic_with_masks(tmp_path):
    """PNG files of ten patients and their masks, in folders with names, with a table of names."""
    folder = tmp_path / "in" / "Mustermann_Erika"
    rows = ["image,patient,mask"]
    for k in range(20):
        patient = folder / f"Mustermann{k // 2}"
        patient.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 255, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(patient / f"Erika_{k}.png")
        Image.fromarray(255 * (pixels > 128).astype(np.uint8)).save(patient / f"Erika_{k}_mask.png")
        rows.append(f"{patient.name}/Erika_{k}.png,MRN4711-{k // 2},{patient.name}/Erika_{k}_mask.png")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def search(folder):
    """Files below a folder that say a name, in their own name or content, with the name."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() and path.name not in OWN else b""
        text = str(path.relative_to(folder)).encode() + content
        found += [(path.name, secret) for secret in SECRETS if secret.lower().encode() in text.lower()]
    return found


def test_masks_do_not_say_whose_they_are(clinic_with_masks, own_bundle, tiny, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "out" / "cache"))
    out, bundle = tmp_path / "out", own_bundle("ssal")
    flags = ["--masks", "mask", "--classes", "background", "lesion", "--split", "0.5", "0.25", "0.25"]
    assert main(["prepare", str(clinic_with_masks), str(out / "data"), *flags]) == 0
    settings = tiny("train", "ssal", labels=0, output_dir=str(out / "train"), ckpt_dir=str(out / "train" / "models"))
    settings |= {"datalist": str(out / "data" / "datalist.json"), "query::cold_start": 4}
    settings |= {
        "logging_file": False,
        "bundle_root": str(bundle),
        "rounds": 1,
        "strategies::clusters::num_clusters": 2,
    }
    for files, folder in (("train",), "train"), (("train", "query"), "query"), (("train", "evaluate"), "evaluate"):
        configs = [bundle / "configs" / f"{file}.yaml" for file in files]
        flow = workflow(configs, **{**settings, "output_dir": str(out / folder)})
        flow.initialize()
        flow.run()
    known = json.loads((out / "train" / "pool.json").read_text())["labels"]
    assert list(known.values()) == [True] * 4
    assert (out / "evaluate" / "cases.csv").exists()
    assert search(out) == []
    assert [secret for secret in SECRETS if secret in caplog.text] == []


def test_nothing_that_is_written_or_logged_says_who_it_was(clinic, own_bundle, tiny, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "out" / "cache"))
    out, printed = tmp_path / "out", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["prepare", str(clinic), str(out / "data"), "--split", "0.5", "0.25", "0.25"]) == 0
        datalist = out / "data" / "datalist.json"
        assert main(["audit", str(datalist), str(out / "audit"), "--allow_leaks"]) == 0
    content = json.loads(datalist.read_text())
    assert len(content["quarantine"]) == 2
    last = content["training"][0]["image"]  # damaged after it was listed
    (datalist.parent / last).write_bytes((datalist.parent / last).read_bytes()[:200])
    bundle = own_bundle("boostmis")
    common = {"logging_file": False, "bundle_root": str(bundle), "datalist": str(datalist)}

    def run(*files, **overrides):
        configs = [bundle / "configs" / file for file in files]
        flow = workflow(configs, **common, **overrides)
        flow.initialize()
        flow.run()

    settings = tiny("train", labels=4, on_bad_file="skip", output_dir=str(out / "train"), **{"query::budget": 1})
    settings |= {"ckpt_dir": str(out / "train" / "models")}
    del settings["datalist"]
    run("train.yaml", **settings)
    run("train.yaml", "query.yaml", **{**settings, "output_dir": str(out / "query")})
    run("train.yaml", "evaluate.yaml", **{**settings, "output_dir": str(out / "evaluate")})
    common["datalist"] = None
    run("inference.json", workflow_type="infer", weights=str(out / "train" / "models" / "model.pt"),
        dataset_dir=str(clinic), output_dir=str(out / "inference"), device="cpu")  # fmt: skip
    assert {path.name for path in (out / "train").rglob("*")} >= {"report.html", "rounds.csv", "pool.json", "state.pt"}
    assert (out / "inference" / "probabilities.csv").exists()
    assert any(secret in datalist.read_text() for secret in SECRETS)  # the search can find something
    assert search(out) == []
    assert search(bundle) == []
    assert [secret for secret in SECRETS if secret in printed.getvalue() + caplog.text] == []
