"""A DICOM archive as the study folder: its series are the images, its SEGs the masks."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from medssl_monai.monai_label.studies import read_studies


@pytest.fixture
def volumes(archive, datalists):
    """Four series of two patients; the masks by UID."""
    items, found = json.loads(datalists["volumes"].read_text())["training"], {}
    for number, item in enumerate(items[:4]):
        image, mask = (nibabel.load(datalists["volumes"].parent / item[key]) for key in ("image", "label"))
        found[archive.add(image, PatientID=f"patient {number % 2}")] = mask
    return found


@pytest.fixture
def shells(untrained):
    """A bundle of three classes: background, ball, shell."""
    folder = untrained("volumes")
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    classes = {"0": "background", "1": "ball", "2": "shell"}
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = classes
    path.write_text(json.dumps(metadata))
    return folder


@pytest.fixture
def serve_archive(serve, archive):
    def _serve(bundles, **conf):
        server = serve(bundles, "http://archive/dicom-web", **conf)
        server.folder = server.store.folder
        return server

    return _serve


def segs(archive):
    """Image and names of the segments of every SEG, in the order in which they came."""
    return [
        (str(ds.ReferencedSeriesSequence[0].SeriesInstanceUID), [str(one.SegmentLabel) for one in ds.SegmentSequence])
        for ds in archive.series.values()
        if ds.Modality == "SEG"
    ]


def stored(server, image):
    """Voxels of the mask that training reads."""
    server.app.writes.read()
    return np.asarray(nibabel.load(server.store.get_label_uri(image, "final")).dataobj)


def voxels(mask):
    return np.asarray(mask.dataobj)


def times(mask, factor):
    return nibabel.Nifti1Image((factor * voxels(mask)).astype(np.uint8), mask.affine)


def take_over(server):
    server.next("random")


class TestImages:
    def test_scores_and_the_next_image(self, serve_archive, volumes):
        server = serve_archive(["volumes"], batch=2, strategies="entropy", validation=0)
        assert server.score("volumes") == {"entropy": 2}
        server.app.writes.read()
        assert not server.app._scoring_methods["volumes"].due(server.store)
        first, second = (server.next("entropy") for _ in range(2))
        assert {first["id"], second["id"]} < volumes.keys()
        assert (first["rank"], second["rank"]) == (1, 2) and first["path"].endswith(f"{first['id']}.nii.gz")
        server.save(first["id"], volumes[first["id"]].to_bytes(), ".nii")
        assert server.app.info()["datastore"].items() >= {"total": 4, "completed": 1}.items()

    def test_what_training_reads(self, serve_archive, volumes):
        server, image = serve_archive(["volumes"]), min(volumes)
        server.save(image, volumes[image].to_bytes(), ".nii")
        server.app.writes.read()
        found = read_studies(server.store, server.app.served["volumes"], 0, server.app.studies)
        items = {item["id"]: item for item in found.train}
        assert items.keys() == volumes.keys() and not found.refused and not found.synthetic
        assert [name for name, item in items.items() if item["labeled"]] == [image]
        np.testing.assert_array_equal(nibabel.load(items[image]["label"]).dataobj, volumes[image].dataobj)
        groups = [items[name]["group"] for name in volumes]
        assert groups[:2] == groups[2:] and len(set(groups)) == 2  # by patient

    def test_a_series_that_is_not_there(self, serve_archive, volumes, refused):
        server = serve_archive(["volumes"])
        for call, arguments in ((server.infer, ("volumes", "1.2.99")), (server.save, ("1.2.99", b"", ".nii"))):
            code, detail = refused(call, *arguments)
            assert code == 404 and "'1.2.99'" in detail

    @pytest.mark.parametrize("name", ["../secret", "secret", "1..2", "/tmp/secret", "1.2\n", ""])
    def test_a_path_for_a_series(self, serve_archive, volumes, refused, tmp_path, name):
        """MONAI Label makes a path of it before it asks the archive."""
        server = serve_archive(["volumes"])
        for folder in (server.folder, server.folder.parent):
            (folder / "secret.nii.gz").write_bytes(b"not of the archive")
        for call, arguments in ((server.infer, ("volumes", name)), (server.save, (name, b"", ".nii"))):
            assert refused(call, *arguments)[0] in (400, 404)

    def test_processes_keep_what_others_downloaded(self, serve_archive, volumes):
        server, (image, other, *_) = serve_archive(["volumes"]), volumes
        another = server.start().datastore()
        server.store.get_image_uri(image)
        another.get_image_uri(other)
        store = server.start().datastore()
        assert [store.get_image_info(name)["PatientID"] for name in (image, other)] == ["patient 0", "patient 1"]

    def test_a_prediction_is_kept_in_the_cache(self, serve_archive, volumes, archive):
        server, image = serve_archive(["volumes"]), min(volumes)
        server.infer("volumes", image, save_label=True)
        assert {name.split("/")[0] for name in server.labels()} == {"original"} and segs(archive) == []

    def test_without_the_program_that_makes_segs(self, serve_archive, archive, monkeypatch):
        monkeypatch.setenv("PATH", "")
        with pytest.raises(FileNotFoundError, match="`itkimage2segimage`, which is not in PATH: `pip install dcmqi`"):
            serve_archive(["volumes"])


class TestLabels:
    def test_they_are_found_by_the_id_of_the_image(self, serve_archive, volumes):
        server, image = serve_archive(["volumes"]), min(volumes)
        assert server.store.get_label_uri(image, "final") == "" and server.store.get_labeled_images() == []
        server.save(image, volumes[image].to_bytes(), ".nii")
        for store in (server.store, server.start().datastore()):
            assert store.get_label_uri(image, "final").endswith(f"labels/final/{image}.nii")
            assert store.get_labeled_images() == [image]

    @pytest.mark.parametrize(("value", "name"), [(1, "ball"), (2, "shell"), (3, "not labeled")])
    def test_a_class_alone_has_its_name(self, serve_archive, volumes, shells, archive, value, name):
        server, image = serve_archive([shells]), min(volumes)
        server.save(image, times(volumes[image], value).to_bytes(), ".nii")
        assert segs(archive) == [(image, [name])]
        assert set(np.unique(stored(server, image))) == {0, value}

    def test_what_the_viewer_says_of_a_segment_is_kept(self, serve_archive, volumes, shells):
        server, image = serve_archive([shells]), min(volumes)
        told = [{"name": "Ball", "idx": 1}, {"name": "Shell", "idx": 2, "color": [0, 255, 0]}]
        server.save(image, times(volumes[image], 2).to_bytes(), ".nii", label_info=told)
        info = server.store.get_label_info(image, "final")["label_info"]
        assert info == [{"name": "shell", "idx": 2, "color": [0, 255, 0]}]

    def test_masks_of_0_and_255(self, serve_archive, volumes, archive):
        server, image = serve_archive(["volumes"]), min(volumes)
        server.save(image, times(volumes[image], 255).to_bytes(), ".nii")
        assert segs(archive) == [(image, ["ball"])]

    def test_numbers_that_no_seg_can_hold(self, serve_archive, volumes, archive, refused):
        server, image = serve_archive(["volumes"]), min(volumes)
        mask = nibabel.Nifti1Image(-voxels(volumes[image]).astype(np.int16), volumes[image].affine)
        code, detail = refused(server.save, image, mask.to_bytes(), ".nii")
        assert code == 400 and "-1" in detail and segs(archive) == []

    def test_a_png_becomes_no_seg(self, serve_archive, archive, refused, tmp_path):
        image = archive.add(nibabel.Nifti1Image(np.eye(16, dtype=np.uint8)[..., None], np.eye(4)))
        Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "mask.png")
        code, detail = refused(serve_archive(["volumes"]).save, image, tmp_path / "mask.png")
        assert code == 400 and "a mask for an archive is .nii.gz" in detail

    def test_an_empty_mask_and_classes_stay_in_the_cache(self, serve_archive, volumes, shells, archive):
        server, (image, other, *_) = serve_archive([shells, "boostmis"]), volumes
        server.save(image, times(volumes[image], 0).to_bytes(), ".nii", label_info=[{"name": "ball", "idx": 1}])
        server.save(other, {"label": "left"})
        server.store._download_labeled_data()  # what MONAI Label does with labels that are not in the archive
        assert server.labels() == {f"final/{image}.nii", f"final/{other}.json"} and segs(archive) == []

    def test_voxels_as_ohif_sends_them(self, serve_archive, volumes, shells, archive):
        server, image = serve_archive([shells]), min(volumes)
        drawn = 2 - voxels(volumes[image])  # the ball is 1, what is around it 2
        told = [{"name": "shell", "idx": 1}, {"name": "ball", "idx": 2}]
        server.save(image, drawn.astype(np.uint8).tobytes(order="F"), ".bin", label_info=told)
        np.testing.assert_array_equal(stored(server, image), 3 - drawn)
        assert nibabel.load(server.store.get_label_uri(image, "final")).affine.tolist() == (
            volumes[image].affine.tolist()
        )
        assert server.labels() == {f"final/{image}.nii.gz"}

    def test_voxels_that_do_not_fit(self, serve_archive, volumes, archive, refused):
        server, image = serve_archive(["volumes"]), min(volumes)
        drawn = voxels(volumes[image]).astype(np.uint8).tobytes(order="F")
        for content, params, told in (
            (drawn[:-1], {}, "the mask has 1343 voxels, its image 1344"),
            (drawn, {"label_info": [{"name": "spleen", "idx": 1}]}, "'spleen'"),
        ):
            code, detail = refused(server.save, image, content, ".bin", **params)
            assert code == 400 and told in detail
        assert server.labels() == set() and segs(archive) == []


class TestSegmentations:
    """Of viewers, which store them in the archive themselves."""

    def test_they_are_taken_over_once(self, serve_archive, volumes, shells, archive):
        server, image = serve_archive([shells]), min(volumes)
        archive.add_seg(image, volumes[image], ["Shell"])
        take_over(server)
        np.testing.assert_array_equal(stored(server, image), 2 * voxels(volumes[image]))
        assert server.app.info()["datastore"]["completed"] == 1
        server.save(image, volumes[image].to_bytes(), ".nii")  # corrected
        for again in (server, serve_archive([])):
            take_over(again)
            np.testing.assert_array_equal(stored(again, image), volumes[image].dataobj)
        assert len(segs(archive)) == 2  # what was taken over is not stored anew

    def test_at_the_start_as_well(self, serve_archive, volumes, archive):
        archive.add_seg(image := min(volumes), volumes[image], ["ball"])
        np.testing.assert_array_equal(stored(serve_archive(["volumes"]), image), volumes[image].dataobj)

    def test_a_foreign_one_does_not_stop_the_others(self, serve_archive, volumes, archive, caplog):
        server, (image, other, *_) = serve_archive(["volumes"]), volumes
        elsewhere = nibabel.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4))
        archive.add_seg(image, volumes[image], ["spleen"], ContentDate="20260101")
        archive.add_seg(image, elsewhere, ["ball"], ContentDate="20260102")
        archive.add_seg("1.2.99", volumes[image], ["ball"], ContentDate="20260103")  # its image is no MR
        archive.add_seg(image, volumes[image], ["ball"], ReferencedSeriesSequence=[])
        archive.add_seg(other, volumes[other], ["ball"], ContentDate="20260104")
        for _ in range(2):
            take_over(server)
        assert server.labels() == {f"final/{other}.nii.gz"}
        warnings = [record.message for record in caplog.records if "is no label of this app" in record.message]
        assert len(warnings) == 2 and "'spleen'" in warnings[0] and all(image in text for text in warnings)

    def test_the_last_of_a_series_counts(self, serve_archive, volumes, shells, archive):
        server, image = serve_archive([shells]), min(volumes)
        archive.add_seg(image, volumes[image], ["shell"], ContentDate="20260102", ContentTime="090000")
        archive.add_seg(image, volumes[image], ["ball"], ContentDate="20260102", ContentTime="080000")
        take_over(server)
        assert stored(server, image).max() == 2

    def test_its_image_may_be_new(self, serve_archive, volumes, archive):
        """MONAI Label lists the images anew every two hours."""
        server, mask = serve_archive(["volumes"]), volumes[min(volumes)]
        image = archive.add(times(mask, 100))
        archive.add_seg(image, mask, ["ball"])
        take_over(server)
        assert server.store.get_label_uri(image, "final")

    def test_an_image_that_cannot_be_loaded_is_tried_again(self, serve_archive, volumes, archive, caplog):
        server, (image, other, *_) = serve_archive(["volumes"]), volumes
        for name in (image, other):
            archive.add_seg(name, volumes[name], ["ball"])
        content, archive.series[image].EncapsulatedDocument = archive.series[image].EncapsulatedDocument, b""
        server.app.label_store.take_over()
        assert server.labels() == {f"final/{other}.nii.gz"}
        assert [record.levelname for record in caplog.records if image in record.message] == ["WARNING"]
        archive.series[image].EncapsulatedDocument = content
        server.app.label_store.take_over()
        assert server.labels() == {f"final/{other}.nii.gz", f"final/{image}.nii.gz"}

    def test_those_that_the_server_stored_are_not_taken_over(self, serve_archive, volumes, archive, monkeypatch):
        server, image = serve_archive(["volumes"]), min(volumes)
        server.save(image, volumes[image].to_bytes(), ".nii")
        for again in (server, serve_archive([])):
            take_over(again)
        assert server.labels() == {f"final/{image}.nii"}  # and not the .nii.gz of the one in the archive

    def test_they_replace_a_lost_cache(self, serve_archive, volumes, shells, archive, tmp_path):
        server, image = serve_archive([shells]), min(volumes)
        server.save(image, times(volumes[image], 2).to_bytes(), ".nii")
        server.folder.rename(tmp_path / "lost")
        np.testing.assert_array_equal(stored(serve_archive([]), image), 2 * voxels(volumes[image]))

    def test_classes_stay_beside_them(self, serve_archive, volumes, shells, archive):
        server, image = serve_archive([shells, "boostmis"]), min(volumes)
        server.save(image, {"label": "left"})
        archive.add_seg(image, volumes[image], ["ball"])
        take_over(server)
        assert server.labels() == {f"final/{image}.json", f"mask/{image}.nii.gz"}


def test_ohif_asks_for_random_with_a_strategy(serve_archive, volumes):
    """In the body of the request, which goes before the strategy in its address."""
    server = serve_archive(["volumes"], batch=2, strategies="entropy", validation=0)
    server.score("volumes")
    assert server.app.info()["strategies"]["random"]["config"] == {"strategy": ["random", "entropy"]}
    answers = [server.app.next_sample({"strategy": name}) for name in ("random", "entropy")]
    assert [answer["reason"] == "random" for answer in answers] == [True, False]
