"""What requests may do to the datastore, and the record of it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from medssl_monai.monai_label.record import Record


@pytest.fixture
def server(serve, studies):
    folder, _ = studies("boostmis", 3)
    return serve(["boostmis"], folder)


@pytest.fixture
def volumes(serve, studies):
    """A server of volumes, the name of one and its mask."""
    folder, items = studies("volumes", 1)
    (name,) = items
    return serve(["volumes"], folder, label_mb=1), name, items[name]["label"]


def recorded(server):
    return [json.loads(line) for line in (server.folder / "labels.jsonl").read_text().splitlines()]


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class TestImages:
    @pytest.mark.parametrize("where", ["here", "relative", "nobody", ""])
    def test_ids_and_never_paths(self, server, refused, tmp_path, monkeypatch, where):
        monkeypatch.chdir(tmp_path)
        shutil.copy(server.folder / "training_0.png", tmp_path / "relative")
        image = str(server.folder / "training_0.png") if where == "here" else where
        for call in (server.infer, server.app.infer):
            arguments = ("boostmis", image) if call == server.infer else ({"model": "boostmis", "image": image},)
            code, detail = refused(call, *arguments)
            assert code == 404 and "no image" in detail

    def test_a_file_of_that_name_beside_the_server_is_not_the_study(self, server, tmp_path, monkeypatch):
        """MONAI Label would take it."""
        wanted = server.infer("boostmis", "training_0")["params"]["prediction"]
        monkeypatch.chdir(tmp_path)
        Image.fromarray(np.full((16, 16), 255, np.uint8)).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / "training_0")
        answer = server.infer("boostmis", "training_0", save_label=True)
        assert answer["params"]["prediction"] == wanted
        assert server.labels() == {"original/training_0.json"}

    @pytest.mark.parametrize("image", [None, 3, {"a": 1}, ["training_0"]])
    def test_images_that_are_no_text(self, server, refused, image):
        assert refused(server.infer, "boostmis", image)[0] in (400, 404)

    @pytest.mark.parametrize(
        ("name", "file", "code"),
        [
            ("new", "sent.png", 200),
            ("1.10", "sent.png", 200),
            ("training_0", "sent.png", 409),
            *((name, "sent.png", 400) for name in ("../new", "a/b", "a\\b", ".hidden", "$x", "=x", "a\nb", "a.png")),
            *(("new", file, 400) for file in ("sitecustomize.py", "sent.png.py", "sent", "sent.json")),
            ("x" * 201, "sent.png", 400),
        ],
    )
    def test_new_ones(self, server, refused, tmp_path, name, file, code):
        shutil.copy(server.folder / "training_1.png", tmp_path / file)
        before = files(server.folder)
        if code == 200:
            assert server.store.add_image(name, str(tmp_path / file), {"user": "me"}) == name
            assert files(server.folder) - before == {f"{name}.png", "datastore_v2.json.before"}
        else:
            assert refused(server.store.add_image, name, str(tmp_path / file), {})[0] == code
            assert files(server.folder) == before

    @pytest.mark.parametrize("method", ["remove_image", "remove_label", "update_image_info", "update_label_info"])
    def test_ones_that_are_not_there(self, server, refused, method):
        more = {"remove_label": ("final",), "update_image_info": ({},), "update_label_info": ("final", {})}
        for name in ("nobody", "../studies/training_0", "", None, 3):
            assert refused(getattr(server.store, method), name, *more.get(method, ()))[0] == 404


class TestInfo:
    @pytest.mark.parametrize(
        "info",
        [
            *([], "text", {"medssl": {}}, {"ts": 0}, {"name": "x"}, {"path": "/etc"}),
            *({"strategy": "x"}, {"strategy": {"x": 1}}, {"strategy": {"x": {"ts": "never"}}}),
        ],
    )
    def test_what_the_server_keeps_is_its_own(self, server, refused, info):
        assert refused(server.store.update_image_info, "training_0", info)[0] == 400
        code, _ = refused(server.store.save_label, "training_0", "label.json", "final", info)
        assert code == 400
        assert server.next() and server.labels() == set()

    def test_its_size(self, server, refused):
        assert refused(server.store.update_image_info, "training_0", {"note": "x" * 2**20})[0] == 413

    def test_notes_of_others_stay(self, server):
        server.store.update_image_info("training_0", {"note": "$import os"})
        assert server.store.get_image_info("training_0")["note"] == "$import os"


class TestTags:
    @pytest.mark.parametrize("tag", ["", "../final", "final/x", "/tmp", "draft", "FINAL", None, 3])
    def test_unknown_ones(self, server, refused, tag):
        before = files(server.folder.parent)
        assert refused(server.save, "training_0", {"label": "left"}, tag=tag)[0] == 400
        (server.folder.parent / "upload.json").unlink()
        assert files(server.folder.parent) == before
        assert refused(server.store.remove_label, "training_0", tag)[0] == 400

    def test_predictions_are_stored_as_such_alone(self, server, refused):
        code, detail = refused(server.infer, "boostmis", "training_0", save_label=True, label_tag="final")
        assert code == 400 and "`label_tag` must be 'original'" in detail

    @pytest.mark.parametrize("suffix", [".py", ".html", ".pt", ""])
    def test_files_of_another_kind(self, server, refused, suffix):
        for tag in ("final", "original"):
            assert refused(server.save, "training_0", b"x", suffix, tag)[0] == 400


class TestSizes:
    def test_of_classes(self, server, refused):
        code, detail = refused(server.save, "training_0", b'{"label": "' + b"x" * 2**20 + b'"}', ".json")
        assert code == 413 and "1,048,576 at most" in detail

    @pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".png", ".bin"])
    def test_of_masks(self, volumes, refused, suffix):
        server, name, _ = volumes
        code, detail = refused(server.save, name, bytes(2**20 + 1), suffix)
        assert code == 413 and "`--conf label_mb 2`" in detail

    def test_of_what_a_header_announces(self, volumes, refused):
        server, name, _ = volumes
        header = nibabel.Nifti1Header()
        header.set_data_shape((30_000, 30_000, 100))
        header.set_data_dtype(np.int16)
        picture = io.BytesIO()
        Image.new("1", (5000, 5000)).save(picture, "PNG")
        nrrd = b"NRRD0004\ntype: double\ndimension: 3\nsizes: 9000 9000 9000\nencoding: gzip\n\n"
        sent = {".nii": header.binaryblock + bytes(8), ".png": picture.getvalue(), ".nrrd": nrrd, ".seg.nrrd": nrrd}
        for suffix, content in sent.items():
            assert len(content) < 2**16
            code, detail = refused(server.save, name, content, suffix)
            assert code == 413 and "`--conf label_mb " in detail
        assert server.labels() == set()

    def test_one_that_fits(self, volumes):
        server, name, mask = volumes
        server.save(name, mask)
        assert server.labels() == {f"final/{name}.nii.gz"}


class TestRecord:
    def test_who_stored_what_and_when(self, server):
        server.save("training_0", {"label": "left"}, user="reader 1", client_id="slicer")
        server.save("training_0", {"label": "right"})
        server.infer("boostmis", "training_1", save_label=True)
        server.store.remove_label("training_0", "final")
        first, second, predicted, removed = recorded(server)
        content = json.dumps({"label": "left"}).encode()
        assert (
            first.items()
            >= {
                **{"event": "stored", "user": "reader 1", "client": "slicer", "image": "training_0", "tag": "final"},
                **{"kind": "class", "sha256": hashlib.sha256(content).hexdigest()},
            }.items()
        )
        assert first["time"].endswith("+00:00") and first["time"] <= second["time"]
        assert (second["user"], second["client"]) == ("unknown", "unknown")
        assert (predicted["tag"], predicted["user"]) == ("original", "model boostmis")
        assert (removed["event"], removed["sha256"]) == ("removed", None)

    def test_what_is_refused_is_not_in_it(self, server, refused):
        refused(server.save, "training_0", {"label": "up"})
        assert recorded(server) == []

    def test_it_is_private_and_only_grows(self, server):
        path = server.folder / "labels.jsonl"
        assert path.stat().st_mode & 0o777 == 0o600
        server.save("training_0", {"label": "left"})
        before = path.read_bytes()
        server.start()
        server.save("training_1", {"label": "left"}, user="a\nb" * 100)
        assert path.read_bytes().startswith(before) and len(recorded(server)) == 2
        assert len(recorded(server)[1]["user"]) == 100

    def test_a_link_is_not_followed(self, tmp_path):
        (tmp_path / "labels.jsonl").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match=r"labels\.jsonl"):
            Record(tmp_path)
        assert not (tmp_path / "elsewhere").exists()


class TestRest:
    """What the app answers to other requests of MONAI Label's endpoints."""

    def test_no_sessions_no_slides_no_weights(self, server, refused):
        assert refused(server.app.sessions)[0] == 406
        assert refused(server.app.infer_wsi, {"model": "boostmis", "image": "training_0"})[0] == 400
        assert refused(server.app.model_file, "boostmis", validate=False)[0] == 403
        assert server.app.model_file("boostmis").endswith("model.pt")

    @pytest.fixture
    def started(self, label, monkeypatch):
        """What MONAI Label would start a process with."""
        found = []

        def run(method, request=None, params=None, force_sync=False, enqueue=False):
            found.append((method, {**(request or {}), **(params or {})}))
            return {}, None

        monkeypatch.setattr(label.app.AsyncTask, "run", staticmethod(run))
        return found

    def test_parameters_of_tasks(self, started, serve, studies, refused, label):
        folder, _ = studies("boostmis", 1)
        serve(["boostmis"], folder)
        serve([], folder)  # as after /reload
        run = label.app.AsyncTask.run
        run("train", request={"model": "boostmis"}, params={"max_epochs": "2", "client_id": None}, enqueue=True)
        run("train", {"model": "boostmis", "max_epochs": 3}, {"boostmis": {"max_epochs": 3}})
        assert started == [
            ("train", {"model": "boostmis", "max_epochs": 2}),
            ("train", {"model": "boostmis", "max_epochs": 3}),
        ]
        for method, params in (
            ("scoring", {"bundle_path": str(folder)}),  # would be where Python looks for modules
            ("scoring", {"boostmis": 1}),
            ("train", {"boostmis": {"max_epochs": 1}, "run_id": "$x"}),
            ("train", {"max_epochs": "$x"}),
            ("batch_infer", {"label_tag": "final"}),
            ("batch_infer", {"images": "/etc"}),
        ):
            request = {"method": "boostmis"} if method == "scoring" else {"model": "boostmis"}
            assert refused(run, method, request=request, params=params)[0] == 400
        assert len(started) == 2
