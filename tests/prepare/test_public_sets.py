"""The commands of the pages in data/, run on made-up files that lie as the publishers' do."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from support import ROOT
from support_prepare import found, report, section

from medssl_monai.cli.program import build_parser, main
from medssl_monai.data.datalist import SECTIONS, load_datalist
from medssl_monai.prepare.layouts import chest
from medssl_monai.prepare.prepare import prepare

PAGES = sorted(path for path in (ROOT / "data").glob("*.md") if path.name != "README.md")
NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"


def paint(path, value, size=(8, 8), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def medmnist(root):
    arrays = {}
    for k, (part, count) in enumerate({"train": 6, "val": 2, "test": 4}.items()):
        shades = np.arange(20 * k, 20 * k + count, dtype=np.uint8)
        arrays[f"{part}_images"] = np.tile(shades[:, None, None], (1, 28, 28))
        arrays[f"{part}_labels"] = np.arange(count)[:, None] % 2
    np.savez(root / "pneumoniamnist.npz", **arrays)


def kermany(root):
    for k in range(10):
        paint(root / f"chest_xray/train/NORMAL/IM-{k:04d}-0001.jpeg", k)
        paint(root / f"chest_xray/train/PNEUMONIA/person{k}_virus_{k}.jpeg", 50 + k)
    for k in range(4):
        paint(root / f"chest_xray/test/NORMAL/NORMAL2-IM-{k:04d}-0001.jpeg", 100 + k)
        paint(root / f"chest_xray/test/PNEUMONIA/person{7 * k}_bacteria_{k}.jpeg", 150 + k)


def ham10000(root):
    names = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    rows, one_hot = [], {}
    for k in range(42):
        name, label = f"ISIC_{k:07d}", names[k % 7]
        paint(root / f"HAM10000/HAM10000_images_part_{1 + k % 2}/{name}.jpg", (5 * k, 9, 9), mode="RGB")
        rows.append(f"HAM_{k // 14:03d}{k % 7},{name},{label},histo,60.0,male,back,vidir_modern")
        bits = ["1" if place == label else "0" for place in ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")]
        one_hot[k] = f"{name}.jpg  {' '.join(bits)} "
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"
    write(root / "HAM10000/HAM10000_metadata.csv", header, *rows)
    lists = {"Train350": range(7), "Train_unl350": range(7, 28), "Val": range(28, 35), "Test": range(35, 42)}
    for name, chosen in lists.items():
        write(root / f"Labels/{name}.txt", *(one_hot[k] for k in chosen))


def isic2017(root):
    for k in range(6):
        paint(root / f"ISIC-2017_Training_Data/ISIC_{k:07d}.jpg", (9, 20 * k, 9), mode="RGB")
        paint(root / f"ISIC-2017_Training_Data/ISIC_{k:07d}_superpixels.png", (1, 2, k), mode="RGB")
        mask = np.zeros((8, 8), np.uint8)
        mask[2:5, : k + 1] = 255
        folder = root / "ISIC-2017_Training_Part1_GroundTruth"
        folder.mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / f"ISIC_{k:07d}_segmentation.png")
    rows = [f"ISIC_{k:07d},55,female" for k in range(6)]
    write(root / "ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv", "image_id,age_approximate,sex", *rows)


def chestxray14(root):
    rows, lists = [], {"train_val_list.txt": [], "test_list.txt": []}
    for k in range(40):
        name, finding = f"{k // 2:08d}_{k % 2:03d}.png", ("No Finding", "Pneumonia|Mass", "Hernia")[k // 2 % 3]
        paint(root / f"ChestX-ray14/images_{1 + k // 20:03d}/images/{name}", 5 * k)
        rows.append(f"{name},{finding},{k % 2},{k // 2},58,M,PA,2682,2749,0.143,0.143,")
        lists["test_list.txt" if k >= 30 else "train_val_list.txt"].append(name)
    header = NIH + "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    write(root / "ChestX-ray14/Data_Entry_2017_v2020.csv", header, *rows)
    for name, lines in lists.items():
        write(root / "ChestX-ray14" / name, *lines)


def chexpert(root):
    folder = root / "CheXpert-v1.0-small"
    tables = {"train": [], "valid": []}
    for k in range(12):
        part = "valid" if k > 9 else "train"
        path = f"{part}/patient{k:05d}/study1/view1_frontal.jpg"
        paint(folder / path, 10 * k)
        cells = [("1.0", "0.0", "-1.0", "")[(k + m) % 4] for m in range(14)]
        tables[part].append(",".join([f"CheXpert-v1.0-small/{path}", "Male", "50", "Frontal", "AP", *cells]))
    header = ",".join(["Path", *chest.CHEXPERT_META, *chest.CHEXPERT])
    for part, rows in tables.items():
        write(folder / f"{part}.csv", header, *rows)


def covidx(root):
    for part, count in {"train": 20, "test": 4}.items():
        lines = []
        for k in range(count):
            paint(root / f"covidx/{part}/{part}-{k}.png", 10 * k + (part == "test"))
            lines.append(f"{k // 2 + 50 * (part == 'test')} {part}-{k}.png {('negative', 'positive')[k // 2 % 2]} rsna")
        write(root / f"covidx/{part}_COVIDx_CXR-3B.txt", *lines)


def jsrt(root):
    for k in range(1, 4):
        film = np.full((2048, 2048), 100 * k, dtype=">u2")
        (root / "All247images").mkdir(exist_ok=True)
        film.tofile(root / f"All247images/JPCLN{k:03d}.IMG")
        for column, side in enumerate(("right", "left")):
            mask = np.zeros((16, 16), np.uint8)
            mask[4:12, 8 * column + 1 : 8 * column + 1 + k] = 255
            path = root / f"scr/fold{1 + k % 2}/masks/{side} lung/JPCLN{k:03d}.gif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)


def montgomery(root):
    for k in range(1, 6):
        name = f"MCUCXR_{k:04d}_{k % 2}.png"
        paint(root / "MontgomerySet/CXR_png" / name, 20 * k)
        write(root / f"MontgomerySet/ClinicalReadings/{name[:-4]}.txt", "Patient's Sex: F", "normal")
        for column, side in enumerate(("right", "left")):
            mask = np.zeros((8, 8), bool)
            mask[2:6, 4 * column : 4 * column + 2] = True
            path = root / f"MontgomerySet/ManualMask/{side}Mask/{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)


def kvasir_capsule(root):
    lists = [[], []]
    for k in range(24):
        label = ("Erosion", "Pylorus")[k // 3 % 2]
        name = f"{k // 3:016x}_{100 + k}.jpg"
        paint(root / f"kvasir-capsule/{label}/{name}", 10 * k)
        lists[k // 3 % 2 == 0].append(f"{name},{label}")
    for k, rows in enumerate(lists):
        write(root / f"split_{k}.csv", "filename,label", *rows)


def msd_hippocampus(root):
    folder = root / "Task04_Hippocampus"
    pairs = []
    for k in range(1, 7):
        mask = np.zeros((6, 7, 8), np.uint8)
        mask[1:3], mask[4, :k] = 1, 2
        for name, array in (("imagesTr", 40 * mask + k), ("labelsTr", mask)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / name / f"hippocampus_{k:03d}.nii.gz")
        file = f"hippocampus_{k:03d}.nii.gz"
        pairs.append({"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"})
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    content = {"labels": labels, "training": pairs, "test": ["./imagesTs/hippocampus_009.nii.gz"]}
    (folder / "dataset.json").write_text(json.dumps(content))


def mescc(root):
    for grades in (2, 6):
        for k, (part, count) in enumerate({"train": 12, "val": 6, "test": 6}.items()):
            folder = root / f"mescc{grades}"
            folder.mkdir(exist_ok=True)
            features = np.arange(count * 4, dtype=np.float32).reshape(count, 4) + 1000 * k
            np.save(folder / f"{part}-features.npy", features)
            np.save(folder / f"{part}-targets.npy", np.arange(count) % grades)


MAKE = {
    **{"chestxray14": chestxray14, "chexpert": chexpert, "covidx": covidx, "ham10000": ham10000, "isic2017": isic2017},
    **{"jsrt": jsrt, "kermany": kermany, "kvasir-capsule": kvasir_capsule, "medmnist": medmnist, "mescc": mescc},
    **{"montgomery": montgomery, "msd-hippocampus": msd_hippocampus},
}
FIRST = {  # items by section of a page's first command, and what the groups are
    "chestxray14": ((24, 6, 10), "column 'Patient ID'"),
    "chexpert": ((10, 2, 0), "patient, read from the path"),
    "covidx": ((16, 4, 4), "column 'patient'"),
    "ham10000": ((28, 14, 0), "column 'lesion_id'"),
    "isic2017": ((5, 1, 0), "every file its own"),
    "jsrt": ((2, 1, 0), "every file its own"),
    "kermany": ((22, 6, 0), "column 'patient'"),
    "kvasir-capsule": ((18, 6, 0), "column 'group'"),
    "medmnist": ((6, 2, 4), "every file its own"),
    "mescc": ((12, 6, 6), "every row its own"),
    "montgomery": ((4, 1, 0), "every file its own"),
    "msd-hippocampus": ((5, 1, 0), "every file its own"),
}


def blocks(page):
    """Language and text of each block of code."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(text):
    """A block's calls of medssl, and what stands before them."""
    lines = text.replace("\\\n", " ").splitlines()
    calls = [shlex.split(line)[1:] for line in lines if line.startswith("medssl ")]
    return calls, "\n".join(line for line in lines if not line.startswith("medssl "))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MAKE[page.stem](tmp_path)
    done = []
    for language, text in blocks(page):
        if language == "python":
            compile(text, page.name, "exec")
            if "download=True" not in text:
                exec(text, {})
            continue
        calls, script = commands(text)
        if script.strip():
            subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True)
        for call in calls:
            known = build_parser().parse_args(call)
            if not known.source.exists():
                assert known.source.name in (ROOT / "data" / page.name).read_text()
                assert known.source.suffix in (".npz", ".zip")  # of ../shared/data
                continue
            shutil.rmtree(known.folder, ignore_errors=True)
            assert main(call) == 0
            done.append(known)
    assert done
    sizes, groups = FIRST[page.stem]
    path = done[0].folder / "datalist.json"
    there = [name for name in SECTIONS if name in json.loads(path.read_text())]
    lists = {name: load_datalist(path, name) for name in there}
    assert tuple(len(lists.get(name, ())) for name in SECTIONS) == sizes
    report = json.loads((path.parent / "prepare_report.json").read_text())
    assert groups in report["groups"]
    owners = [{item["group"] for item in items} for items in lists.values()]
    assert sum(map(len, owners)) == len(set.union(*owners))


def test_every_page_is_in_the_index_and_short():
    index = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert {page.stem for page in PAGES} == MAKE.keys() == FIRST.keys()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert f"({page.name})" in index
        for part in ("Get", "Licence", "Layout", "Groups", "Traps", "Cite", "MONAI"):
            assert f"- **{part}**:" in text, (page.name, part)
        assert re.search(r"- \*\*Checksums?\*\*:", text), page.name
        assert 15 <= len(text.splitlines()) <= 50, page.name


def test_tears_lists_keep_their_own_split_only_if_leaks_are_allowed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ham10000(tmp_path)
    [call] = [
        call
        for _, text in blocks(ROOT / "data" / "ham10000.md")
        for call in commands(text)[0]
        if "Labels/Train350.txt" in call
    ]
    assert main([part for part in call if part != "--allow_leaks"]) == 1
    assert "pass `allow_leaks`" in capsys.readouterr().err
    assert main(call) == 0
    assert "Train350.txt: 7 of the 7 images on the list are here, 7 of them labeled" in capsys.readouterr().out
    path = build_parser().parse_args(call).folder / "datalist.json"
    training = load_datalist(path, allow_leaks=True)
    assert {item["id"] for item in training if item.get("labeled", True)} == {f"ISIC_{k:07d}" for k in range(7)}
    assert [len(load_datalist(path, name, allow_leaks=True)) for name in SECTIONS] == [28, 7, 7]


DATA = Path(os.environ.get("MEDSSL_DATA", Path(__file__).parents[3] / "shared/data"))


def real(name):
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not in {DATA}; set MEDSSL_DATA to the folder of real images")
    return DATA / name


def test_pneumoniamnist_is_split_anew_by_patient(tmp_path):
    path = prepare(real("pneumoniamnist_28_trainval.npz"), tmp_path)
    items = section(path) | section(path, "validation")
    with zipfile.ZipFile(real("kermany_cxr_224_trainval.zip")) as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file.open("manifest.csv"), encoding="utf-8")))
    patients = {row["id"]: row["patient"] for row in rows}
    assert all(item["group"] == patients[name] for name, item in items.items())
    dropped = found(path, "dropped")
    assert len(dropped["no id, hence no group"]) == 7
    assert len(items) + len(dropped["exact copy of another image"]) == 5232 - 7
    assert "since the source's" in report(path)["split"]


def test_nih_findings_keep_the_publishers_split(tmp_path):
    path = prepare(real("nih_cxr14_64_trainval.npz"), tmp_path)
    assert (len(section(path)), len(section(path, "validation"))) == (725, 94)
    assert report(path)["split"] == "as given by the source"
    assert found(path, "noted") == {"classes that the validation section lacks": ["Hernia"]}


@pytest.mark.slow
def test_nih_in_five_folds_with_the_unlabelled_images(tmp_path):
    source, more = real("nih_cxr14_64_trainval.npz"), real("nih_cxr_64_unlabelled.npz")
    paths = [prepare(source, tmp_path / str(k), folds=5, fold=k) for k in range(5)]
    assert sorted(name for path in paths for name in section(path, "validation")) == sorted(np.load(source)["ids"])
    assert all(140 <= len(section(path, "validation")) <= 180 for path in paths), "the largest patient has 66 images"
    for finding in (0, 2, 3):  # atelectasis, effusion, infiltration
        items = [section(path, "validation").values() for path in paths]
        assert min(len({item["group"] for item in fold if item["label"][finding]}) for fold in items) >= 7
    path = prepare(source, tmp_path / "joined", folds=5, fold=0, unlabeled=more)
    left_out = found(path, "dropped")["unlabeled: near copy of an image that is not in the training section"]
    archive = np.load(more)
    matches = {f"unlabeled/{name}" for name in archive["ids"][archive["matches_labelled_train"]]}
    assert left_out
    assert set(left_out) <= matches, "nothing but what the packager found as well"
    assert section(path, "validation").keys() == section(paths[0], "validation").keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ham10000_28_trainval.npz", "ham10000_200x150_trainval.zip"])
def test_ham10000_keeps_lesions_together(tmp_path, name):
    path = prepare(real(name), tmp_path)
    sections = [section(path), section(path, "validation")]
    assert sum(map(len, sections)) + len(found(path, "dropped")["exact copy of another image"]) == 8005
    assert load_datalist(path).classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert sections[0]["ISIC_0024306"]["group"] == "HAM_0000550"
    assert all(Path(item["image"]).is_file() for items in sections for item in items.values())


@pytest.mark.slow
def test_ham10000_has_classes_and_masks(tmp_path):
    options = {"masks": "mask", "mask_classes": ["background", "lesion"], "split": (0.8, 0.2, 0)}
    path = prepare(real("ham10000_200x150_trainval.zip"), tmp_path / "out", **options, labels=100, mask_labels=10)
    assert load_datalist(path).classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    sections = report(path)["sections"]
    assert [sections["training"][kind] for kind in ("labeled", "masked")] == [100, 10]
    assert sections["validation"]["masked"] == sections["validation"]["items"] > 1500


@pytest.mark.slow
def test_kermany_by_subtype(tmp_path):
    path = prepare(real("kermany_cxr_224_trainval.zip"), tmp_path, label_column="subtype")
    assert load_datalist(path).classes == ("bacteria", "normal", "virus")
    assert report(path)["groups"] == "column 'patient'"
