"""Predicting many images, and measuring them."""

from __future__ import annotations

import pytest
import torch
from monai.networks import eval_mode
from torch import nn

from medssl_monai.data import Datalist, ImageDataset
from medssl_monai.engines import evaluate, predict, predict_pool, weights_sha256
from medssl_monai.engines.predict import Windows, as_labeled, at_once, network_for
from medssl_monai.kinds import Classes, Findings, Masks
from medssl_monai.networks import small_resnet, small_unet
from medssl_monai.pool import LabelPool, Labels

ITEMS = Datalist(
    [{"image": str(i), "id": f"i{i}", "group": f"g{i // 2}", "label": i % 2} for i in range(9)],
    classes=["a", "b"],
    synthetic=True,
)


def images_of(item):
    generator = torch.Generator().manual_seed(int(item["image"]))
    return {"image": torch.rand(1, 16, 16, generator=generator)}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return small_resnet(2, width=2).eval()


@pytest.fixture
def dataset():
    return ImageDataset(ITEMS, images_of)


def test_batches_do_not_change_predictions_and_keep_the_order(network, dataset):
    whole, parts = predict(network, dataset, "cpu", 9), predict(network, dataset, "cpu", 2)
    torch.testing.assert_close(whole.kept, parts.kept)
    some = predict(network, dataset, "cpu", index=torch.tensor([7, 1]))
    torch.testing.assert_close(some.kept, whole.kept[[7, 1]])
    torch.testing.assert_close(network.head(whole.embedding).softmax(dim=1), whole.kept)


def test_prediction_leaves_the_network_as_it_was(network, dataset):
    network.train()
    before = weights_sha256(network)
    predict(network, dataset, "cpu")
    assert network.training
    assert weights_sha256(network) == before


def test_pool_outputs_know_what_is_labeled_and_show_images(network, dataset):
    outputs = predict_pool(
        network, dataset, LabelPool(Labels(ITEMS, known=3)), "cpu", thresholds={"label": Classes().threshold(0.9)}
    )
    assert int(outputs.labeled.sum()) == 3
    assert float(outputs.threshold.values) == 0.9
    assert outputs.images(torch.tensor([2])).shape == (1, 1, 16, 16)
    assert outputs.images(torch.tensor([2])).dtype == torch.float32


def test_images_without_a_label_are_counted_and_not_measured(network, dataset):
    figures = evaluate(network, dataset, LabelPool(Labels(ITEMS, known=6)), "cpu")
    assert (figures["n"], figures["unlabeled"]) == (6, 3)
    assert figures["synthetic"] is True and "SYNTHETIC" in figures["notice"]
    assert figures["model_sha256"] == weights_sha256(network)


def test_nothing_to_measure_is_an_error(network, dataset):
    with pytest.raises(ValueError, match="no image of this list has a label"):
        evaluate(network, dataset, LabelPool(Labels(ITEMS, known=0)), "cpu")


def test_the_hash_follows_weights_and_buffers(network):
    before = weights_sha256(network)
    network.backbone.bn1.running_mean += 1
    assert weights_sha256(network) != before


def test_findings_are_predicted_each_for_itself(network, dataset):
    findings = [{**item, "label": [i % 2, 1]} for i, item in enumerate(ITEMS)]
    logits = network.head(predict(network, dataset, "cpu").embedding)
    pool = LabelPool(Labels(findings, known=3, names=ITEMS.classes))
    outputs = predict_pool(network, dataset, pool, "cpu")
    assert outputs.kind == Findings(("a", "b"))
    torch.testing.assert_close(outputs.kept[..., 1], logits.sigmoid())
    assert predict_pool(network, dataset, LabelPool(Labels(ITEMS)), "cpu").kind == Classes(("a", "b"))


# ---- masks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def scans():
    """Five images of 16 x 24, three of them with a mask."""
    data = Datalist([{"image": f"{i}", "id": f"{i}", "label": f"{i}.png", "labeled": i < 3} for i in range(5)])
    images = torch.rand(5, 1, 16, 24, generator=torch.Generator().manual_seed(0))

    def _scans(**choice):
        return ImageDataset(data, lambda item: {"image": images[int(item["id"])]}, dtype="float32", **choice)

    return data, _scans


def test_of_masks_the_probabilities_are_shares_of_the_classes(scans):
    data, dataset = scans
    network = small_unet(3, width=8)
    outputs = predict_pool(network, dataset(), LabelPool(Labels(data)), "cpu", batch_size=2)
    assert outputs.kind == Masks()
    with eval_mode(network), torch.no_grad():
        maps, embedding = network(dataset().images).softmax(dim=1), network.embed(dataset().images)
        torch.testing.assert_close(torch.cat([outcomes for _, outcomes in outputs.maps()]).movedim(-1, 1), maps)
    torch.testing.assert_close(outputs.kept, maps.mean(dim=(2, 3)))
    torch.testing.assert_close(outputs.embedding, embedding)


def test_windows_over_large_images_see_all_of_them(scans):
    """A network that looks at one pixel says the same whether it sees the whole image or windows."""
    data, dataset = scans
    pixelwise = torch.nn.Conv2d(1, 2, 1)
    pool = LabelPool(Labels(data))
    whole, windows = (predict_pool(pixelwise, dataset(patch_size=size), pool, "cpu") for size in (None, (8, 8)))
    torch.testing.assert_close(whole.kept, windows.kept)
    assert isinstance(windows.network, Windows)
    network = small_unet(2, width=8)
    outputs = predict_pool(network, dataset(patch_size=(16, 16)), pool, "cpu")
    assert outputs.embedding.shape == (5, 64)


def test_large_images_with_masks_are_predicted_a_few_at_once(scans):
    data, dataset = scans
    assert at_once(dataset(), Masks(), 128) == 128
    volumes = ImageDataset(data, lambda item: {"image": torch.zeros(1, 64, 128, 64)})
    assert at_once(volumes, Masks(), 128) == 2
    assert at_once(volumes, Masks(), 1) == 1
    assert at_once(volumes, Classes(), 128) == 128


# ---- several parts of the labels ------------------------------------------------------------------------------------


class Both(nn.Module):
    """Class logits from the mean, mask logits of each pixel."""

    def __init__(self):
        super().__init__()
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
        self.pixels = nn.Conv2d(1, 3, 1)
        self.passes = 0

    def network_of(self, part):
        return {"label": self.whole, "mask": self.pixels}[part]

    def by_part(self, images):
        self.passes += 1
        return {"mask": self.pixels(images), "label": self.whole(images)}


@pytest.fixture
def both(scans):
    _, dataset = scans
    data = [{"image": str(i), "id": str(i), "label": i % 2, "mask": f"{i}.png"} for i in range(5)]
    return dataset, LabelPool([Labels(data, names=["a", "b"]), Labels(data, key="mask", names=["x", "y", "z"])])


def test_every_part_of_the_labels_is_predicted_by_its_own_network(both):
    dataset, pool = both
    network = Both()
    outputs = predict_pool(network, dataset(), pool, "cpu", thresholds={"label": Classes().threshold(0.9)})
    assert list(outputs.parts) == ["label", "mask"]
    assert outputs.network is network.whole and outputs.others["mask"].network is network.pixels
    assert (outputs.kept.shape, outputs.others["mask"].kept.shape) == ((5, 2), (5, 3))
    assert outputs.threshold is not None and outputs.others["mask"].threshold is None


def test_an_evaluator_has_the_logits_of_each_part_of_one_pass(both):
    dataset, pool = both
    network, images = Both(), dataset().images
    found = as_labeled(network, dataset(), pool)(images)
    assert list(found) == ["label", "mask"] and network.passes == 1
    torch.testing.assert_close(found["mask"], network.pixels(images))
    assert list(as_labeled(network, dataset(), pool.of(["mask"]))(images)) == ["mask"]
    assert network.passes == 1


def test_windows_are_for_parts_with_a_case_per_voxel_alone(both):
    dataset, pool = both
    network, windows = Both(), dataset(patch_size=(8, 8))
    assert network_for(network, windows, pool["label"].kind, "label") is network.whole
    found = as_labeled(network, windows, pool)
    torch.testing.assert_close(found(windows.images)["mask"], network.pixels(windows.images))
    assert network.passes == 0 and isinstance(found.parts["mask"], Windows)
