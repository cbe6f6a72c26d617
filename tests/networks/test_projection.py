"""Pre-training networks, and how their weights get into classifiers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medssl_monai.networks import (
    EmbeddingClassifier,
    ProjectedClassifier,
    ProjectionNetwork,
    densenet121,
    load_weights,
    prepare_network,
    resnet18,
    resnet50,
    small_convnet,
    small_resnet,
)

BACKBONES = {
    "small_resnet": lambda classes: small_resnet(classes, width=2),
    "small_resnet, colour": lambda classes: small_resnet(classes, in_channels=3, width=2),
    "small_resnet, 3-D": lambda classes: small_resnet(classes, spatial_dims=3, width=2),
    "resnet18": resnet18,
    "resnet18, 3-D": lambda classes: resnet18(classes, spatial_dims=3),
    "densenet121": densenet121,
    "small_convnet": lambda classes: small_convnet(classes, image_size=(32, 32)),
}


def small(classes=2, seed=0, **kwargs):
    torch.manual_seed(seed)
    return small_resnet(classes, width=2, **kwargs)


def saved(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "pretrained.pt")
    return tmp_path / "pretrained.pt"


def part(network, name):
    return {key: value for key, value in network.state_dict().items() if key.startswith(name)}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("keep", [False, True], ids=["backbone", "backbone and first projection"])
def test_pretrained_weights_are_a_warm_start_of_every_network(name, keep, tmp_path):
    """Fine-tuning from the middle: the first layer of the projection goes along, the others do not."""
    torch.manual_seed(0)
    source = ProjectionNetwork(BACKBONES[name](2), dim=8)
    path = saved(source, tmp_path)
    torch.manual_seed(1)
    target = ProjectedClassifier(BACKBONES[name](5)) if keep else BACKBONES[name](5)
    head = {key: value.clone() for key, value in part(target, "head.").items()}
    prepared = prepare_network(target, pretrained=path, num_classes=5)
    assert prepared is target
    assert_same(part(target, "backbone."), part(source, "backbone."))
    assert_same(part(target, "projection."), part(source, "projection.") if keep else {})
    assert_same(part(target, "head."), head)
    assert len(target.state_dict()) == sum(len(part(target, n)) for n in ("backbone.", "projection.", "head."))


@pytest.mark.parametrize("name", [n for n in BACKBONES if n.startswith("small")])
def test_vectors_and_embeddings(name):
    torch.manual_seed(0)
    network = ProjectionNetwork(BACKBONES[name](2), dim=8).eval()
    plain = BACKBONES[name](4)
    shape = {"small_resnet, colour": (3, 16, 16), "small_resnet, 3-D": (1, 8, 8, 8), "small_convnet": (3, 32, 32)}
    images = torch.rand(2, *shape.get(name, (1, 16, 16)))
    assert network(images).shape == (2, 8)
    assert network.embed(images).shape == (2, plain.head.in_features)
    classifier = ProjectedClassifier(plain).eval()
    assert classifier(images).shape == (2, 4)
    assert torch.equal(classifier.head(classifier.embed(images)), classifier(images))


def test_the_projection_is_three_linear_layers_with_relu_in_between():
    network = ProjectionNetwork(small(), dim=5).eval()
    first, (relu, second, relu2, third) = network.projection, network.contrast
    assert [(layer.in_features, layer.out_features) for layer in (first, second, third)] == [
        (16, 16),
        (16, 16),
        (16, 5),
    ]
    assert isinstance(relu, nn.ReLU) and isinstance(relu2, nn.ReLU)
    images = torch.rand(3, 1, 16, 16)
    h = network.embed(images)
    torch.testing.assert_close(network(images), third(F.relu(second(F.relu(first(h))))))


def test_fine_tuning_begins_with_the_activations_that_pre_training_ends_with(tmp_path):
    source = ProjectionNetwork(small(), dim=5).eval()
    target = ProjectedClassifier(small(seed=1)).eval()
    load_weights(target, saved(source, tmp_path))
    images = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(target.embed(images), F.relu(source.projection(source.embed(images))), rtol=0, atol=0)


@pytest.mark.parametrize("layers", [2, 4])
def test_number_of_layers(layers, tmp_path):
    source = ProjectionNetwork(small(), dim=5, layers=layers)
    assert sum(isinstance(module, nn.Linear) for module in source.modules()) == layers
    load_weights(target := ProjectedClassifier(small(seed=1)), saved(source, tmp_path))
    assert_same(part(target, "projection."), part(source, "projection."))
    with pytest.raises(ValueError, match="`layers` must be at least 2, one to keep and one to leave, got 1"):
        ProjectionNetwork(small(), layers=1)


def test_pre_training_goes_on_from_its_own_weights(tmp_path):
    source, target = ProjectionNetwork(small(), dim=5), ProjectionNetwork(small(seed=1), dim=5)
    load_weights(target, saved(source, tmp_path))
    assert_same(target.state_dict(), source.state_dict())


def test_pre_training_starts_from_a_plain_classifier_s_weights(tmp_path):
    """As ImageNet's: the backbone is theirs, projection and contrast are new."""
    plain = resnet50(2).backbone.state_dict()
    plain["fc.weight"] = torch.zeros(3, 2048)
    torch.save(plain, tmp_path / "plain.pth")
    network = ProjectionNetwork(resnet50(2), dim=5)
    new = {**part(network, "projection."), **part(network, "contrast.")}
    new = {key: value.clone() for key, value in new.items()}
    load_weights(network, tmp_path / "plain.pth")
    assert torch.equal(network.backbone.conv1.weight, plain["conv1.weight"])
    assert_same({**part(network, "projection."), **part(network, "contrast.")}, new)


def test_weights_of_another_backbone_are_refused(tmp_path):
    path = saved(ProjectionNetwork(small(), dim=5), tmp_path)
    with pytest.raises(ValueError, match=r"do not fit the network: .*other shape \['backbone"):
        load_weights(small_resnet(2, width=4), path)
    with pytest.raises(ValueError, match=r"they are for 1 image channels .*, the network for 3; "):
        load_weights(small(in_channels=3), path)


def test_weights_of_a_classifier_with_projection_need_its_projection(tmp_path):
    path = saved(ProjectedClassifier(small()), tmp_path)
    with pytest.raises(ValueError, match=r"unknown \['projection.bias', 'projection.weight'\]"):
        load_weights(small(), path)


def test_what_is_left_out_is_said(tmp_path, caplog):
    path = saved(ProjectionNetwork(small(), dim=5), tmp_path)
    with caplog.at_level("INFO", "medssl_monai"):
        load_weights(small(), path)
        load_weights(ProjectedClassifier(small()), path)
    said = [record.message for record in caplog.records if "pre-training" in record.message]
    assert said == [
        "The weights are of pre-training; left out: contrast, projection.",
        "The weights are of pre-training; left out: contrast.",
    ]


def test_a_classifier_with_projection_is_one_for_queries_too():
    assert isinstance(ProjectedClassifier(small()), EmbeddingClassifier)
