"""The app that a MONAI Label server runs: trained bundles of this package, and what they ask for."""

from __future__ import annotations

import functools
import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import monailabel.config
import torch
from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.async_tasks.task import AsyncTask

from medssl_monai import __version__
from medssl_monai.kinds import Masks
from medssl_monai.monai_label.archive import Archive
from medssl_monai.monai_label.gate import INFER, PREDICTIONS, check_host, checked, served_at
from medssl_monai.monai_label.guard import Guard
from medssl_monai.monai_label.infer import ClassInfer, MaskInfer
from medssl_monai.monai_label.record import Record
from medssl_monai.monai_label.scoring import QueryScores
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.monai_label.storing import LabelStore, path_of
from medssl_monai.monai_label.strategy import NextImage
from medssl_monai.monai_label.studies import TAGS, incomplete
from medssl_monai.monai_label.train import Training
from medssl_monai.monai_label.writes import SafeWrites, opening

logger = logging.getLogger(__name__)

SUFFIXES = ("*.dcm", "*.jpeg")
"""What a study folder may hold beyond what MONAI Label looks for."""


class LabelApp(MONAILabelApp):  # type: ignore[misc]  # MONAI Label is untyped
    """Every bundle below ``model/``: inference, training, scoring and strategies.

    A wrong request is answered with a status and a message: 404 for an image, model or strategy that is not there, 400
    for a label that fits no bundle, which is then not stored, and for a parameter that is not known. Images go by their
    ids in the datastore, never by paths. A server that others than this machine may reach is not started.

    Args:
        app_dir: folder of the app.
        studies: folder of the studies, or address of a DICOMweb server.
        conf: ``models``: names of bundles, separated by commas (default: all); ``validation``: share of the patients
            held out to measure on (default 0.2; 0: the validation images of the bundles' own datalist); ``batch``:
            images that a strategy chooses at once (default 20); ``strategies``: which to score, as
            `ServedBundle.strategies` takes it; ``label_mb``: megabytes that a label may take, unpacked (default 512);
            ``public``: ``true`` lets the server listen beyond this machine.

    Raises:
        ValueError: if a value of `conf` is out of its range.
            Or if the classes of a bundle have names that could be read as something else.
        FileNotFoundError: if there is no bundle, or none of that name.
    """

    _infers: dict[str, Any]  # of the base class

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str] | None = None) -> None:
        conf = dict(conf or {})
        share, batch, size = (conf.get(*of) for of in (("validation", "0.2"), ("batch", "20"), ("label_mb", "512")))
        wrong = (
            "`validation` is a share in [0, 1), `batch` and `label_mb` are whole numbers from 1, got "
            f"{share!r}, {batch!r} and {size!r}."
        )
        try:
            self.share, self.batch, self.label_mb = float(share), int(batch), int(size)
        except ValueError:
            raise ValueError(wrong) from None
        if not 0.0 <= self.share < 1.0 or min(self.batch, self.label_mb) < 1:
            raise ValueError(wrong)
        if conf.get("public", "false") not in ("true", "false"):
            raise ValueError(f"`public` is true or false, got {conf['public']!r}.")
        self.served = _find(Path(app_dir) / "model", conf.get("models", ""))
        asked = conf.get("strategies", "")
        self.by_bundle = {name: served.strategies(asked) for name, served in self.served.items()}
        known = {"all", "random"}.union(*self.by_bundle.values())
        if lost := [name for name in asked.replace(",", " ").split() if name not in known]:
            raise ValueError(f"`strategies` names {lost[0]!r}, which no bundle of this app has.")
        super().__init__(
            app_dir,
            studies,
            conf,
            name=f"medssl_monai {__version__}",
            description="Label-efficient learning: " + ", ".join(self.served) + ". For research, not a medical device.",
            version=__version__,
        )
        self.label_store.take_over()

    def _download_dcmqi_tools(self) -> None:
        """MONAI Label loads an old release from GitHub; the package ``dcmqi`` has a newer one."""
        if not shutil.which("itkimage2segimage"):
            raise FileNotFoundError(
                "masks are stored in a DICOMweb archive by `itkimage2segimage`, which is not in PATH: `pip install "
                "dcmqi`, and activate the environment before the server is started."
            )

    def init_datastore(self) -> Any:
        """Return MONAI Label's datastore, which finds DICOM files, loses no change, and takes labels that fit."""
        settings = monailabel.config.settings
        known = list(settings.MONAI_LABEL_DATASTORE_FILE_EXT)
        settings.MONAI_LABEL_DATASTORE_FILE_EXT = known + [suffix for suffix in SUFFIXES if suffix not in known]
        with opening(self.studies):
            store = super().init_datastore()
        self.writes = SafeWrites(store)
        self.archive = Archive(store, self.writes) if isinstance(store, DICOMWebDatastore) else None
        self.writes.adopt((*TAGS, PREDICTIONS))
        record = Record(Path(store._datastore_config_path).parent)
        self.guard = Guard(store, record)
        self.label_store = LabelStore(store, self.served, self.writes, self.archive, record, self.label_mb)
        return store

    def server_mode(self, mode: bool) -> None:
        """MONAI Label calls this before it serves requests; from here on they are checked.

        Raises:
            ValueError: if others than this machine may reach the server, and `conf` does not say that this is meant.
        """
        if mode and self.conf.get("public") != "true":
            check_host(served_at(sys.argv))
        super().server_mode(mode)
        if not mode:
            return
        if not monailabel.config.settings.MONAI_LABEL_CORS_ORIGINS:
            logger.warning(
                "any web page that a reader has open may ask this server; set MONAI_LABEL_CORS_ORIGINS to the address "
                "that readers use (docs/monai-label.md)."
            )
        run = getattr(AsyncTask.run, "__wrapped__", AsyncTask.run)
        AsyncTask.run = staticmethod(functools.wraps(run)(functools.partial(self._run, run)))

    def _run(
        self,
        run: Callable[..., Any],
        method: str,
        request: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Any:
        """Start a task; MONAI Label would put what is asked for into the environment of its process.

        Who asks for all models names the parameters of each, which `request` has already.
        """
        models = self._trainers.keys() | self._scoring_methods.keys()
        values = {
            key: value for key, value in (params or {}).items() if not (key in models and isinstance(value, Mapping))
        }
        return run(method, request=self._asked(method, {**(request or {}), **values}), **named)

    def _asked(self, kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request with nothing but what it may say; else 400."""
        try:
            return checked(kind, request)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

    def sessions(self) -> Any:
        """None: they would be images that are in no datastore."""
        raise HTTPException(406, "this app has no sessions: it serves the images of its datastore, by their ids.")

    def model_file(self, model: str, validate: bool = True) -> Any:
        """Return the weights to download; MONAI Label asks without `validate` before it replaces them by an upload."""
        if not validate:
            raise HTTPException(403, "weights come from trainings and from `medssl label-app`, not from requests.")
        return super().model_file(model, validate)

    def infer_wsi(self, request: Any, datastore: Any = None) -> Any:
        raise HTTPException(400, "no model of this app is for whole slides; ask for /infer/.")

    def init_infers(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, served in self.served.items():
            if not served.weights.exists():
                logger.warning(f"{name} is not trained: it predicts nothing yet, and its strategies choose at random.")
                continue
            if served.mask_classes and "mask" in served.outputs:
                found[name] = MaskInfer(served, self.conf)
            if served.classes and "label" in served.outputs:
                found[f"{name}_classes" if name in found else name] = ClassInfer(served, self.conf)
        return found

    def init_trainers(self) -> dict[str, Any]:
        return {name: Training(served, self.conf, self.share, self.studies) for name, served in self.served.items()}

    def init_scoring_methods(self) -> dict[str, Any]:
        return {
            name: QueryScores(served, self.by_bundle[name], self.writes, self.batch, self.share, self.studies)
            for name, served in self.served.items()
        }

    def init_strategies(self) -> dict[str, Any]:
        """Those of every bundle, with its name before theirs if there are several; and ``random``."""
        found = {"random": NextImage(list(self.served.values()), "random", self.share)}
        for bundle, served in self.served.items():
            for name in self.by_bundle[bundle]:
                found[name if len(self.served) == 1 else f"{bundle}_{name}"] = NextImage([served], name, self.share)
        found["random"].choices = list(found)  # OHIF asks for "random" whatever is selected, but sends this option
        return found

    def _take_up(self) -> None:
        """Serve what was trained for the first time since the server was started."""
        if any(served.weights.exists() and name not in self._infers for name, served in self.served.items()):
            self._infers = self.init_infers()

    def info(self) -> dict[str, Any]:
        self._take_up()
        return dict(super().info())

    def infer(self, request: Any, datastore: Any = None) -> Any:
        """Predict an image of the datastore; MONAI Label would take a path wherever there is a file of that name."""
        self._take_up()
        request = self._asked("infer", request)
        _look_up("model", request.get("model"), self._infers)
        image = request.get("image")
        path = path_of(self.datastore(), image)
        save, tag = request.pop("save_label", False), request.pop("label_tag", PREDICTIONS)
        try:
            if reason := self._incomplete(image, self._infers[request["model"]].served.dimensions):
                raise ValueError(reason)
            result = super().infer({**request, "image": path, "to_file": save}, datastore)
        except (ValueError, OSError) as error:  # of the image: it is no fault of the server
            reason = str(getattr(error, "reason", error))
            raise HTTPException(422, f"{image}: {reason.replace(path, image)}") from error
        if save and result.get("file"):
            said = {name: request[name] for name in ("client_id",) if name in request}
            info = {"model": request["model"], "params": result["params"], **said}
            result["label"] = self.datastore().save_label(image, result["file"], tag, info)
        return result

    def batch_infer(self, request: Any, datastore: Any = None) -> Any:
        """Predict many images; one that cannot be read is passed over, with its reason in the log."""
        self._take_up()
        request = self._asked("batch_infer", _as_sent(request))
        several = {"multi_gpu": torch.cuda.is_available()}  # MONAI Label's default shares the work among no GPUs
        return self._batch_infer({**several, **request}, datastore or self.datastore(), self._infer_or_pass)

    def _infer_or_pass(self, request: Any, datastore: Any = None) -> Any:
        try:
            return self.infer({name: request[name] for name in INFER.keys() & request.keys()}, datastore)
        except HTTPException as error:
            logger.warning(f"no prediction: {error.detail}")
            return {}

    def train(self, request: Any) -> Any:
        return super().train(checked("train", _as_sent(request)))

    def scoring(self, request: Any, datastore: Any = None) -> Any:
        return super().scoring(checked("scoring", _as_sent(request)), datastore)

    def next_sample(self, request: Any) -> Any:
        request = self._asked("activelearning", request)
        _look_up("strategy", request.get("strategy") or "random", self._strategies)
        self.label_store.take_over()
        self.writes.read()
        return super().next_sample(request)

    def bundle_path(self, model: str | None) -> Any:
        if model is not None:  # MONAI Label asks for it before it starts a training
            _look_up("model", model, {**self._infers, **self._trainers})
        return super().bundle_path(model)

    def async_scoring(self, method: str | None, params: Any = None) -> Any:
        """Score; without a `method`, what is due and not scored already."""
        if method is not None:
            return super().async_scoring(method, params)
        tasks = AsyncTask.status("scoring", all=True)[0] or []
        running = {task["request"].get("method") for task in tasks if task["status"] in ("SUBMITTED", "RUNNING")}
        self.writes.read()
        return {
            name: super(LabelApp, self).async_scoring(name, params)
            for name, scoring in self._scoring_methods.items()
            if name not in running and scoring.due(self.datastore())
        }

    def _incomplete(self, image: str, dimensions: int) -> str | None:
        """Say why a study of a folder is only a part of its volume."""
        if self.archive:
            return None
        store = self.datastore()
        paths = {name: Path(store.get_image_uri(name)) for name in store.list_images()}
        return incomplete(paths, dimensions == 3).get(image)


def _as_sent(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request without what MONAI Label adds for its processes."""
    return {name: value for name, value in request.items() if name not in ("bundle_path", "local_rank")}


def _find(folder: Path, models: str) -> dict[str, ServedBundle]:
    there = sorted(path.parent.parent for path in folder.glob("*/configs/train.yaml"))
    found = {path.name: ServedBundle(path) for path in there}
    wanted = models.replace(",", " ").split() or list(found)
    if lost := [name for name in wanted if name not in found]:
        raise FileNotFoundError(f"`models` names {lost[0]!r}, and {folder} has {list(found)}.")
    if not found:
        raise FileNotFoundError(f"{folder} has no bundle; add one: medssl label-app BUNDLE --output {folder.parent}")
    for name in wanted:
        found[name].label_kind.renamed(found[name].classes).check(f"the bundle {name!r}")
        Masks(tuple(found[name].mask_classes)).check(f"the bundle {name!r}")
    return {name: found[name] for name in wanted}


def _look_up(what: str, name: Any, there: Mapping[str, Any]) -> None:
    if name not in there:
        raise HTTPException(404, f"there is no {what} {name!r}; there are {sorted(there)}.")
