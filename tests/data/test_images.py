"""Images, decoded once."""

import logging

import pytest
import torch
from monai.data import MetaTensor

from medssl_monai.data import ImageDataset
from medssl_monai.data import images as images_module
from medssl_monai.pool import Labels, batch_loader, pool_loader


class Reader:
    """Makes an image of the item's grey value; counts how often it was asked."""

    def __init__(self, size=(4, 3)):
        self.calls, self.size = 0, size

    def __call__(self, item):
        self.calls += 1
        if item["image"].startswith("broken"):
            raise RuntimeError("wrapped by MONAI") from OSError(f"no decoder for {item['image']}")
        if item["image"] == "nan":
            return {**item, "image": torch.full((1, 4, 3), torch.nan)}
        if item["image"] == "large":
            return {**item, "image": torch.zeros(1, 9, 9)}
        return {**item, "image": torch.full((1, *self.size), float(item["image"]))}


def items(*names):
    return [{"image": name, "id": f"id {name}", "label": 0} for name in names]


def test_images_are_decoded_once_and_not_before_they_are_asked_for():
    reader = Reader()
    dataset = ImageDataset(items("0.0", "0.5", "1.0"), reader)
    assert (len(dataset), reader.calls) == (3, 0)
    for _ in range(3):
        assert dataset.images.shape == (3, 1, 4, 3)
        assert dataset[1]["index"] == 1
        dataset.__getitems__([2, 0])
    assert reader.calls == 3


@pytest.mark.parametrize(
    ("grey", "byte"), [(0.0, 0), (1.0, 255), (0.5, 128), (0.4 / 255, 0), (0.6 / 255, 1), (-0.5, 0), (1.7, 255)]
)
def test_bytes_are_rounded_and_clipped(grey, byte):
    images = ImageDataset(items(str(grey)), Reader()).images
    assert images.dtype == torch.uint8
    assert images.unique().tolist() == [byte]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floats_are_kept(dtype):
    images = ImageDataset(items("0.25"), Reader(), dtype=dtype).images
    assert images.dtype == getattr(torch, dtype)
    assert images.unique().tolist() == [0.25]


def test_batches_are_gathered_by_index_and_hold_no_label():
    dataset = ImageDataset(items("0.0", "0.2", "1.0"), Reader())
    batch = dataset.__getitems__([2, 0, 2])
    assert set(batch) == {"image", "index"} == set(dataset[0])
    assert batch["index"].tolist() == [2, 0, 2]
    assert batch["image"][:, 0, 0, 0].tolist() == [255, 0, 255]


def test_loaders_yield_the_gathered_batches():
    data = items("0.0", "0.2", "1.0")
    dataset = ImageDataset(data, Reader())
    batches = list(batch_loader(dataset, batch_size=2))
    assert [batch["index"].tolist() for batch in batches] == [[0, 1], [2]]
    batch = next(iter(pool_loader(dataset, Labels(data), "labeled", batch_size=5, epoch_length=1)))
    assert set(batch) == {"image", "index"}
    assert batch["image"].shape == (5, 1, 4, 3)


def test_a_meta_tensor_leaves_its_history_behind():
    dataset = ImageDataset(items("x"), lambda item: {"image": MetaTensor(torch.zeros(1, 2, 2), meta={"name": "P"})})
    assert type(dataset.images) is torch.Tensor


def test_the_transform_sees_neither_label_nor_group():
    seen = []

    def look(item):
        seen.append(set(item))
        return {"image": torch.zeros(1, 2, 2)}

    data = [{**item, "group": "p", "labeled": False, "slice": 3, "meta": {}} for item in items("x")]
    assert len(ImageDataset(data, look).images) == 1
    assert seen == [{"image", "id", "slice", "meta"}]


def test_the_transform_cannot_change_the_datalist():
    data = items("0.0")

    def spoil(item):
        item["label"] = 7
        return {"image": torch.zeros(1, 2, 2)}

    assert len(ImageDataset(data, spoil).images) == 1
    assert data == items("0.0")


def test_all_unreadable_files_are_listed_with_their_first_cause():
    dataset = ImageDataset(items("broken a", "0.5", "broken b", "nan"), Reader())
    with pytest.raises(ValueError, match="3 of 4 images cannot be read") as error:
        _ = dataset.images
    text = str(error.value)
    assert "id broken a: OSError: no decoder for id broken a" in text
    assert "id broken b: " in text
    assert "id nan: ValueError: the image holds NaN or infinite values" in text
    assert "Mend these files, take their items out of the datalist, or set `on_bad_file: skip`" in text


def test_unreadable_files_can_be_skipped_and_leave_a_black_image_in_their_place(caplog):
    dataset = ImageDataset(items("broken", "1.0"), Reader(), on_bad_file="skip")
    with caplog.at_level(logging.WARNING):
        images = dataset.images
    assert images[:, 0, 0, 0].tolist() == [0, 255]
    assert dataset.unreadable == {0: "OSError: no decoder for id broken"}
    assert "1 of 2 images cannot be read:\n  id broken: OSError" in caplog.text


def test_what_cannot_be_read_is_known_before_an_image_was_asked_for():
    assert set(ImageDataset(items("0.5", "broken"), Reader(), on_bad_file="skip").unreadable) == {1}


def test_what_else_to_do_with_a_bad_file_is_refused():
    with pytest.raises(ValueError, match="`on_bad_file` is stop or skip, got 'ignore'"):
        ImageDataset([], Reader(), on_bad_file="ignore")


def test_nothing_readable_is_an_error_even_when_skipping():
    with pytest.raises(ValueError, match="2 of 2 images cannot be read"):
        _ = ImageDataset(items("broken a", "broken b"), Reader(), on_bad_file="skip").images


def test_images_of_different_size_are_named():
    match = r"images differ in size: id 0\.5 \(1, 4, 3\), id large \(1, 9, 9\); resize them in the preprocessing"
    with pytest.raises(ValueError, match=match):
        _ = ImageDataset(items("0.5", "large"), Reader()).images


def test_an_empty_datalist():
    assert len(ImageDataset([], Reader()).images) == 0


def test_volumes():
    assert ImageDataset(items("0.5"), Reader(size=(4, 3, 2))).images.shape == (1, 1, 4, 3, 2)


def test_processes_decode_what_one_does_in_the_same_order_and_leave_the_random_state_alone(monkeypatch):
    data = [{"image": "broken" if i == 5 else str(i / 64), "id": f"id{i}"} for i in range(64)]
    alone = ImageDataset(data, Reader(), on_bad_file="skip")
    expected, state = alone.images, torch.get_rng_state()
    monkeypatch.setattr(images_module, "WORTH_WORKERS", 2)
    reader = Reader()
    several = ImageDataset(data, reader, on_bad_file="skip")
    assert torch.equal(several.images, expected)
    assert reader.calls == 0  # somebody else did it
    assert several.unreadable == alone.unreadable == {5: "OSError: no decoder for id5"}
    assert torch.equal(torch.get_rng_state(), state)
