"""Drive the real MONAI Label server over synthetic DICOM and NIfTI studies, by REST; `test_monailabel.sh` calls it.

A bundle that gives classes and one that gives masks are trained on a few labels, served by the app of
`medssl label-app`, and taken through what a reader does; then the second is served by MONAI Label's stock app.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import requests
from monailabel.client import MONAILabelClient

LABELED = 16
"""Images that a bundle was trained on, and as many again that the reader labels."""


def main() -> None:
    """Drive all, or one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="keep everything in this new folder")
    parser.add_argument("--only", choices=["classes", "masks", "stock"])
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="medssl-label-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("XDG_CACHE_HOME", str(folder / "cache"))
    os.environ["MEDSSL_KEY_FILE"] = str(folder / "pseudonym.key")
    started = time.monotonic()
    for name, step in (("classes", drive_classes), ("masks", drive_masks), ("stock", drive_stock)):
        if arguments.only in (None, name):
            step(folder)
    if arguments.folder is None:
        shutil.rmtree(folder)
    print(f"all steps passed, {time.monotonic() - started:.0f} s")


def say(where: str, step: str, what: str) -> None:
    """One line per step."""
    print(f"{where:8} {step:14} {what}", flush=True)


def check(condition: Any, what: str) -> None:
    """End here unless `condition`."""
    if not condition:
        raise SystemExit(f"FAILED: {what}")


# What is served


def phantom(folder: Path, kind: str) -> tuple[Path, list[dict[str, Any]]]:
    """Synthetic images of a kind, and the items of their training section."""
    if not (folder / kind).exists():
        run("medssl", "phantom", kind, folder / kind)
    return folder / kind, json.loads((folder / kind / "datalist.json").read_text())["training"]


def empty(studies: Path) -> Path:
    """Return a new folder of synthetic studies, which says that they are."""
    shutil.rmtree(studies, ignore_errors=True)
    studies.mkdir()
    (studies / "datalist.json").write_text(json.dumps({"synthetic": True, "training": []}))
    return studies


def studies_of_slices(folder: Path) -> tuple[Path, dict[str, str]]:
    """Return a folder of single DICOM and NIfTI slices, as an archive exports them, and what each shows."""
    source, items = phantom(folder, "spine2")
    studies, truth = empty(folder / "slices"), {}
    for item in items[:160]:
        image = source / item["image"]
        if image.suffix == ".dcm":
            shutil.copy(image, studies / f"{item['id']}.dcm")
        else:
            volume = nibabel.load(image)
            nibabel.save(volume.slicer[:, :, item["slice"] : item["slice"] + 1], studies / f"{item['id']}.nii.gz")
        truth[item["id"]] = ["low", "high"][item["label"]]
    return studies, truth


def studies_of_volumes(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Return a folder of NIfTI volumes and DICOM series, each a folder with the ending .dcm, and the mask of each."""
    source, items = phantom(folder, "spine_cord")
    studies, truth = empty(folder / "volumes"), {}
    for item in items[:40]:
        image = source / item["image"]
        if image.is_dir():
            shutil.copytree(image, studies / f"{item['id']}.dcm")
        else:
            shutil.copy(image, studies / f"{item['id']}.nii.gz")
        truth[item["id"]] = source / item["label"]
    return studies, truth


def trained(folder: Path, name: str, files: str, **values: Any) -> Path:
    """Return a bundle, trained for a moment."""
    bundle = folder / "bundles" / name
    if not (bundle / "models" / "model.pt").exists():
        run("medssl", "bundle", name, bundle)
        flags = [part for key, value in values.items() for part in (f"--{key}", str(value))]
        train = (sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", files)
        run(*train, "--bundle_root", ".", *flags, cwd=bundle)
    return bundle


def run(*command: Any, cwd: Path | None = None) -> None:
    """Run a command, and show what it said only if it fails."""
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"FAILED: {' '.join(map(str, command))}\n{(result.stdout + result.stderr)[-4000:]}")


# The server


class Server:
    """A server of its own on a free port of the loopback interface."""

    def __init__(self, app: Path, studies: Path, *conf: str, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}", app / "server.log"
        self.command = [
            *(sys.executable, "-W", "ignore", "-m", "monailabel.main", "start_server", "--app", str(app)),
            *("--studies", str(studies), "--host", "127.0.0.1", "--port", str(self.port)),
            *(part for pair in zip(conf[::2], conf[1::2], strict=True) for part in ("--conf", *pair)),
        ]
        self.environment = {**os.environ, **environment}

    @contextmanager
    def running(self) -> Iterator[int]:
        """Start, wait until it answers, give its process id, and stop it by that."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                self.command, cwd=self.log.parent, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                self._wait(process)
                yield process.pid
            finally:
                with suppress(requests.ConnectionError):
                    requests.delete(f"{self.url}/scoring/", timeout=60)  # its process would outlive the server's
                process.terminate()
                process.wait(timeout=60)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        for _ in range(240):
            if process.poll() is not None:
                raise SystemExit(f"FAILED: the server ended.\n{self.log.read_text()[-4000:]}")
            try:
                if requests.get(f"{self.url}/info/", timeout=30).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.5)
        raise SystemExit(f"FAILED: the server does not answer.\n{self.log.read_text()[-4000:]}")

    def task(self, kind: str, since: int = 0, limit: float = 900.0) -> dict[str, Any]:
        """Return the last background task of a kind, when none is left; `since`: at least as many must have begun."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            answer = requests.get(f"{self.url}/{kind}/", params={"all": True}, timeout=60)
            tasks = answer.json() if answer.ok else []
            if len(tasks) > since and all(task["status"] not in ("SUBMITTED", "RUNNING") for task in tasks):
                last = tasks[-1]
                check(last["status"] == "DONE", f"{kind}: {json.dumps(last, indent=1)[-3000:]}")
                return dict(last)
            time.sleep(1)
        raise SystemExit(f"FAILED: {kind} did not end within {limit:.0f} s")

    def begun(self, kind: str) -> int:
        answer = requests.get(f"{self.url}/{kind}/", params={"all": True}, timeout=60)
        return len(answer.json()) if answer.ok else 0

    def infos(self) -> dict[str, Any]:
        return dict(requests.get(f"{self.url}/datastore/?output=all", timeout=60).json()["objects"])


# What a reader does


def drive_classes(folder: Path) -> None:
    """BoostMIS over slices: labels are JSON."""
    studies, truth = studies_of_slices(folder)
    source, _ = phantom(folder, "spine2")
    bundle = trained(
        folder, "boostmis", "configs/train.yaml", datalist=source / "datalist.json", rounds=1, epochs_per_round=2,
        labels=LABELED, **{"query::budget": 0},
    )  # fmt: skip

    def save(server: Server, name: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
            json.dump({"label": truth[name]}, file)
        MONAILabelClient(server.url).save_label(name, file.name, params={})

    def predicted(server: Server, name: str) -> str:
        answer = requests.post(f"{server.url}/infer/boostmis", params={"image": name, "output": "json"}, timeout=120)
        check(answer.ok, f"infer: {answer.status_code} {answer.text}")
        scores = {one["label"]: one["score"] for one in answer.json()["prediction"]}
        check(scores.keys() == {"low", "high"} and abs(sum(scores.values()) - 1) < 1e-3, f"scores {scores}")
        return ", ".join(f"{label} {score:.3f}" for label, score in scores.items())

    def wrong(server: Server, name: str) -> Mapping[str, tuple[str, dict[str, Any]]]:
        label = {"label": ("label.json", json.dumps({"label": "medium"}))}
        return {
            "a label that is no class": (f"PUT /datastore/label?image={name}&tag=final", {"files": label}),
            "a label that is no JSON": (f"PUT /datastore/label?image={name}", {"files": {"label": ("l.json", "low")}}),
            "a mask for classes": (f"PUT /datastore/label?image={name}", {"files": {"label": ("l.nii.gz", b"x")}}),
        }

    drive("classes", folder, bundle, studies, "boostmis", list(truth), save, predicted, wrong)


def drive_masks(folder: Path) -> None:
    """SSAL over volumes: labels are masks, as 3D Slicer saves them."""
    studies, truth = studies_of_volumes(folder)
    bundle = volume_bundle(folder)

    def save(server: Server, name: str) -> None:
        segments = [{"name": "canal", "idx": 1}, {"name": "cord", "idx": 2}]  # as 3D Slicer sends them
        MONAILabelClient(server.url).save_label(name, str(truth[name]), params={"label_info": segments})

    def predicted(server: Server, name: str) -> str:
        file, answer = MONAILabelClient(server.url).infer("ssal", name, {"device": "cpu"})
        mask, drawn = nibabel.load(file), nibabel.load(truth[name])
        check(
            mask.shape == drawn.shape and np.allclose(mask.affine, drawn.affine, atol=1e-3), "the mask lies elsewhere"
        )
        return f"{Path(file).name[-7:]} {mask.shape} where its image is, {answer['shares']}"

    def wrong(server: Server, name: str) -> Mapping[str, tuple[str, dict[str, Any]]]:
        other = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)).to_bytes()
        url = f"PUT /datastore/label?image={name}"
        return {
            "a mask of another size": (url, {"files": {"label": ("mask.nii", other)}}),
            "a segment of no class": (
                url,
                {
                    "files": {"label": ("mask.nii.gz", truth[name].read_bytes())},
                    "data": {"params": json.dumps({"label_info": [{"name": "spleen", "idx": 1}]})},
                },
            ),
        }

    drive("masks", folder, bundle, studies, "ssal", list(truth), save, predicted, wrong)


def volume_bundle(folder: Path) -> Path:
    """SSAL, trained for a moment on volumes, with a mean teacher."""
    source, _ = phantom(folder, "spine_cord")
    return trained(
        folder, "ssal", "['configs/train.yaml','configs/train_3d.yaml']", datalist=source / "datalist.json", rounds=1,
        epochs_per_round=1, epoch_length=10, labels=6, method_def="@methods::mean_teacher",
        **{"query::budget": 0, "query::cold_start": 0},
    )  # fmt: skip


def drive(
    where: str,
    folder: Path,
    bundle: Path,
    studies: Path,
    model: str,
    names: list[str],
    save: Callable[[Server, str], None],
    predicted: Callable[[Server, str], str],
    wrong: Callable[[Server, str], Mapping[str, tuple[str, dict[str, Any]]]],
) -> None:
    """Return what a reader does, and what goes wrong, with the app of `medssl label-app`."""
    app = folder / f"app-{where}"
    if app.exists():
        shutil.rmtree(app)
    volumes = ["--overlay", "train_3d.yaml", "--method_def", "@methods::mean_teacher", "--epoch_length", "10"]
    trained_with = volumes if where == "masks" else []
    run("medssl", "label-app", bundle, "--output", app, *trained_with)
    say(where, "label-app", f"written with {model}")
    server = Server(app, studies, "batch", "6")
    beyond = ["0.0.0.0" if part == "127.0.0.1" else part for part in server.command]
    ended = subprocess.run(beyond, cwd=app, capture_output=True, text=True, timeout=300)
    check(ended.returncode and "`--conf public true`" in ended.stdout + ended.stderr, "it listens on all interfaces")
    say(where, "host", "refuses to listen on all interfaces")
    strategy = "entropy"
    with server.running() as pid:
        say(where, "server", f"answers, process {pid}")
        info = requests.get(f"{server.url}/info/", timeout=60).json()
        check(model in info["models"] and model in info["trainers"], f"info: {info}")
        check(info["datastore"]["total"] == len(names), f"{info['datastore']} of {len(names)} studies")
        labels, strategies = list(info["models"][model]["labels"]), sorted(info["strategies"])
        say(where, "info", f"{info['datastore']['total']} studies, labels {labels}, strategies {strategies}")

        server.task("scoring")
        scored = [name for name, study in server.infos().items() if study["image"]["info"]["medssl"]["queries"][model]]
        say(where, "scoring", f"at the start, in a process of its own; {len(scored)} studies chosen by a strategy")

        asked = [MONAILabelClient(server.url).next_sample(strategy, {}) for _ in range(3)]
        check(len({answer["id"] for answer in asked}) == 3, f"next samples {asked}")
        check(all(answer["reason"] for answer in asked), f"next samples {asked}")
        told = "; ".join(f"{answer['id']} ({answer['reason'][:10]} {answer.get('rank', '-')})" for answer in asked)
        say(where, "next sample", f"three different ones: {told}")
        diverse = MONAILabelClient(server.url).next_sample(sorted(set(strategies) - {"entropy", "random"})[0], {})
        check(diverse["id"] not in {answer["id"] for answer in asked}, "one was given out twice")

        say(where, "inference", f"{asked[0]['id']}: {predicted(server, asked[0]['id'])}")

        few = {"max_batch_size": 3, "device": "cpu"}
        requests.post(f"{server.url}/batch/infer/{model}", json=few, timeout=60).raise_for_status()
        server.task("batch/infer")
        tags = [tag for study in server.infos().values() for tag in study["labels"]]
        check(tags == ["original"] * 3, f"predictions in a batch: {tags}")
        say(where, "batch", "3 predictions are stored with the tag original")

        before = requests.get(f"{server.url}/info/", timeout=60).json()["datastore"]["completed"]
        seen = [answer["id"] for answer in asked]
        given = seen + [name for name in names[:: max(1, len(names) // LABELED)] if name not in seen]
        for name in given[:LABELED]:
            save(server, name)
        completed = requests.get(f"{server.url}/info/", timeout=60).json()["datastore"]["completed"]
        check(completed == before + LABELED, f"{completed} labels")
        say(where, "label", f"{LABELED} saved with the tag final, {completed} of {len(names)} completed")

        none, code = {"files": {"label": ("label.json", "{}")}}, {"device": f"$open({str(folder / 'x')!r}, 'w')"}
        everything = {
            "an unknown image": (f"POST /infer/{model}?image=nobody&output=json", {}),
            "a label for an unknown image": ("PUT /datastore/label?image=nobody", none),
            "an unknown model": (f"POST /infer/spleen?image={names[0]}&output=json", {}),
            "training of an unknown model": ("POST /train/spleen", {"json": {}}),
            "an unknown strategy": ("POST /activelearning/best", {"json": {}}),
            "a path for an image": (f"POST /infer/{model}?image={studies}&output=json", {}),
            "an image that is sent": (f"POST /infer/{model}?output=json", {"files": {"file": ("x.png", b"x")}}),
            "a session": ("PUT /session/", {"files": {"files": ("x.png", b"x")}}),
            "other weights": (f"PUT /model/{model}", {"files": {"file": ("model.pt", b"x")}}),
            "an unknown tag": (f"PUT /datastore/label?image={names[0]}&tag=..%2Fx", none),
            "an unknown parameter": ("POST /scoring/" + model, {"json": {"bundle_path": str(folder)}}),
            "a device that is code": (f"POST /infer/{model}?image={names[0]}", {"data": {"params": json.dumps(code)}}),
            **wrong(server, names[-1]),
        }
        for what, (request, content) in everything.items():
            method, path = request.split()
            answer = requests.request(method, server.url + path, timeout=60, **content)
            detail = answer.json().get("detail") if 400 <= answer.status_code < 500 else ""
            check(detail, f"{what}: {answer.status_code} {answer.text}")
            say(where, "wrong input", f"{what}: {answer.status_code} {detail[:150]}")
        after = requests.get(f"{server.url}/info/", timeout=60).json()["datastore"]
        check(after["completed"] == completed, "a wrong label was stored")
        check(not (folder / "x").exists(), "a request was evaluated")
        lines = [json.loads(line) for line in (studies / "labels.jsonl").read_text().splitlines()]
        finished = [line for line in lines if line["tag"] != "original"]
        check(len(finished) == LABELED, f"{len(finished)} labels are recorded")
        say(where, "record", f"{len(lines)} lines, the last: {lines[-1]}")

        version, begun = info["models"][model]["weights"], server.begun("scoring")
        order = ranks(server, model, strategy)
        requests.post(
            f"{server.url}/train/{model}", json={"max_epochs": 2, "device": "cpu"}, timeout=60
        ).raise_for_status()
        details = "\n".join(server.task("train")["details"])
        log = (app / "logs" / "app.log").read_text() if (app / "logs" / "app.log").exists() else server.log.read_text()
        line = next(line for line in log.splitlines() if " unlabeled, " in line and model in line)
        say(where, "training", line.split(") - ")[-1].strip())
        say(where, "", details.splitlines()[-1].split("Result: ")[-1])

        server.task("scoring", since=begun)
        info = requests.get(f"{server.url}/info/", timeout=60).json()
        learned = info["models"][model]["weights"]
        check(learned != version, "the weights did not change")
        check(ranks(server, model, strategy) != order, "scoring after the training changed nothing")
        again = MONAILabelClient(server.url).next_sample(strategy, {})
        check(again.get("weights", learned) == learned, f"next sample by the old weights: {again}")
        say(where, "next sample", f"{again['id']} by what was learned ({version} is now {learned}); ranks changed")
        kept = server.infos()

    with server.running() as pid:
        server.task("scoring") if server.begun("scoring") else None
        now = server.infos()
        check({n: o["labels"] for n, o in now.items()} == {n: o["labels"] for n, o in kept.items()}, "labels were lost")
        check(
            {n: o["image"]["info"]["medssl"] for n, o in now.items()}
            == {n: o["image"]["info"]["medssl"] for n, o in kept.items()},
            "scores were lost",
        )
        more = MONAILabelClient(server.url).next_sample(strategy, {})
        check(more["id"] not in {answer["id"] for answer in [*asked, again]}, "one was given out twice")
        say(
            where, "restart", f"process {pid}: {len(now)} studies, their labels and scores are there; next {more['id']}"
        )
    check(not listening(server.port), "the server still listens")
    say(where, "stop", "by its own process id")


def ranks(server: Server, model: str, strategy: str) -> dict[str, int]:
    """Return what a strategy chose, as the datastore has it."""
    found = {name: study["image"]["info"]["medssl"]["queries"][model] for name, study in server.infos().items()}
    return {name: queries[strategy]["rank"] for name, queries in found.items() if strategy in queries}


def listening(port: int) -> bool:
    """Whether a server is still there."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def drive_stock(folder: Path) -> None:
    """Bundles for masks in MONAI Label's own app, unchanged: volumes to predict, images to learn from as well."""
    source, items = phantom(folder, "lesion_mask")
    images = folder / "images"
    if images.exists():
        shutil.rmtree(images)
    (images / "labels" / "final").mkdir(parents=True)
    chosen = [item for item in items if item["image"].endswith(".png")][:30]
    for item in chosen:
        shutil.copy(source / item["image"], images / f"{item['id']}.png")
    for item in chosen[:20]:
        shutil.copy(source / item["label"], images / "labels" / "final" / f"{item['id']}.png")
    photographs = folder / "bundles" / "ssal_2d"
    if not photographs.exists():
        shutil.copytree(
            trained(
                folder / "2d", "ssal", "configs/train.yaml", datalist=source / "datalist.json", rounds=1,
                epochs_per_round=1, epoch_length=10, labels=20, **{"query::budget": 0, "query::cold_start": 0},
            ),
            photographs,
        )  # fmt: skip
    volumes, masks = studies_of_volumes(folder)
    files = [name for name in masks if (volumes / f"{name}.nii.gz").exists()]
    for bundle, studies, name in ((volume_bundle(folder), volumes, files[0]), (photographs, images, chosen[0]["id"])):
        model = bundle.name
        apps = folder / f"stock-{model}"
        if apps.exists():
            shutil.rmtree(apps)
        apps.mkdir()
        run("monailabel", "apps", "--download", "--name", "monaibundle", "--output", apps)
        app = apps / "monaibundle"
        shutil.copytree(bundle, app / "model" / model)
        off = {"BUNDLE_DOWNLOAD_SRC": "ngc", "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
        server = Server(app, studies, "models", model, "sam2", "false", **off)
        with server.running() as pid:
            info = requests.get(f"{server.url}/info/", timeout=60).json()
            check(info["models"][model]["labels"], f"info: {info}")
            say("stock", "server", f"process {pid} serves {model}, labels {info['models'][model]['labels']}")
            file, _ = MONAILabelClient(server.url).infer(model, name, {"device": "cpu"})
            if studies is volumes:
                mask, drawn = nibabel.load(file), nibabel.load(masks[name])
                check(mask.shape == drawn.shape and np.allclose(mask.affine, drawn.affine, atol=1e-3), "another place")
            say("stock", "inference", f"{name}: {Path(file).name[-7:]}")
            if studies is images:
                content = {"max_epochs": 1, "device": "cpu", "val_split": 0.2}
                requests.post(f"{server.url}/train/{model}", json=content, timeout=60).raise_for_status()
                server.task("train")
                say("stock", "training", "20 masks, no image without one: MONAI Label passes those alone")
        check(not listening(server.port), "the server still listens")


if __name__ == "__main__":
    main()
