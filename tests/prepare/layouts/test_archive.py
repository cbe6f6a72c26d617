import io
import json
import stat
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medssl_monai.data.datalist import load_datalist
from medssl_monai.limits import raised
from medssl_monai.prepare.prepare import prepare


def report_of(folder):
    return json.loads((folder / "prepare_report.json").read_text())


def png(shade):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(shade).integers(0, 255, (6, 8), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def packed(path, names, rows=None, extra=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        lines = rows or [f"{name},{k % 2}" for k, name in enumerate(names)]
        file.writestr("manifest.csv", "\n".join(["image,label", *lines]))
        for k, name in enumerate(names):
            file.writestr(name, png(k))
        for name, content in extra:
            file.writestr(name, content)
    return path


SIX = [f"{k}.png" for k in range(6)]


def test_what_no_row_names_is_listed(tmp_path):
    path = packed(tmp_path / "set.zip", SIX, extra=[("README.md", "about"), ("more/7.png", png(7))])
    prepare(path, tmp_path / "out", split=(1, 0, 0))
    dropped = report_of(tmp_path / "out")["dropped"]
    assert dropped["file of the archive that manifest.csv does not name"]["items"] == ["README.md", "more/7.png"]
    assert not (tmp_path / "out" / "README.md").exists()


def test_rows_and_members_may_write_a_path_in_other_ways(tmp_path):
    names = ["b/" + unicodedata.normalize("NFD", "\u00e4.png"), "b/x.PNG", *SIX]
    rows = ["b\\\u00e4.png,1", "./b/x.png,0", *(f"{name},{k % 2}" for k, name in enumerate(SIX))]
    prepare(packed(tmp_path / "set.zip", names, rows), tmp_path / "out", split=(1, 0, 0))
    items = list(load_datalist(tmp_path / "out" / "datalist.json"))
    assert len(items) == 8
    assert report_of(tmp_path / "out")["dropped"] == {}
    assert sum("label" in item for item in items) == 8


def test_unpacked_images_are_their_owner_s(tmp_path):
    prepare(packed(tmp_path / "set.zip", SIX), tmp_path / "out", split=(1, 0, 0))
    assert stat.S_IMODE((tmp_path / "out" / "0.png").stat().st_mode) == 0o600


def test_no_link_in_the_output_folder_is_followed(tmp_path):
    path = packed(tmp_path / "set.zip", [f"images/{name}" for name in SIX])
    victim, out = tmp_path / "victim.png", tmp_path / "out"
    victim.write_bytes(b"mine")
    (out / "images").mkdir(parents=True)
    (out / "images" / "0.png").symlink_to(victim)
    prepare(path, out, split=(1, 0, 0))
    assert victim.read_bytes() == b"mine"
    assert (out / "images" / "0.png").read_bytes() == png(0)
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        ValueError, match=r"set\.zip holds 'images/0\.png', which would be written outside .* by a link"
    ):
        prepare(path, other, split=(1, 0, 0))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_member_that_is_too_large_is_refused_before_anything_is_unpacked(tmp_path):
    path = packed(
        tmp_path / "set.zip", SIX, [*(f"{name},{name[0]}" for name in SIX), "big.png,1"], [("big.png", bytes(9999))]
    )
    with raised(max_file_bytes=5000), pytest.raises(ValueError, match=r"set\.zip: 'big\.png' holds 9,999 bytes"):
        prepare(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_full_disk_is_said_before_anything_is_unpacked(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"set\.zip unpacks to .* bytes, and .* has 100 left"):
        prepare(packed(tmp_path / "set.zip", SIX), tmp_path / "out")


@pytest.mark.parametrize("suffix", ["zip", "npz"])
@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_a_download_that_broke_off_is_named(tmp_path, suffix, damage):
    path = tmp_path / f"set.{suffix}"
    if suffix == "zip":
        packed(path, SIX)
    else:
        images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
        np.savez_compressed(path, images=images, ids=np.arange(40))
    whole = path.read_bytes()
    middle = len(whole) // 3
    path.write_bytes(
        whole[: len(whole) // 2] if damage == "cut" else whole[:middle] + bytes(100) + whole[middle + 100 :]
    )
    with pytest.raises(ValueError, match=rf"^set\.{suffix}.*damaged"):
        prepare(path, tmp_path / "out")


def test_a_table_that_is_too_long_is_refused(tmp_path):
    path = packed(tmp_path / "set.zip", SIX)
    with raised(max_table_bytes=20), pytest.raises(ValueError, match=r"set\.zip: manifest\.csv holds"):
        prepare(path, tmp_path / "out")


@pytest.mark.parametrize("options", [{"masks": "mask"}, {"label_column": "mask"}], ids=["masks", "label"])
def test_an_archive_of_classes_and_masks(tmp_path, options):
    """As HAM10000: classes without an option, masks with one."""
    rows = ["image,mask,id,label,label_name,lesion_id"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for k in range(4):
            for name, pixels in (("images", np.full((4, 6, 3), 50 * k)), ("masks", np.eye(4, 6) * 255)):
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "x.png")
                archive.write(tmp_path / "x.png", f"{name}/{k}.png")
            rows.append(f"images/{k}.png,masks/{k}.png,i{k},{k % 2},{'nv' if k % 2 else 'mel'},L{k // 2}")
        archive.writestr("manifest.csv", "\n".join(rows))
    plain = load_datalist(prepare(tmp_path / "set.zip", tmp_path / "plain", split=(1, 0, 0)))
    assert plain.classes == ("mel", "nv")
    data = load_datalist(prepare(tmp_path / "set.zip", tmp_path / "out", split=(1, 0, 0), **options))
    assert data.classes == ("background", "foreground")
    assert [Path(item["label"]) for item in data] == [tmp_path / "out" / "masks" / f"{k}.png" for k in range(4)]
    assert all(Path(item["label"]).is_file() for item in data)
    assert data[0]["meta"]["label_name"] == "mel"
    both = {"masks": "mask", "mask_classes": ["skin", "lesion"], "split": (1, 0, 0)}
    joint = load_datalist(prepare(tmp_path / "set.zip", tmp_path / "both", **both))
    assert (joint.classes, joint.mask_classes) == (("mel", "nv"), ("skin", "lesion"))
    assert [item["label"] for item in joint] == [0, 1, 0, 1]
    assert all(Path(item["mask"]).is_file() for item in joint)
