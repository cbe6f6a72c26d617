"""Masks as viewers hand them over."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from medssl_monai.data import LoadMaskd
from medssl_monai.monai_label.masks import settle_mask
from medssl_monai.phantoms.files import write_dicom
from medssl_monai.readers import ClinicalReader
from medssl_monai.readers.mask_files import write_mask

ORGANS = ["background", "liver", "Left kidney"]

AXIAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]


@pytest.fixture
def volume(tmp_path):
    """An image of 6 x 5 x 4 voxels in a NIfTI file whose axes run to the right, back and up."""
    affine = np.diag([0.5, -0.75, 2.0, 1.0])
    affine[:3, 3] = -12, 30, 5
    image = nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(6, 5, 4), affine)
    nibabel.save(image, tmp_path / "image.nii.gz")
    return tmp_path / "image.nii.gz"


@pytest.fixture
def mask():
    """Both organs, on the grid of `volume`."""
    mask = np.zeros((6, 5, 4), np.uint8)
    mask[1:3, 1:4, 1:3], mask[3:5, 2, 2] = 1, 2
    return mask


@pytest.fixture
def settle(tmp_path):
    """The mask as training reads it, in the reader's axes, and whether its file had to be written anew."""

    def _settle(file, image, names=(), classes=ORGANS):
        folder = tmp_path / "settled"
        folder.mkdir(exist_ok=True)
        path = settle_mask(file, image, classes, names, folder)
        return load(path, image, len(classes)), path != file

    return _settle


def load(path, image, num_classes=3):
    item = {"image": str(image), "label": str(path), "id": "one"}
    return LoadMaskd("label", ClinicalReader(), num_classes)(item)["label"][0].numpy()


def save(path, mask, like, cut=(), **segments):
    """As a viewer does: on the grid of an image, or on a part of it (slices along x, y, z); `segments` by name."""
    label = SimpleITK.GetImageFromArray(mask.T)
    label.CopyInformation(SimpleITK.ReadImage(str(like)))
    label = label[tuple(cut)] if cut else label
    for n, (name, number) in enumerate(segments.items()):
        label.SetMetaData(f"Segment{n}_Name", name.replace("_", " "))
        label.SetMetaData(f"Segment{n}_LabelValue", str(number))
        label.SetMetaData(f"Segment{n}_Layer", "0")
    SimpleITK.WriteImage(label, str(path))
    return path


def save_layers(path, layers, like, segments):
    """A ``.seg.nrrd`` file with layers ``(L, x, y, z)`` and the fields of `segments`, in the words of 3D Slicer 5."""
    image = SimpleITK.ReadImage(str(like))
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    vectors = [f"({','.join(map(str, axis))})" for axis in axes.T]
    head = [
        *("NRRD0005", "# Complete NRRD file format specification at: http://teem.sourceforge.net/nrrd/format.html"),
        *("type: unsigned char", "dimension: 4", "space: left-posterior-superior"),
        f"sizes: {' '.join(map(str, layers.shape))}",
        f"space directions: none {' '.join(vectors)}",
        *("kinds: list domain domain domain", "encoding: raw"),
        f"space origin: ({','.join(map(str, image.GetOrigin()))})",
        *(f"Segment{n}_{key}:={value}" for n, fields in enumerate(segments) for key, value in fields.items()),
        "Segmentation_MasterRepresentation:=Binary labelmap",
    ]
    path.write_bytes("\n".join([*head, "", ""]).encode() + layers.astype(np.uint8).tobytes(order="F"))
    return path


class TestNifti:
    def test_a_mask_of_indices_stays_as_it_is(self, tmp_path, volume, mask, settle):
        file = save(tmp_path / "m.nii.gz", mask, volume)
        read, new = settle(file, volume)
        np.testing.assert_array_equal(read, mask[::-1])  # of images, too, x is to the left
        assert not new

    @pytest.mark.parametrize(
        "names",
        [
            [{"name": "liver", "idx": 1}, {"name": "Left kidney", "idx": 2}],
            [{"name": "LIVER", "idx": 1}, {"name": "left kidney", "idx": 2}],  # the case does not matter
            [{"name": "liver"}, {"name": "Left kidney"}],  # nor a number that follows from the order
            [{"name": "liver", "idx": 1}, {"idx": 7}],  # a segment without a name says nothing
        ],
    )
    def test_names_in_the_order_of_the_classes_change_nothing(self, tmp_path, volume, mask, settle, names):
        _, new = settle(save(tmp_path / "m.nii.gz", mask, volume), volume, names)
        assert not new

    @pytest.mark.parametrize(
        ("numbers", "names"),
        [
            ((2, 1), [{"name": "left kidney", "idx": 1}, {"name": "Liver", "idx": 2}]),
            ((2, 1), [{"name": "left kidney"}, {"name": "Liver"}]),
            (
                (9, 4),
                [{"name": "liver", "idx": 9}, {"name": "Left kidney", "idx": 4}, {"name": "background", "idx": 0}],
            ),
        ],
    )
    def test_segments_in_another_order_are_renumbered_by_name(self, tmp_path, volume, mask, settle, numbers, names):
        wanted = load(save(tmp_path / "wanted.nii.gz", mask, volume), volume)
        file = save(tmp_path / "m.nii.gz", np.array([0, *numbers], np.uint8)[mask], volume)
        read, new = settle(file, volume, names)
        assert new
        np.testing.assert_array_equal(read, wanted)

    def test_a_segment_of_what_nobody_labeled(self, tmp_path, volume, mask, settle):
        file = save(tmp_path / "m.nii.gz", np.array([0, 1, 7], np.uint8)[mask], volume)
        read, _ = settle(file, volume, [{"name": "liver", "idx": 1}, {"name": "Not labeled", "idx": 7}])
        wanted = load(save(tmp_path / "wanted.nii.gz", mask, volume), volume)
        np.testing.assert_array_equal(read, np.array([0, 1, 255])[wanted])

    def test_a_segment_that_is_no_class(self, tmp_path, volume, mask, settle):
        file = save(tmp_path / "m.nii.gz", mask, volume)
        with pytest.raises(
            ValueError, match=r"the segment 'Segment_1' is none of the classes \['background', 'liver',"
        ):
            settle(file, volume, [{"name": "liver", "idx": 2}, {"name": "Segment_1", "idx": 1}])

    @pytest.mark.parametrize("odd", [4, 1.5])
    def test_a_number_that_nobody_named(self, tmp_path, volume, mask, settle, odd):
        odd_mask = np.where(mask == 2, odd, mask).astype(np.float32)
        file = save(tmp_path / "m.nii.gz", odd_mask, volume)
        with pytest.raises(ValueError, match=rf"the mask holds {odd}, and the viewer named the numbers \[1, 2\]"):
            settle(file, volume, [{"name": "left kidney", "idx": 1}, {"name": "Liver", "idx": 2}])
        with pytest.raises(ValueError, match=rf"this image: the mask holds .*{odd}"):
            settle(file, volume)

    @pytest.mark.parametrize("names", [["liver"], [{"name": "liver", "idx": "1"}], [{"name": "liver", "idx": None}]])
    def test_names_in_another_form(self, tmp_path, volume, mask, settle, names):
        with pytest.raises(ValueError, match=r"`label_info` must be a list of segments, each such as \{\"name\""):
            settle(save(tmp_path / "m.nii.gz", mask, volume), volume, names)

    def test_another_size(self, tmp_path, volume, settle):
        nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 9), np.uint8), np.eye(4)), tmp_path / "m.nii.gz")
        with pytest.raises(
            ValueError, match=r"the mask has 6 columns x 5 rows x 9 slices, its image 6 columns .*export"
        ):
            settle(tmp_path / "m.nii.gz", volume)

    def test_another_place(self, tmp_path, volume, mask, settle):
        affine = nibabel.load(volume).affine.copy()
        affine[2, 3] += 2
        nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / "m.nii.gz")
        with pytest.raises(ValueError, match="the mask lies up to 2 mm off its image: another position or orientation"):
            settle(tmp_path / "m.nii.gz", volume)

    @pytest.mark.parametrize("names", [[], [{"name": "liver", "idx": 2}]])
    @pytest.mark.parametrize("name", ["m.nii.gz", "m.nrrd", "m.png"])
    def test_what_cannot_be_read_is_named_without_its_path(self, tmp_path, volume, settle, name, names):
        (tmp_path / name).write_bytes(b"no mask")
        with pytest.raises(ValueError, match=r"cannot be read as|only NIfTI and NRRD") as found:
            settle(tmp_path / name, volume, names)
        assert str(tmp_path) not in str(found.value)

    @pytest.mark.parametrize("name", ["m.mha", "m"])
    def test_another_format(self, tmp_path, volume, settle, name):
        (tmp_path / name).write_bytes(b"no mask")
        with pytest.raises(ValueError, match="its mask is neither PNG, JPEG, NIfTI nor DICOM; convert it"):
            settle(tmp_path / name, volume)


class TestPng:
    @pytest.fixture
    def picture(self, tmp_path):
        Image.fromarray(np.arange(56, dtype=np.uint8).reshape(7, 8)).save(tmp_path / "image.png")
        return tmp_path / "image.png"

    @pytest.fixture
    def file(self, tmp_path):
        rows = np.zeros((7, 8), np.uint8)
        rows[2:4, 1:6] = 255
        Image.fromarray(rows).save(tmp_path / "m.png")
        return tmp_path / "m.png"

    def test_two_classes_as_0_and_255(self, picture, file, settle):
        read, new = settle(file, picture, [{"name": "Lesion", "idx": 1}], ["background", "lesion"])
        assert not new
        assert read.shape == (8, 7) and read[1:6, 2:4].all() and read.sum() == 10

    def test_it_is_not_renumbered(self, picture, file, settle):
        with pytest.raises(
            ValueError, match=r"the segments are numbered \{1: 2\}, and only NIfTI and NRRD can be renu"
        ):
            settle(file, picture, [{"name": "left kidney", "idx": 1}])

    @pytest.mark.parametrize("deep", [True, False])
    def test_a_mask_in_nrrd(self, picture, file, settle, tmp_path, deep):
        label = SimpleITK.GetImageFromArray(np.asarray(Image.open(file))[None] // 255)
        SimpleITK.WriteImage(label if deep else label[:, :, 0], str(tmp_path / "m.nrrd"))
        read, _ = settle(tmp_path / "m.nrrd", picture)
        assert read.shape == (8, 7) and read[1:6, 2:4].all() and read.sum() == 10


class TestNrrd:
    def test_numbers_are_indices(self, tmp_path, volume, mask, settle):
        read, new = settle(save(tmp_path / "m.nrrd", mask, volume), volume)
        assert new
        np.testing.assert_array_equal(read, load(save(tmp_path / "w.nii.gz", mask, volume), volume))

    def test_names_beside_the_file(self, tmp_path, volume, mask, settle):
        file = save(tmp_path / "m.nrrd", np.array([0, 2, 1], np.uint8)[mask], volume)
        read, _ = settle(file, volume, [{"name": "left kidney", "idx": 1}, {"name": "liver", "idx": 2}])
        np.testing.assert_array_equal(read, load(save(tmp_path / "w.nii.gz", mask, volume), volume))

    def test_a_map_of_probabilities(self, tmp_path, volume, mask, settle):
        with pytest.raises(ValueError, match=r"the mask holds 0\.4, and a class is a whole number"):
            settle(save(tmp_path / "m.nrrd", 0.4 * (mask > 0).astype(np.float32), volume), volume)

    def test_colours(self, tmp_path, volume, mask, settle):
        label = SimpleITK.GetImageFromArray(np.stack(3 * [mask.T], axis=-1), isVector=True)
        label.CopyInformation(SimpleITK.ReadImage(str(volume)))
        SimpleITK.WriteImage(label, str(tmp_path / "m.nrrd"))
        with pytest.raises(ValueError, match="the file has 3 components and names no segments; save a labelmap"):
            settle(tmp_path / "m.nrrd", volume)

    def test_the_names_in_a_segmentation_of_one_layer_count(self, tmp_path, volume, mask, settle):
        file = save(tmp_path / "m.seg.nrrd", np.array([0, 5, 3], np.uint8)[mask], volume, LEFT_kidney=3, liver=5)
        read, _ = settle(file, volume, [{"name": "whatever the scene has", "idx": 1}])
        np.testing.assert_array_equal(read, load(save(tmp_path / "w.nii.gz", mask, volume), volume))

    LAYERS = (
        {"Name": "Left kidney", "LabelValue": "1", "Layer": "1", "ID": "Segment_2", "Extent": "0 5 0 4 0 3"},
        {"Name": "liver", "LabelValue": "1", "Layer": "0", "ID": "Segment_1", "Extent": "0 5 0 4 0 3"},
    )

    @pytest.mark.parametrize("old", [False, True])
    def test_several_layers_become_one(self, tmp_path, volume, mask, settle, old):
        segments = self.LAYERS
        if old:  # Slicer 4.10: the order is that of the layers
            segments = [{"Name": fields["Name"]} for fields in segments[::-1]]
        file = save_layers(tmp_path / "m.seg.nrrd", np.stack([mask == 1, mask == 2]), volume, segments)
        read, _ = settle(file, volume)
        np.testing.assert_array_equal(read, load(save(tmp_path / "w.nii.gz", mask, volume), volume))

    def test_segments_that_overlap(self, tmp_path, volume, mask, settle):
        layers = np.stack([mask == 1, (mask == 2) | (mask == 1)])
        file = save_layers(tmp_path / "m.seg.nrrd", layers, volume, self.LAYERS)
        with pytest.raises(
            ValueError, match="segments overlap in 12 voxels, and a voxel can be of one class; separate"
        ):
            settle(file, volume)

    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({"Layer": "9"}, "the layer 9, and has 2"),
            ({"Layer": "-1"}, "the layer -1"),
            ({"LabelValue": "$x"}, "numbers"),
        ],
    )
    def test_segments_that_are_not_in_the_file(self, tmp_path, volume, mask, settle, fields, told):
        segments = [{**self.LAYERS[0], **fields}, self.LAYERS[1]]
        file = save_layers(tmp_path / "m.seg.nrrd", np.stack([mask == 1, mask == 2]), volume, segments)
        with pytest.raises(ValueError, match=told):
            settle(file, volume)

    def test_a_voxel_of_a_layer_that_no_segment_has(self, tmp_path, volume, mask, settle):
        layers = np.stack([mask == 1, 3 * (mask == 2)])
        with pytest.raises(ValueError, match="2 voxels are of no segment"):
            settle(save_layers(tmp_path / "m.seg.nrrd", layers, volume, self.LAYERS), volume)


class TestCropped:
    """3D Slicer may save a segmentation as far as its segments go: "crop to minimum extent"."""

    @pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "seg.nrrd"])
    @pytest.mark.parametrize(
        "cut", [np.s_[1:5, 1:4, 1:3], np.s_[1:6, 0:5, 0:4], np.s_[:, :, 2:3], np.s_[2:3, 0:4, :], np.s_[2:3, 2:3, 2:3]]
    )
    def test_it_is_placed_on_the_grid_of_the_image(self, tmp_path, volume, mask, settle, cut, suffix):
        whole = np.zeros_like(mask)
        whole[cut] = mask[cut]
        file = save(tmp_path / f"m.{suffix}", whole, volume, cut, liver=1, Left_kidney=2)
        read, new = settle(file, volume)
        assert new
        np.testing.assert_array_equal(read, load(save(tmp_path / "w.nii.gz", whole, volume), volume))

    def test_in_other_axes_than_the_image(self, tmp_path, volume, mask, settle):
        label = SimpleITK.GetImageFromArray(mask.T)
        label.CopyInformation(SimpleITK.ReadImage(str(volume)))
        label = SimpleITK.PermuteAxes(label[1:5, 1:4, 1:3], [2, 0, 1])[:, ::-1]
        SimpleITK.WriteImage(label, str(tmp_path / "m.nrrd"))
        read, _ = settle(tmp_path / "m.nrrd", volume)
        np.testing.assert_array_equal(read, load(save(tmp_path / "w.nii.gz", mask, volume), volume))

    def test_what_reaches_beyond_the_image_or_between_its_voxels_is_refused(self, tmp_path, volume, settle):
        affine = nibabel.load(volume).affine
        beyond, between = affine.copy(), affine.copy()
        beyond[0, 3] -= 0.5
        between[:3, 3] += affine[:3, :3] @ [1, 1, 0.3]
        for place, expected in ((beyond, "the mask has 3 columns"), (between, "the mask lies up to 0.6 mm off its")):
            nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 2), np.uint8), place), tmp_path / "m.nii.gz")
            with pytest.raises(ValueError, match=expected):
                settle(tmp_path / "m.nii.gz", volume)

    def test_a_finer_grid_is_refused_before_it_takes_memory(self, tmp_path, volume, settle):
        affine = nibabel.load(volume).affine @ np.diag([1e-4, 1e-4, 1e-4, 1])
        nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 2), np.uint8), affine), tmp_path / "m.nii.gz")
        with pytest.raises(ValueError, match="the mask has 3 columns x 3 rows x 2 slices, its image 6 columns"):
            settle(tmp_path / "m.nii.gz", volume)


class TestDicom:
    @pytest.fixture(params=[AXIAL, SAGITTAL], ids=["axial", "sagittal"])
    def slice_file(self, tmp_path, request):
        place = {"ImagePositionPatient": [-40.0, 12.5, 7.0], "ImageOrientationPatient": request.param}
        header = {"PixelSpacing": [0.5, 0.25], "InstanceNumber": 1, "SeriesDescription": "", **place}
        path = tmp_path / "slice.dcm"
        write_dicom(path, np.arange(30, dtype=np.uint16).reshape(5, 6), "MR", "MONOCHROME2", header, "P", "s")
        return path

    @pytest.fixture
    def drawn(self):
        """On columns and rows of the slice."""
        drawn = np.zeros((6, 5), np.uint8)
        drawn[1:4, 2], drawn[4, 3:] = 1, 2
        return drawn

    @pytest.mark.parametrize("suffix", ["nii.gz", "nrrd"])
    def test_a_slice(self, tmp_path, slice_file, drawn, settle, suffix):
        file = save(tmp_path / f"m.{suffix}", drawn[..., None], slice_file)
        np.testing.assert_array_equal(settle(file, slice_file)[0], drawn)

    @pytest.mark.parametrize("suffix", ["nii.gz", "nrrd"])
    def test_a_part_of_a_slice(self, tmp_path, slice_file, drawn, settle, suffix):
        file = save(tmp_path / f"m.{suffix}", drawn[..., None], slice_file, (slice(1, 5), slice(2, 5), slice(0, 1)))
        read, new = settle(file, slice_file)
        assert new
        np.testing.assert_array_equal(read, drawn)

    def test_segments_in_another_order(self, tmp_path, slice_file, drawn, settle):
        file = save(tmp_path / "m.nii.gz", np.array([0, 2, 1], np.uint8)[drawn][..., None], slice_file)
        names = [{"name": "left kidney", "idx": 1}, {"name": "liver", "idx": 2}]
        np.testing.assert_array_equal(settle(file, slice_file, names)[0], drawn)

    def test_what_the_network_drew_comes_back(self, tmp_path, slice_file, drawn, settle):
        read, new = settle(write_mask(tmp_path / "m", drawn, slice_file, 3).path, slice_file)
        assert not new
        np.testing.assert_array_equal(read, drawn)
