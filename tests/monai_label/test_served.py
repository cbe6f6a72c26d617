"""One bundle of an app, as its files tell it, and its configuration on images of a study folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support import refused

from medssl_monai.files import save_tensors, sha256, write_json
from medssl_monai.kinds import Classes, Findings
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.monai_label.write import SETTINGS
from medssl_monai.networks.pretrained import describe

SHIPPED = {
    "boostmis": {
        **{"classes": ["low", "high"], "mask_classes": [], "outputs": ("label",), "forms": {"class"}, "joint": False},
        **{"asks": ["boostmis", "entropy"], "strategies": ["boostmis", "entropy", "margin"], "kind": None},
    },
    "tear": {
        **{"classes": ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"], "mask_classes": [], "outputs": ("label",)},
        **{"forms": {"class"}, "joint": False},
        **{"asks": ["entropy"], "strategies": ["boostmis", "entropy", "margin"], "kind": None},
    },
    "s2mts2": {
        **{"classes": 14, "mask_classes": [], "outputs": ("label",), "forms": {"class"}, "joint": False},
        **{"asks": ["entropy"], "strategies": ["boostmis", "entropy", "margin"], "kind": None},
    },
    "ssal": {
        **{"classes": [], "mask_classes": ["background", "lesion"], "outputs": ("mask",), "forms": {"mask"}},
        **{"joint": False, "asks": ["clusters", "entropy"], "strategies": 11, "kind": "masks"},
    },
    "multimix": {
        **{"classes": ["normal", "pneumonia"], "mask_classes": ["background", "lung"], "outputs": ("label", "mask")},
        **{"forms": {"class", "mask"}, "joint": True, "kind": None},
        **{"asks": ["joint", "entropy"], "strategies": ["joint", "mask_entropy", "entropy", "margin"]},
    },
}
every_bundle = pytest.mark.parametrize("name", SHIPPED)


@pytest.fixture
def serve(own_bundle):
    """A shipped bundle as an app has it; `overlays` and `overrides` as `medssl label-app` was told them."""

    def _serve(name, overlays=(), **overrides):
        folder = own_bundle(name)
        if overlays or overrides:
            write_json(folder / "configs" / SETTINGS, {"overlays": list(overlays), "overrides": overrides})
        return ServedBundle(folder)

    return _serve


@pytest.fixture
def studies(tmp_path):
    """Six images of 16 x 16 pixels, and two masks, as items of a bundle; some with a label."""

    def _studies(bundle, ids=("a", "b", "c", "d", "e", "f")):
        rng = np.random.default_rng(0)
        channels = bundle.metadata["network_data_format"]["inputs"]["image"]["num_channels"]
        label = {"s2mts2": [1, 0, -1] + 11 * [0], "ssal": str(tmp_path / "mask.png")}.get(bundle.name, 1)
        Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "mask.png")
        items = []
        for number, name in enumerate(ids):
            pixels = rng.integers(0, 255, (16, 16, channels), dtype=np.uint8)
            Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(tmp_path / f"{name}.png")
            item = {"image": str(tmp_path / f"{name}.png"), "id": name, "group": f"p{number // 2}"}
            item |= {"labeled": number < 3} | ({"label": label} if number < 3 else {})
            if bundle.joint:
                item |= {"masked": number in (2, 3)}
                item |= {"mask": str(tmp_path / "mask.png")} if number in (2, 3) else {}
            items.append(item)
        return items

    return _studies


@pytest.fixture
def train():
    """Writes weights that know some things of themselves, as a training does."""

    def _train(bundle, **about):
        save_tensors(bundle.weights, describe(torch.nn.Linear(2, 2), about))

    return _train


def parsed(run, *names):
    return [run.parser.get_parsed_content(name) for name in names]


class TestWhatItIs:
    @every_bundle
    def test_shipped(self, serve, name):
        bundle, wanted = serve(name), SHIPPED[name]
        assert bundle.name == name
        assert bundle.classes == wanted["classes"] or len(bundle.classes) == wanted["classes"]
        for key in ("mask_classes", "outputs", "forms", "joint"):
            assert getattr(bundle, key) == wanted[key], key
        assert (bundle.dimensions, bundle.epochs) == (2, 20)
        assert (bundle.about, bundle.stamp, bundle.version, bundle.known_kind) == ({}, 0, "untrained", None)

    @every_bundle
    def test_strategies(self, serve, name):
        bundle, wanted = serve(name), SHIPPED[name]
        assert bundle.strategies() == wanted["asks"]
        every = bundle.strategies("all")
        assert every == wanted["strategies"] or len(every) == wanted["strategies"]
        assert "random" not in every
        assert bundle.strategies("entropy, random nothing") == ["entropy"]

    @pytest.mark.parametrize("strategy", ["@strategies::margin", "@strategies#margin"])
    def test_the_strategy_that_it_was_trained_with(self, serve, strategy):
        assert serve("boostmis", **{"query::strategy": strategy}).strategies() == ["entropy", "margin"]

    @pytest.mark.parametrize("strategy", [{"_target_": "medssl_monai.query.margin"}, None])
    def test_a_strategy_without_a_name(self, serve, strategy):
        assert serve("boostmis", **{"query::strategy": strategy}).strategies() == ["entropy"]

    def test_epochs_are_those_of_the_whole_training(self, serve):
        assert serve("boostmis", epochs_per_round=3).epochs == 12

    def test_weights_tell_of_themselves_and_are_read_anew(self, serve, train):
        bundle = serve("boostmis")
        train(bundle, kind="findings", metric="auroc", synthetic=True)
        assert bundle.about == {"kind": "findings", "metric": "auroc", "synthetic": True}
        assert bundle.known_kind == Findings(("low", "high"))
        assert bundle.version == sha256(bundle.weights)[:12]
        before = bundle.stamp
        train(bundle, kind="classes")
        assert bundle.stamp > before
        assert bundle.known_kind == Classes(("low", "high"))
        assert bundle.version == sha256(bundle.weights)[:12]

    def test_weights_of_other_origin_say_nothing(self, serve):
        bundle = serve("boostmis")
        save_tensors(bundle.weights, torch.nn.Linear(2, 2).state_dict())
        assert (bundle.about, bundle.known_kind) == ({}, None)

    @pytest.mark.parametrize(
        ("learned", "outputs"), [(["label"], ("label",)), (["mask"], ("mask",)), (["mask", "label"], ("label", "mask"))]
    )
    def test_a_joint_bundle_gives_what_it_learned_and_learns_both(self, serve, train, learned, outputs):
        bundle = serve("multimix")
        train(bundle, learned=learned, kind="classes")
        assert bundle.outputs == outputs
        assert bundle.forms == {"class", "mask"}
        assert (bundle.classes, bundle.mask_classes) == (["normal", "pneumonia"], ["background", "lung"])

    def test_metadata_that_a_training_changed_are_read_anew(self, serve):
        bundle = serve("boostmis")
        path = bundle.folder / "configs" / "metadata.json"
        content = json.loads(path.read_text())
        content["network_data_format"]["outputs"]["pred"]["channel_def"] = {"0": "no", "1": "yes"}
        path.write_text(json.dumps(content))
        assert bundle.classes == ["no", "yes"]

    def test_size_as_configured_until_weights_are_there(self, serve, train):
        bundle = serve("ssal", ["train_3d.yaml"])
        assert (bundle.dimensions, bundle.image_size) == (3, [72, 72, 8])
        assert serve("boostmis", image_size=[32, 32]).image_size == [32, 32]
        train(bundle)  # it would have changed the metadata too
        assert bundle.image_size == [64, 64]


class TestRun:
    @pytest.fixture
    def run(self, serve, studies, tmp_path):
        """Builds the configuration on toy studies, of which the second half is to measure on."""

        def _run(bundle, items=None, validation=(), synthetic=False, **values):
            items = studies(bundle) if items is None else items
            where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path / "out"), "device": "cpu"}
            return bundle.run(items, validation, synthetic, **where, **values)

        return _run

    @every_bundle
    def test_pool_method_and_images(self, serve, run, studies, name):
        bundle = serve(name)
        items = studies(bundle)
        pool, method, data = parsed(run(bundle, items, items[:2]), "pool", "method_def", "train::dataset")
        assert pool.ids == [item["id"] for item in items]
        first, *others = pool.parts.values()
        assert first.mask.tolist() == [item["labeled"] for item in items]
        assert [first.label(n) for n in range(3)] == [item["label"] for item in items[:3]]
        assert list(first.kind.names) == (bundle.classes or bundle.mask_classes)
        assert first.kind.word == (SHIPPED[name]["kind"] or ("findings" if name == "s2mts2" else "classes"))
        assert [labels.key for labels in others] == (["mask"] if bundle.joint else [])
        for labels in others:
            assert labels.mask.tolist() == [item["masked"] for item in items]
            assert list(labels.kind.names) == bundle.mask_classes
        assert ("unlabeled" in method.streams) is (name != "ssal")  # which is shipped as fine-tuning
        assert data.images.shape == (6, data.images.shape[1], 64, 64) and not data.unreadable

    @every_bundle
    def test_no_label_tells_the_kind_yet(self, serve, run, studies, name):
        bundle = serve(name)
        flags = {"labeled": False, "masked": False} if bundle.joint else {"labeled": False}
        items = [{key: item[key] for key in ("image", "id", "group")} | flags for item in studies(bundle)]
        (network,) = parsed(run(bundle, items), "network")
        kind = SHIPPED[name]["kind"] or "findings"
        save_tensors(bundle.weights, describe(network, {"kind": kind, "bridge": "concat"}))
        pool, there = parsed(run(bundle, items), "pool", "validate::pool")
        assert pool.first.kind.word == there.first.kind.word == kind
        assert int(pool.first.mask.sum()) == 0

    @pytest.mark.parametrize("synthetic", [True, False])
    def test_phantoms_stay_phantoms(self, serve, run, synthetic):
        (pool,) = parsed(run(serve("boostmis"), synthetic=synthetic), "pool")
        assert pool.synthetic is synthetic

    def test_names_that_look_like_configuration(self, serve, run, studies):
        bundle = serve("boostmis")
        ids = ["@a", "$b", "%c", "d#1", "e@::f", "g%#h"]
        path = bundle.folder / "configs" / "metadata.json"
        content = json.loads(path.read_text())
        content["network_data_format"]["outputs"]["pred"]["channel_def"] = {"0": "grade #1", "1": "p@s"}
        path.write_text(json.dumps(content))
        pool, data, classes = parsed(run(bundle, studies(bundle, ids)), "pool", "train::dataset", "classes")
        assert pool.ids == ids
        assert list(pool.first.kind.names) == classes == ["grade #1", "p@s"]
        assert len(data.images) == 6 and not data.unreadable

    def test_a_file_that_cannot_be_read_is_left_out(self, serve, run, studies, tmp_path):
        bundle = serve("boostmis")
        items = studies(bundle)
        (tmp_path / "b.png").write_bytes(b"\x89PNG and no more")
        (data,) = parsed(run(bundle, items), "train::dataset")
        assert len(data.images) == 6 and list(data.unreadable) == [1]

    def test_as_long_as_it_says(self, serve, run):
        bundle = serve("boostmis", epochs_per_round=3)
        assert parsed(run(bundle), "max_epochs", "rounds") == [12, 1]
        assert parsed(run(bundle, epochs_per_round=2), "max_epochs") == [2]

    def test_the_viewer_asks_and_not_the_training(self, serve, run):
        for name in ("boostmis", "ssal"):
            budget, start, annotator = parsed(
                run(serve(name)), "query::budget", "query::cold_start", "query::annotator"
            )
            assert (budget, start, annotator) == (0, 0, None)

    def test_what_it_was_trained_with(self, serve, run):
        bundle = serve("boostmis", method_def="@methods::mean_teacher", **{"batch_size::labeled": 3})
        method, size = parsed(run(bundle), "method_def", "batch_size")
        assert (type(method).__name__, size["labeled"]) == ("MeanTeacher", 3)

    def test_the_size_that_an_untrained_bundle_is_configured_for(self, serve, run):
        (data,) = parsed(run(serve("boostmis", image_size=[32, 32])), "train::dataset")
        assert data.images.shape[2:] == (32, 32)

    def test_weights_are_continued(self, serve, run):
        for name in ("boostmis", "ssal"):
            bundle = serve(name)
            (network,) = parsed(run(bundle), "network")
            for weight in network.parameters():
                torch.nn.init.constant_(weight, 0.25)
            save_tensors(bundle.weights, describe(network, {}))
            (again,) = parsed(run(bundle), "network")
            assert all(bool((weight == 0.25).all()) for weight in again.parameters())

    def test_weights_of_pretraining_are_started_from(self, serve, run):
        for name in ("tear", "ssal"):
            bundle = serve(name)
            (network,) = parsed(run(bundle), "network")
            for weight in network.parameters():
                torch.nn.init.constant_(weight, 0.25)
            save_tensors(bundle.folder / "models" / "pretrained.pt", describe(network, {}))
            (again,) = parsed(run(bundle), "network")
            assert any(bool((weight == 0.25).all()) for weight in again.parameters())

    def test_clusters_are_made_with_the_weights(self, serve, run, train):
        bundle = serve("ssal")
        (network,) = parsed(run(bundle), "network")
        save_tensors(bundle.weights, describe(network, {}))
        assert parsed(run(bundle), "pretrained") == [str(bundle.weights)]
        start = bundle.folder / "models" / "pretrained.pt"
        save_tensors(start, describe(network, {}))
        assert parsed(run(bundle), "pretrained") == [str(start)]

    def test_volumes_keep_the_spacing_of_the_weights(self, serve, run, train):
        bundle = serve("ssal")
        train(bundle, spacing=[0.6, 0.6, 4.5])
        assert parsed(run(bundle, []), "spacing") == [[0.6, 0.6, 4.5]]

    def test_measured_on_the_images_of_its_own_datalist(self, serve, run, toy_datalist):
        bundle = serve("boostmis", datalist=str(toy_datalist))
        (there,) = parsed(run(bundle, validation=None), "validate::pool")
        assert len(there) == 16 and int(there.first.mask.sum()) == 16

    def test_without_such_a_datalist(self, serve, run):
        said = refused(run, serve("boostmis"), validation=None)
        assert "boostmis has no images to measure on: write the app with `--datalist FILE`" in said

    def test_a_misspelt_value_is_named(self, serve, run):
        assert "did you mean `--batch_size`?" in refused(run, serve("boostmis"), batchsize=3)
