"""Linear and nearest-neighbour classifiers on frozen embeddings."""

import copy
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from medssl_monai.data import Datalist, ImageDataset
from medssl_monai.engines import evaluate, evaluate_probe, knn_probe, linear_probe
from medssl_monai.engines.probe import NearestNeighbours, Probe, ProbeTrainer
from medssl_monai.handlers import RoundReport
from medssl_monai.kinds import KINDS, Classes, Findings, Kind
from medssl_monai.networks import EmbeddingClassifier, ProjectedClassifier, ProjectionNetwork, small_resnet
from medssl_monai.pool import LabelPool, Labels

DIM = 6


class Pixels(EmbeddingClassifier):
    """The embedding is the image's pixels, scaled unevenly."""

    def __init__(self):
        super().__init__(nn.Flatten(), DIM, 2)

    def embed(self, images):
        return self.backbone(images) * torch.tensor([1.0, 5.0, 0.2, 1.0, 1.0, 3.0])


def draw(labels, seed=0):
    """Datasets of vectors that their labels shift, each with a pool; a label of None is an unlabeled image."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0.4, 0.15, (len(labels), DIM))
    items = []
    for number, label in enumerate(labels):
        item = {"image": "x", "id": str(number), "group": str(number // 2)}
        if label is not None:
            item["label"] = label
            if isinstance(label, list):
                pixels[number, : len(label)] += 0.4 * (np.array(label) == 1)
            else:
                pixels[number, label] += 0.4
        items.append(item)
    classes = ["a", "b", "c"] if any(isinstance(x, list) or x == 2 for x in labels) else ["a", "b"]
    pixels = torch.from_numpy(pixels.clip(0, 1)).float()
    dataset = ImageDataset(
        Datalist(items, classes=classes), lambda item: {"image": pixels[int(item["id"])].view(1, 2, 3)}
    )
    return dataset, LabelPool(Labels(dataset.data))


def findings(count, seed=0, known=0.8):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((count, 3)) < known, rng.integers(0, 2, (count, 3)), -1)
    labels[0] = 1, 0, 1
    return labels.tolist()


def raw(dataset, pool):
    index = pool.first.indices("labeled")
    images = dataset.images[index].float() / (255.0 if dataset.images.dtype == torch.uint8 else 1.0)
    return Pixels().embed(images).numpy(), pool.first.targets(index).numpy()


def probs_of(probe, dataset, kind):
    images = dataset.images.float() / (255.0 if dataset.images.dtype == torch.uint8 else 1.0)
    with torch.no_grad():
        outcomes = KINDS[kind]().outcomes(probe.eval()(images))
    return outcomes.numpy() if kind == "classes" else outcomes[..., 1].numpy()


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_probe_is_scikit_learn_s_regression_on_standardised_embeddings(classes):
    train, test = draw([k % classes for k in range(40)]), draw([k % classes for k in range(20)], seed=1)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=5000)).fit(*raw(*train))
    probe = linear_probe(Pixels(), *train, "cpu", inverse_penalty=0.5)
    np.testing.assert_allclose(probs_of(probe, test[0], "classes"), expected.predict_proba(raw(*test)[0]), atol=1e-5)


def test_linear_probe_of_findings_learns_each_from_its_known_labels():
    train, test = draw(findings(60)), draw(findings(20, seed=1, known=1.0), seed=1)
    rows, target = raw(*train)
    probs = probs_of(linear_probe(Pixels(), *train, "cpu"), test[0], "findings")
    scaler = StandardScaler().fit(rows)
    for k in range(3):
        known = target[:, k] >= 0
        assert 0 < known.sum() < 60
        model = LogisticRegression(max_iter=5000).fit(scaler.transform(rows[known]), target[known, k])
        expected = model.predict_proba(scaler.transform(raw(*test)[0]))[:, 1]
        np.testing.assert_allclose(probs[:, k], expected, atol=1e-5)


@pytest.mark.parametrize(("neighbours", "labeled"), [(1, 30), (20, 30), (20, 9)])
def test_nearest_neighbours_vote_as_scikit_learn_s(neighbours, labeled):
    train, test = draw([k % 3 for k in range(labeled)]), draw([k % 3 for k in range(15)], seed=1)
    model = KNeighborsClassifier(
        min(neighbours, labeled), metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    ).fit(*raw(*train))
    probs = probs_of(knn_probe(Pixels(), *train, "cpu", neighbours=neighbours), test[0], "classes")
    np.testing.assert_allclose(probs, model.predict_proba(raw(*test)[0]), atol=1e-4)
    assert np.isfinite(probs).all()


def test_neighbours_that_do_not_know_a_finding_do_not_vote():
    """Three neighbours of equal similarity; of the third finding none knows anything, of all images two thirds do."""
    embedding = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    votes = torch.tensor([[1, 1, -1], [0, -1, -1], [1, -1, -1], [0, 0, 1], [0, 0, 1], [0, 0, 0]])

    class Plain(nn.Module):
        def embed(self, images):
            return images

    kind = Findings(("a", "b", "c"))
    probe = NearestNeighbours(Plain(), embedding, kind.one_hot(votes), kind, neighbours=3)
    probs = kind.outcomes(probe(torch.tensor([[2.0, 0.0]])))[..., 1]
    torch.testing.assert_close(probs, torch.tensor([[2 / 3, 1.0, 2.5 / 4.0]]))


@pytest.mark.parametrize("kind", ["linear", "knn"])
@pytest.mark.parametrize("labels", ["classes", "findings"])
def test_figures_are_those_of_any_network(kind, labels):
    if labels == "classes":
        train, test = draw([k % 3 if k % 4 else None for k in range(60)]), draw([k % 3 for k in range(30)], seed=1)
    else:
        train, test = draw(findings(60)), draw(findings(30, seed=1), seed=1)
    found = evaluate_probe(kind, Pixels(), *train, *test, "cpu", batch_size=7)
    probe = (linear_probe if kind == "linear" else knn_probe)(Pixels(), *train, "cpu")
    expected = evaluate(probe, *test, "cpu")
    assert found.pop("probe") == {"kind": kind, "labeled": len(train[1].first.indices("labeled"))}
    assert found.keys() == expected.keys()
    for name, value in found["metrics"].items():
        assert value["value"] == pytest.approx(expected["metrics"][name]["value"], abs=1e-6), name
    assert found["n"] == 30
    assert found["metrics"]["auroc"]["value"] > 0.7
    assert not any(np.isnan(list(value.values())).any() for value in found["metrics"].values())


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_class_without_a_label_is_never_predicted(kind):
    train, test = draw([0, 2] * 10), draw([0, 1, 2] * 5, seed=1)
    probe = (linear_probe if kind == "linear" else knn_probe)(Pixels(), *train, "cpu")
    probs = probs_of(probe, test[0], "classes")
    assert (probs[:, 1] == 0.0).all()
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=1e-6)


def test_one_class_alone_is_always_predicted():
    train = draw([2] * 5)
    assert (probs_of(linear_probe(Pixels(), *train, "cpu"), train[0], "classes")[:, 2] == 1.0).all()


def test_a_finding_with_one_outcome_is_named_and_gets_one_probability(caplog):
    labels = [[1, 0, k % 2] for k in range(10)]
    labels[0][1] = -1
    train = draw(labels)
    with caplog.at_level("WARNING", "medssl_monai"):
        probs = probs_of(linear_probe(Pixels(), *train, "cpu"), train[0], "findings")
    assert [record.message[:39] for record in caplog.records] == [
        "a: 10 of 10 known labels are present, s",
        "b: 0 of 9 known labels are present, so ",
    ]
    np.testing.assert_allclose(probs[:, 0], 10.5 / 11, atol=1e-6)
    np.testing.assert_allclose(probs[:, 1], 0.5 / 10, atol=1e-6)
    assert probs[:, 2].std() > 0.05


@pytest.mark.parametrize("wrap", [lambda net: net, ProjectedClassifier, lambda net: ProjectionNetwork(net, dim=4)])
@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_every_encoder_is_probed_and_left_as_it_is(wrap, kind):
    g = torch.Generator().manual_seed(0)
    pixels = torch.rand(24, 1, 16, 16, generator=g)
    items = [{"image": "x", "id": str(i), "group": str(i), "label": i % 2} for i in range(24)]
    dataset = ImageDataset(Datalist(items, classes=["a", "b"]), lambda item: {"image": pixels[int(item["id"])]})
    pool = LabelPool(Labels(dataset.data))
    torch.manual_seed(0)
    network = wrap(small_resnet(2, width=2)).train()
    before = copy.deepcopy(network.state_dict())
    figures = evaluate_probe(kind, network, dataset, pool, dataset, pool, "cpu")
    assert figures["metrics"]["accuracy"]["value"] > 0.5
    assert network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_probe_of_no_labels_or_of_another_kind_is_refused():
    train = draw([None, None])
    with pytest.raises(ValueError, match="no image is labeled: there is nothing to fit a probe on"):
        linear_probe(Pixels(), *train, "cpu")
    with pytest.raises(ValueError, match="`kind` must be 'linear' or 'knn', got 'forest'"):
        evaluate_probe("forest", Pixels(), *train, *train, "cpu")


class Steps(Classes):
    """Labels whose head has a logit for each step from one class to the next."""

    word = "steps"

    @property
    def width(self):
        return len(self.names) - 1

    logits = Kind.logits


def test_labels_with_logits_of_their_own_need_a_probe_that_knows_them():
    dataset, pool = draw([0, 1] * 4)
    pool = LabelPool(Labels(dataset.data, kind=Steps(("a", "b"))))
    with pytest.raises(ValueError, match="a logit for each state, and steps have others; take the probe `knn`"):
        linear_probe(Pixels(), dataset, pool, "cpu")
    with pytest.raises(ValueError, match="nothing says which logits steps of given probabilities have"):
        evaluate_probe("knn", Pixels(), dataset, pool, dataset, pool, "cpu")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"neighbours": 0}, "`neighbours` must be at least 1, got 0"),
        ({"temperature": 0.0}, "`temperature` must be greater than 0, got 0.0"),
    ],
)
def test_values_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        knn_probe(Pixels(), *draw([0, 1]), "cpu", **arguments)


class TestInPlaceOfTraining:
    @pytest.mark.parametrize("kind", ["linear", "knn"])
    def test_handlers_write_what_they_write_of_a_training(self, kind, tmp_path):
        (dataset, pool), (validation, truth) = draw([0, 1, None] * 8), draw([0, 1] * 6, seed=1)
        method = Probe(kind, Pixels(), dataset, pool, "cpu")
        report = RoundReport(tmp_path, pool, dataset, method, validation, truth, every=1)
        ProbeTrainer(method, "cpu", [report]).run()
        (path,) = (tmp_path / "rounds").iterdir()
        record = json.loads(path.read_text())
        expected = evaluate(
            (linear_probe if kind == "linear" else knn_probe)(Pixels(), dataset, pool, "cpu"), validation, truth, "cpu"
        )
        assert (path.name, record["round"], record["epoch"], record["labels"]) == ("round_00.json", 0, 1, 16)
        assert record["evaluation"]["metrics"] == json.loads(json.dumps(expected["metrics"]))
        assert {"pool.json", "rounds.csv", "report.html"} <= {path.name for path in tmp_path.iterdir()}

    def test_images_that_cannot_be_read_are_not_fitted_on(self, tmp_path):
        """They are put in quarantine when the run starts, before the probe is fitted."""
        (dataset, pool), (validation, truth) = draw([0, 1] * 8), draw([0, 1] * 6, seed=1)
        dataset.unreadable[3] = "broken"
        method = Probe("knn", Pixels(), dataset, pool, "cpu")
        ProbeTrainer(method, "cpu", [RoundReport(tmp_path, pool, dataset, method, validation, truth, every=1)]).run()
        assert len(method.inference_network.bank) == 15
