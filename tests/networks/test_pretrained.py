"""Weights that somebody else trained."""

from collections import OrderedDict

import pytest
import torch

from medssl_monai.networks import (
    ProjectionNetwork,
    basic_unet,
    describe,
    feature_head,
    load_weights,
    prepare_network,
    resnet50,
    small_convnet,
    small_resnet,
    small_unet,
    ssal_unet,
    weights_metadata,
)


def small(seed=0, **kwargs):
    torch.manual_seed(seed)
    return small_resnet(2, width=2, **kwargs)


def assert_same_weights(first, second):
    torch.testing.assert_close(dict(first), dict(second), rtol=0, atol=0)


@pytest.fixture(scope="module")
def torchvision(tmp_path_factory):
    """A state dict as ``torchvision.models.resnet50().state_dict()``, in a file."""
    torch.manual_seed(3)
    state = resnet50(2).backbone.state_dict()
    state["fc.weight"], state["fc.bias"] = torch.randn(1000, 2048), torch.randn(1000)
    path = tmp_path_factory.mktemp("torchvision") / "resnet50.pth"
    torch.save(state, path)
    return path, state


def test_our_resnet50_is_laid_out_as_torchvision_s(torchvision):
    _, state = torchvision
    assert len(state) == 320
    for key, shape in {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.running_var": (256,),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
        "layer4.2.bn3.bias": (2048,),
    }.items():
        assert tuple(state[key].shape) == shape


def test_torchvision_weights_fit_and_the_head_stays_new(torchvision):
    path, state = torchvision
    network = resnet50(2)
    head = network.head.weight.clone()
    load_weights(network, path)
    assert_same_weights(network.backbone.state_dict(), {k: v for k, v in state.items() if not k.startswith("fc.")})
    assert torch.equal(network.head.weight, head)


def test_torchvision_weights_on_grey_images_act_as_on_three_equal_colours(torchvision):
    path, _ = torchvision
    grey, colour = resnet50(2, in_channels=1).eval(), resnet50(2).eval()
    load_weights(grey, path)
    load_weights(colour, path)
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(grey.embed(images), colour.embed(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_old_files_without_batch_counters_load(torchvision, tmp_path):
    """torchvision's first files are from before `num_batches_tracked`."""
    state = {k: v for k, v in small(1).backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    load_weights(network := small(2), tmp_path / "old.pth")
    assert torch.equal(network.backbone.conv1.weight, state["conv1.weight"])


def test_our_own_weights_load_with_their_head(tmp_path):
    torch.save(small(1).state_dict(), tmp_path / "model.pt")
    load_weights(network := small(2), tmp_path / "model.pt")
    assert_same_weights(network.state_dict(), small(1).state_dict())


@pytest.mark.parametrize("wrap", [lambda s: {"model": s}, lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_usual_wrappings_are_taken_off(tmp_path, wrap):
    torch.save(wrap(small(1).state_dict()), tmp_path / "model.pt")
    load_weights(network := small(2), tmp_path / "model.pt")
    assert_same_weights(network.state_dict(), small(1).state_dict())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"unknown \['extra.weight'\] \(1\)"),
        (lambda s: s.pop("head.bias"), r"missing \['head.bias'\] \(1 in all\)"),
        (
            lambda s: s.update({"head.weight": torch.zeros(5, 16)}),
            r"other shape \['head.weight: \(5, 16\) instead of \(2, 16\)'\] \(1\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, change, match):
    state = small(1).state_dict()
    change(state)
    torch.save(state, tmp_path / "model.pt")
    network = small(2)
    with pytest.raises(ValueError, match=match):
        load_weights(network, tmp_path / "model.pt")
    assert_same_weights(network.state_dict(), small(2).state_dict())  # nothing was loaded


def test_a_foreign_key_of_a_plain_classifier_is_named(tmp_path):
    state = {**small(1).backbone.state_dict(), "classifier.weight": torch.zeros(2, 16)}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"classifier\.weight"):
        load_weights(small(2), tmp_path / "model.pt")


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)]])
def test_a_file_that_holds_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt"):
        load_weights(small(), tmp_path / "model.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        prepare_network(small(), pretrained=tmp_path / "nowhere.pt")


def test_without_a_file_the_network_stays_as_it_is():
    assert_same_weights(prepare_network(small(1)).state_dict(), small(1).state_dict())


def test_metadata_travel_with_a_plain_state_dict(tmp_path):
    metadata = {"synthetic": True, "classes": ["low", "high"], "seed": 3, "value": None, "auroc": 0.75}
    torch.save(describe(small(1), metadata), tmp_path / "model.pt")
    assert weights_metadata(tmp_path / "model.pt") == metadata
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert isinstance(state, OrderedDict)
    assert_same_weights(state, small(1).state_dict())
    (network := small(2)).load_state_dict(state)
    assert_same_weights(network.state_dict(), small(1).state_dict())
    assert describe(network, {})._metadata.keys() >= network.state_dict()._metadata.keys()


def test_what_a_pre_training_run_saves_is_a_warm_start_and_says_where_it_is_from(tmp_path):
    """More in `test_projection`."""
    source = ProjectionNetwork(small(1), dim=4)
    torch.save(describe(source, {"synthetic": True}), tmp_path / "pretrained.pt")
    assert weights_metadata(tmp_path / "pretrained.pt") == {"synthetic": True}
    network = prepare_network(small(2), pretrained=tmp_path / "pretrained.pt", num_classes=2, channels=1)
    assert_same_weights(network.backbone.state_dict(), source.backbone.state_dict())
    assert_same_weights(network.head.state_dict(), small(2).head.state_dict())


def test_weights_of_other_origin_have_no_metadata(tmp_path):
    torch.save(small().state_dict(), tmp_path / "model.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "dict.pt")
    assert weights_metadata(tmp_path / "model.pt") == {}
    assert weights_metadata(tmp_path / "dict.pt") == {}


@pytest.mark.parametrize("make", [small_resnet, lambda *a, **k: small_convnet(*a, **k, image_size=(32, 32))])
@pytest.mark.parametrize(
    ("given", "wanted", "message"),
    [
        ((2, 3), (2, 1), r"do not fit .*: they are for 3 image channels \(1: grey, 3: colour\), the network for 1; "),
        ((2, 1), (2, 3), "they are for 1 image channels .*, the network for 3; "),
        ((7, 3), (2, 3), "they are for 7 classes, the network for 2; "),
        ((7, 3), (2, 1), "they are for 7 classes, the network for 2; they are for 3 image channels"),
    ],
)
def test_weights_for_other_data_are_refused_in_words(tmp_path, make, given, wanted, message):
    torch.save(make(given[0], in_channels=given[1]).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message):
        load_weights(make(wanted[0], in_channels=wanted[1]), tmp_path / "model.pt")


def test_weights_of_another_architecture_are_not_said_to_be_of_other_data(tmp_path):
    torch.save(small_resnet(2, width=4).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="do not fit the network: missing"):
        load_weights(small_resnet(2, width=8), tmp_path / "model.pt")


def test_a_network_for_other_classes_or_channels_than_the_data_is_refused():
    network = small_resnet(3, in_channels=3, width=2)
    with pytest.raises(ValueError, match="the network is for 3 classes, the data have 7; mend `network_def`"):
        prepare_network(network, num_classes=7, channels=3)
    with pytest.raises(ValueError, match="the network is for 3 channels, the data have 1; mend `network_def`"):
        prepare_network(network, num_classes=3, channels=1)
    assert prepare_network(network, num_classes=3, channels=3) is network
    assert prepare_network(feature_head(3, 8), num_classes=3, channels=1) is not None  # no convolution to ask
    plain = torch.nn.Linear(2, 2)
    assert prepare_network(plain, num_classes=7, channels=3) is plain  # nothing is known of it


# ---- segmentation ----------------------------------------------------------------------------------------------------


def unet(classes, seed=0, **kwargs):
    torch.manual_seed(seed)
    return small_unet(classes, **{"width": 4, "levels": 3, **kwargs})


MAKERS = {
    "small": unet,
    "basic": lambda classes, seed=0: torch.manual_seed(seed) and basic_unet(classes, features=(8, 8, 8, 8, 8, 8)),
    "ssal": lambda classes, seed=0: torch.manual_seed(seed) and ssal_unet(classes, width=2),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("part", ["load", "encoder"])
def test_load_takes_all_but_the_output_and_encoder_leaves_the_decoder_too(tmp_path, make, part):
    """Card, check 10."""
    source = make(1, seed=1)
    for parameter in source.parameters():  # biases and norms of a new network are alike in all
        parameter.data.normal_()
    torch.save(describe(source, {"stage": 1}), tmp_path / "model.pt")
    network, fresh, given = make(3, seed=2), make(3, seed=2).state_dict(), source.state_dict()
    load_weights(network, tmp_path / "model.pt", part)
    own = {*network.names_of("output"), *(network.names_of("decoder") if part == "encoder" else [])}
    for name, value in network.state_dict().items():
        assert torch.equal(value, fresh[name] if name in own else given[name]), name
        if value.is_floating_point() and value.ndim and name not in network.names_of("output"):
            differs = not torch.equal(fresh[name], given[name])
            assert differs or name.endswith(("running_mean", "running_var")), name
    assert 0 < len(own) < len(fresh)


def test_continue_takes_everything(tmp_path):
    torch.save(unet(3, seed=1).state_dict(), tmp_path / "model.pt")
    for arguments in ({}, {"part": "continue"}):
        network = prepare_network(unet(3, seed=2), pretrained=tmp_path / "model.pt", **arguments)
        assert_same_weights(network.state_dict(), unet(3, seed=1).state_dict())


def test_scratch_is_without_a_file():
    network = prepare_network(unet(3), pretrained=None, part="load")
    assert_same_weights(network.state_dict(), unet(3).state_dict())


def test_what_is_left_out_is_said(tmp_path, caplog):
    torch.save(unet(1).state_dict(), tmp_path / "model.pt")
    with caplog.at_level("INFO", logger="medssl_monai"):
        load_weights(unet(3), tmp_path / "model.pt", "load")
        load_weights(unet(3), tmp_path / "model.pt", "encoder")
    assert "Left out the output layer, 2 tensors, which stay as they were (`part: load`)." in caplog.text
    assert "Left out decoder and output layer, " in caplog.text


def test_another_output_layer_is_never_left_out_in_silence(tmp_path):
    torch.save(unet(1, seed=1).state_dict(), tmp_path / "model.pt")
    network = unet(3)
    with pytest.raises(ValueError, match=r"other shape .* All but the output layer fits: take it with `part: load`"):
        load_weights(network, tmp_path / "model.pt")
    assert_same_weights(network.state_dict(), unet(3).state_dict())


def test_weights_of_another_width_are_refused_whatever_the_part(tmp_path):
    torch.save(unet(3, width=8).state_dict(), tmp_path / "model.pt")
    for part in ("continue", "load", "encoder"):
        with pytest.raises(ValueError, match="Choose the network that they belong to"):
            load_weights(unet(3), tmp_path / "model.pt", part)


def test_weights_for_other_channels_are_refused_in_words(tmp_path):
    torch.save(unet(3, in_channels=3).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"they are for 3 image channels .*, the network for 1"):
        load_weights(unet(3), tmp_path / "model.pt", "load")


def test_the_plain_weights_of_a_unet_fit(tmp_path):
    torch.save(unet(3, seed=1).unet.state_dict(), tmp_path / "model.pt")
    load_weights(network := unet(3, seed=2), tmp_path / "model.pt")
    assert_same_weights(network.state_dict(), unet(3, seed=1).state_dict())


def test_parts_are_of_segmentation_networks_and_have_names(tmp_path):
    torch.save(small().state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="`part: load` is for segmentation networks, and EmbeddingClassifier is none"):
        load_weights(small(), tmp_path / "model.pt", "load")
    with pytest.raises(ValueError, match=r"`part` must be one of \['continue', 'load', 'encoder'\], got 'all'"):
        load_weights(small(), tmp_path / "model.pt", "all")


def test_a_segmentation_network_for_other_data_is_refused():
    with pytest.raises(ValueError, match="the network is for 3 classes, the data have 2; mend `network_def`"):
        prepare_network(unet(3), num_classes=2, channels=1)
    with pytest.raises(ValueError, match="the network is for 1 channels, the data have 3"):
        prepare_network(unet(3), num_classes=3, channels=3)
    network = unet(3)
    assert prepare_network(network, num_classes=3, channels=1) is network


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_the_name_of_their_file(tmp_path, bad):
    network = small_resnet(2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    spoilt = {**before, "head.bias": torch.full((2,), bad)}
    torch.save(spoilt, tmp_path / "spoilt.pt")
    with pytest.raises(ValueError, match=r"spoilt\.pt holds weights that are not finite .* the first is head\.bias"):
        prepare_network(network, pretrained=tmp_path / "spoilt.pt")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
