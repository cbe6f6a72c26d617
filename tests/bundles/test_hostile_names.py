"""Names from data on every road to MONAI's evaluation: what it would evaluate is refused, and what is odd stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medssl_monai.asking.record import read_query
from medssl_monai.bundle.facts import classes_of
from medssl_monai.bundle.features import write_features
from medssl_monai.bundle.loop import run_loop
from medssl_monai.bundle.metadata import metadata_of
from medssl_monai.bundle.run import workflow
from medssl_monai.data import load_datalist
from medssl_monai.engines import SSLTrainer
from medssl_monai.files import read_json
from medssl_monai.monai_label import write_app
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.networks import weights_metadata
from medssl_monai.prepare.prepare import prepare
from medssl_monai.tables import Table

pytestmark = pytest.mark.slow

TINY = {"rounds": 2, "epochs_per_round": 1, "epoch_length": 1, "labels": 14, "query::budget": 2}
ODD = ["a $b", "50%", "x@y", "risk: @1", "a::b", "a#b", "_target_", "-", "+", "-1", "<b>&", "none", "?;"]
"""Names of classes, each of which looks like somebody's syntax."""
ODD_IDS = ["-{}", "'=1+{}", "a $b{}", "x@y#{}", "50%/{}", "<b>{}", "a::{}", 'läsion, "{}"']


@pytest.fixture
def listed(toy_datalist: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the toy datalist by hand, as `json` does, after a change."""

    def _listed(change: Callable[[dict[str, Any]], object], name: str = "datalist.json") -> Path:
        content = json.loads(toy_datalist.read_text())
        for item in (item for section in ("training", "validation", "testing") for item in content[section]):
            item["image"] = str(toy_datalist.parent / item["image"])
        change(content)
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return _listed


@pytest.fixture
def broken_off(run_bundle: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a bundle until its second step, which never ends."""

    def _broken_off(**values: Any) -> None:
        iteration, steps = SSLTrainer._iteration, []

        def stop(self, engine, batch):
            steps.append(1)
            if len(steps) == 2:
                raise InterruptedError("power cut")
            return iteration(self, engine, batch)

        with monkeypatch.context() as patch:
            patch.setattr(SSLTrainer, "_iteration", stop)
            with pytest.raises(RuntimeError, match="train::trainer"):
                run_bundle(**values)

    return _broken_off


def places(name: str) -> Iterator[tuple[str, Callable[[dict[str, Any]], object]]]:
    """Where in a datalist a name may stand."""
    yield "labels", lambda content: content["labels"].update({"1": name})
    yield "mask_classes", lambda content: content.update(mask_classes=["background", name])
    yield "modality", lambda content: content.update(modality={"0": name})
    yield "name", lambda content: content.update(name=name)
    for key in ("id", "group", "source"):
        yield key, lambda content, key=key: content["training"][3].update({key: name})


def test_no_road_takes_a_name_that_would_be_evaluated(
    run_bundle, broken_off, own_bundle, tiny, listed, infer, tmp_path
):
    bundle, weights = own_bundle("boostmis"), tmp_path / "run" / "models" / "model.pt"
    good = listed(lambda content: None)
    broken_off(datalist=str(good), **TINY)
    metadata = (bundle / "configs" / "metadata.json").read_bytes()
    values = {k: v for k, v in tiny(**TINY).items() if k not in ("output_dir", "ckpt_dir", "rounds")}

    def train(path):
        run_bundle(folder="new", datalist=path, **TINY)

    def resume(path):
        run_bundle(datalist=path, **TINY)

    def evaluate(path):
        run_bundle(folder="new", overlays=("evaluate.yaml",), datalist=path, weights=str(weights), **TINY)

    def inference(path):
        infer("boostmis", datalist=path, weights=str(weights))

    def features(path):
        write_features(bundle, path, tmp_path / "features", {"weights": str(weights), "device": "cpu"})

    def loop(path):
        run_loop(bundle, tmp_path / "loop", rounds=2, overrides={**values, "datalist": path})

    def label_app(path):
        write_app(tmp_path / "app", [bundle], overrides={"datalist": path})

    trap = tmp_path / "EXECUTED"
    expression = f"$open({str(trap)!r}, 'w')"
    hostile = [(expression, *place) for place in places(expression)]
    for name in ("@risk", "%" + str(good), "$import this", "=cmd()", "x@##y"):
        hostile += [(name, *next(places(name)))]
    for road in (train, resume, evaluate, inference, features, loop, label_app):
        for name, place, change in hostile:
            path = listed(change, "hostile.json")
            with pytest.raises((ValueError, RuntimeError)) as found:
                road(str(path))
            error: BaseException = found.value
            while error.__cause__:
                error = error.__cause__
            assert isinstance(error, ValueError), (road, place, error)
            assert repr(name)[1:10] in str(error) and "rename it" in str(error), (road, place, error)
            assert not trap.exists(), (road, place)
    assert (bundle / "configs" / "metadata.json").read_bytes() == metadata
    made = {path.name for path in tmp_path.iterdir()}
    assert made.isdisjoint({"new", "features", "predicted"})
    assert not any((tmp_path / "loop").glob("*/*.json"))
    resume(str(good))  # the run that was there goes on as it was
    assert (tmp_path / "run" / "report.html").exists()


def test_names_that_only_look_odd_arrive_everywhere_as_they_are(
    run_bundle, broken_off, own_bundle, tiny, listed, tmp_path
):
    def odd(content):
        content["labels"] = {str(index): name for index, name in enumerate(ODD)}
        content["modality"] = {"0": "T1 $w"}
        content["name"] = "a $set <of> 50%"
        for place, section in enumerate(("training", "validation", "testing")):
            for number, item in enumerate(content[section], start=1000 * place):
                item["label"] = number % len(ODD)
                item["id"] = ODD_IDS[number % len(ODD_IDS)].format(number)
                item["group"] = f"a $<g>#{number // 4}"
                item["source"] = "a $b"

    path = listed(odd)
    ids = [item["id"] for item in load_datalist(path)]
    bundle = own_bundle("boostmis")
    models = bundle / "models"
    weights = models / "model.pt"
    values = {**TINY, "datalist": str(path), "ckpt_dir": str(models)}
    broken_off(**values)
    run_bundle(**values)
    run_bundle(overlays=("evaluate.yaml",), folder="measured", weights=str(weights), **values)

    channels = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    assert list(channels["outputs"]["pred"]["channel_def"].values()) == ODD
    assert weights_metadata(weights)["classes"] == ODD
    run = tmp_path / "run"
    assert read_json(run / "pool.json")["names"] == ODD
    assert set(read_json(run / "pool.json")["labels"]) <= set(ids)
    asked = read_query(run / "queries" / "round_00.json")
    table = Table.read(run / "queries" / "round_00.csv")
    assert asked["parts"]["label"]["names"] == ODD and {item["id"] for item in asked["items"]} <= set(ids)
    assert {item["predicted"] for item in asked["items"]} <= set(ODD)
    assert [row["id"] for _, row in table.rows] == [item["id"] for item in asked["items"]]
    assert list(read_json(tmp_path / "measured" / "metrics.json")["per_class"]) == ODD
    page = (run / "report.html").read_text()
    assert "&lt;b&gt;&amp;" in page and "a $set &lt;of&gt; 50%" in page and "<b>" not in page

    out = tmp_path / "predicted"
    settings = {"bundle_root": str(bundle), "output_dir": str(out), "device": "cpu", "datalist": str(path)}
    flow = workflow([bundle / "configs" / "inference.json"], "infer", logging_file=False, **settings)
    flow.initialize()
    flow.run()
    probabilities = Table.read(out / "probabilities.csv")
    assert probabilities.header == ["id", *ODD, "predicted", "error", "model"]
    assert [row["id"] for _, row in probabilities.rows] == [item["id"] for item in load_datalist(path, "testing")]
    assert {row["predicted"] for _, row in probabilities.rows} <= set(ODD)
    starts = [line.lstrip('"')[:1] for line in (out / "probabilities.csv").read_text().splitlines()]
    assert not set(starts) & set("=+-@")

    write_features(bundle, path, tmp_path / "features", {"device": "cpu"})
    again = load_datalist(prepare(tmp_path / "features", tmp_path / "prepared"))
    assert list(again.classes) == ODD
    assert [(item["id"], item["group"]) for item in again] == [(i["id"], i["group"]) for i in load_datalist(path)]

    own = {k: v for k, v in tiny(**values).items() if k not in ("output_dir", "ckpt_dir", "rounds")}
    for folder in ("$loop", "@loop"):  # a person's own folder, which the configuration gets as a value
        assert run_loop(bundle, tmp_path / folder, rounds=2, overrides=own)
        assert read_json(tmp_path / folder / "round_01" / "labels.json")["names"] == ODD
    with pytest.raises(ValueError, match="holds '#', which MONAI's configurations replace; give the folder another"):
        run_loop(bundle, tmp_path / "a#b", rounds=1, overrides=own)

    served = ServedBundle(write_app(tmp_path / "app", [bundle], overrides={"datalist": str(path)}) / "model/boostmis")
    assert served.classes == classes_of([], metadata_of(bundle)) == ODD
