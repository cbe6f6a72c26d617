"""Predicting many images, and measuring them."""

from __future__ import annotations

import pytest
import torch
from monai.networks import eval_mode

from medssl_monai.data import Datalist, ImageDataset
from medssl_monai.engines import evaluate, predict, predict_pool, weights_sha256
from medssl_monai.engines.predict import Windows, at_once
from medssl_monai.networks import small_resnet, small_unet
from medssl_monai.pool import LabelPool

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
    torch.testing.assert_close(whole.probs, parts.probs)
    some = predict(network, dataset, "cpu", index=torch.tensor([7, 1]))
    torch.testing.assert_close(some.probs, whole.probs[[7, 1]])
    torch.testing.assert_close(network.head(whole.embedding).softmax(dim=1), whole.probs)


def test_prediction_leaves_the_network_as_it_was(network, dataset):
    network.train()
    before = weights_sha256(network)
    predict(network, dataset, "cpu")
    assert network.training
    assert weights_sha256(network) == before


def test_pool_outputs_know_what_is_labeled_and_show_images(network, dataset):
    outputs = predict_pool(network, dataset, LabelPool(ITEMS, labels=3), "cpu", threshold=0.9)
    assert int(outputs.labeled.sum()) == 3
    assert outputs.threshold == 0.9
    assert outputs.images(torch.tensor([2])).shape == (1, 1, 16, 16)
    assert outputs.images(torch.tensor([2])).dtype == torch.float32


def test_images_without_a_label_are_counted_and_not_measured(network, dataset):
    figures = evaluate(network, dataset, LabelPool(ITEMS, labels=6), "cpu")
    assert (figures["n"], figures["unlabeled"]) == (6, 3)
    assert figures["synthetic"] is True and "SYNTHETIC" in figures["notice"]
    assert figures["model_sha256"] == weights_sha256(network)


def test_nothing_to_measure_is_an_error(network, dataset):
    with pytest.raises(ValueError, match="no image of this list has a label"):
        evaluate(network, dataset, LabelPool(ITEMS, labels=0), "cpu")


def test_the_hash_follows_weights_and_buffers(network):
    before = weights_sha256(network)
    network.backbone.bn1.running_mean += 1
    assert weights_sha256(network) != before


def test_findings_are_predicted_each_for_itself(network, dataset):
    findings = [{**item, "label": [i % 2, 1]} for i, item in enumerate(ITEMS)]
    logits = network.head(predict(network, dataset, "cpu").embedding)
    outputs = predict_pool(network, dataset, LabelPool(findings, labels=3), "cpu", threshold=[0.9, 0.8])
    assert (outputs.task, outputs.threshold) == ("multilabel", [0.9, 0.8])
    torch.testing.assert_close(outputs.probs, logits.sigmoid())
    assert predict_pool(network, dataset, LabelPool(ITEMS), "cpu").task == "multiclass"


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
    outputs = predict_pool(network, dataset(), LabelPool(data, num_classes=3), "cpu", batch_size=2)
    assert outputs.task == "segmentation"
    with eval_mode(network), torch.no_grad():
        maps, embedding = network(dataset().images).softmax(dim=1), network.embed(dataset().images)
        torch.testing.assert_close(torch.cat([probs for _, probs in outputs.maps()]), maps)
    torch.testing.assert_close(outputs.probs, maps.mean(dim=(2, 3)))
    torch.testing.assert_close(outputs.embedding, embedding)


def test_windows_over_large_images_see_all_of_them(scans):
    """A network that looks at one pixel says the same whether it sees the whole image or windows."""
    data, dataset = scans
    pixelwise = torch.nn.Conv2d(1, 2, 1)
    pool = LabelPool(data, num_classes=2)
    whole, windows = (predict_pool(pixelwise, dataset(patch_size=size), pool, "cpu") for size in (None, (8, 8)))
    torch.testing.assert_close(whole.probs, windows.probs)
    assert isinstance(windows.network, Windows)
    network = small_unet(2, width=8)
    outputs = predict_pool(network, dataset(patch_size=(16, 16)), pool, "cpu")
    assert outputs.embedding.shape == (5, 64)


def test_large_images_with_masks_are_predicted_a_few_at_once(scans):
    data, dataset = scans
    assert at_once(dataset(), 128) == 128
    volumes = ImageDataset(data, lambda item: {"image": torch.zeros(1, 64, 128, 64)})
    assert at_once(volumes, 128) == 2
    assert at_once(volumes, 1) == 1
