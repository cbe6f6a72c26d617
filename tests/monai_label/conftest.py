"""Stand-ins for what `medssl_monai.monai_label` imports of MONAI Label 0.8.5, which has an environment of its own.

They do what the real ones do where this package builds on it; `MEDSSL_MONAILABEL=real` runs the same tests with those.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from monai.bundle import ConfigParser
from monai.transforms import LoadImaged
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medssl_monai.bundle.run import workflow
from medssl_monai.bundle.shipped import copy_bundle
from medssl_monai.data import write_datalist
from medssl_monai.monai_label import write_app

OWN = ("app", "archive", "infer", "scoring", "storing", "strategy", "train")
"""Modules of `medssl_monai.monai_label` that import MONAI Label."""


# ---- stand-ins -------------------------------------------------------------------------------------------------------


class HTTPException(Exception):  # noqa: N818
    def __init__(self, status_code, detail=None):
        super().__init__(status_code, detail)
        self.status_code, self.detail = status_code, detail


class InferType(StrEnum):
    SEGMENTATION = "segmentation"
    CLASSIFICATION = "classification"


@dataclass
class Data:
    ext: str
    info: dict


@dataclass
class Entry:
    image: Data
    labels: dict[str, Data] = field(default_factory=dict)


class LocalDatastore:
    """Images by suffix in a folder, labels below ``labels/TAG``; each process writes all that it remembers."""

    def __init__(self, datastore_path, extensions=("*.nii.gz",), auto_reload=False, read_only=False):
        self._extensions = [extensions] if isinstance(extensions, str) else extensions
        self.folder, self.extensions = Path(datastore_path), [pattern.replace("*", "") for pattern in extensions]
        self._datastore_config_path = str(self.folder / "datastore_v2.json")
        self._datastore, self._config_ts = self._model(), 0.0
        for tag in ("final", "original"):
            (self.folder / "labels" / tag).mkdir(parents=True, exist_ok=True)
        self._reconcile_datastore()

    def _model(self):
        return SimpleNamespace(objects={}, label_path=lambda tag: str(self.folder / "labels" / tag))

    def _init_from_datastore_file(self, throw_exception=False):
        path = Path(self._datastore_config_path)
        if path.exists() and path.stat().st_mtime != self._config_ts:
            self._datastore = self._model()
            for name, entry in json.loads(path.read_text())["objects"].items():
                labels = {tag: Data(**label) for tag, label in entry["labels"].items()}
                self._datastore.objects[name] = Entry(Data(**entry["image"]), labels)
            self._config_ts = path.stat().st_mtime

    def _update_datastore_file(self, lock=True):
        objects = {name: asdict(entry) for name, entry in self._datastore.objects.items()}
        Path(self._datastore_config_path).write_text(json.dumps({"objects": objects}))
        self._config_ts = os.stat(self._datastore_config_path).st_mtime

    def _reconcile_datastore(self):
        self._init_from_datastore_file()
        objects = self._datastore.objects
        for name in [name for name in objects if not Path(self.get_image_uri(name)).exists()]:
            del objects[name]
        for name, entry in objects.items():
            files = {tag: Path(LocalDatastore.get_label_uri(self, name, tag)) for tag in entry.labels}
            entry.labels = {tag: one for tag, one in entry.labels.items() if files[tag].exists()}
        for file in sorted(os.listdir(self.folder)):
            if file.endswith(tuple(self.extensions)):
                name, suffix = self._to_id(file)
                objects.setdefault(name, Entry(Data(suffix, {"ts": int(time.time()), "name": file})))
        self._update_datastore_file()

    def _to_id(self, file):
        suffix = next((suffix for suffix in self.extensions if file.endswith(suffix)), "".join(Path(file).suffixes))
        return file.replace(suffix, ""), suffix

    def refresh(self):
        self._reconcile_datastore()

    def status(self):
        tags = Counter(tag for entry in self._datastore.objects.values() for tag in entry.labels)
        return {"total": len(self.list_images()), "completed": len(self.get_labeled_images()), "label_tags": dict(tags)}

    def list_images(self):
        return list(self._datastore.objects)

    def get_labeled_images(self, label_tag=None, labels=None):
        return [name for name, entry in self._datastore.objects.items() if "final" in entry.labels]

    def get_image_uri(self, image_id):
        entry = self._datastore.objects.get(image_id)
        return os.path.realpath(self.folder / f"{image_id}{entry.image.ext}") if entry else ""

    def get_image_info(self, image_id):
        entry = self._datastore.objects.get(image_id)
        return {**copy.deepcopy(entry.image.info), "path": self.get_image_uri(image_id)} if entry else {}

    def get_label_uri(self, label_id, label_tag):
        entry = self._datastore.objects.get(label_id)
        label = entry.labels.get(label_tag) if entry else None
        return os.path.realpath(self.folder / "labels" / label_tag / f"{label_id}{label.ext}") if label else ""

    def get_label_info(self, label_id, label_tag):
        entry = self._datastore.objects.get(label_id)
        return entry.labels[label_tag].info if entry and label_tag in entry.labels else {}

    def get_unlabeled_images(self, label_tag=None, labels=None):
        return [name for name in self.list_images() if name not in self.get_labeled_images()]

    def save_label(self, image_id, label_filename, label_tag, label_info):
        _, suffix = self._to_id(os.path.basename(label_filename))
        target = self.folder / "labels" / label_tag / f"{image_id}{suffix}"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(label_filename, target)
        info = {**(label_info or {}), "ts": int(time.time()), "name": target.name}
        self._datastore.objects[image_id].labels[label_tag] = Data(suffix, info)
        self._update_datastore_file()
        return image_id

    def remove_label(self, label_id, label_tag):
        Path(self.get_label_uri(label_id, label_tag)).unlink()
        self.refresh()

    def add_image(self, image_id, image_filename, image_info):
        name, suffix = self._to_id(os.path.basename(image_filename))
        image_id = image_id or name
        shutil.copy(image_filename, os.path.realpath(os.path.join(self.folder, image_id + suffix)))
        info = {**(image_info or {}), "ts": int(time.time()), "name": image_id + suffix}
        self._datastore.objects[image_id] = Entry(Data(suffix, info))
        self._update_datastore_file()
        return image_id

    def remove_image(self, image_id):
        Path(self.get_image_uri(image_id)).unlink()
        self.refresh()

    def update_image_info(self, image_id, info):
        self._datastore.objects[image_id].image.info.update(info)
        self._update_datastore_file()

    def update_label_info(self, label_id, label_tag, info):
        self._datastore.objects[label_id].labels[label_tag].info.update(info)
        self._update_datastore_file()


def load_bundle_config(self, path, config):
    parser = ConfigParser()
    parser.read_config(config)
    parser.config.update({"bundle_root": path})
    return parser


def name_to_device(device):
    """A name that it does not know, it gives back."""
    name = (device if isinstance(device, str) else device[0]) if device else "cpu"
    return "cpu" if name.startswith("cuda") else name


class Main:
    """The command line of ``monailabel``, as far as hosts go."""

    def args_parser(self, name="monailabel"):
        parser = argparse.ArgumentParser(name)
        commands = parser.add_subparsers()
        server = commands.add_parser("start_server")
        for flags in (("-a", "--app"), ("-s", "--studies"), ("-p", "--port")):
            server.add_argument(*flags)
        server.add_argument("-i", "--host", default="0.0.0.0")
        server.add_argument("-c", "--conf", nargs=2, action="append")
        server.set_defaults(action="start_server")
        return parser


class BundleInferTask:
    """Preprocessing, network and inferer of ``inference.json``; the weights are read when their file's time changes."""

    _load_bundle_config = load_bundle_config

    def __init__(self, path, conf, const=None, type="", add_post_restore=True, load_strict=False, **kwargs):  # noqa: A002
        assert not add_post_restore, "fails on what has no voxels, and with a channel of its own on what has"
        self.bundle_config = self._load_bundle_config(path, os.path.join(path, "configs", "inference.json"))
        self.path = os.path.join(path, "models", "model.pt")
        self.network = self.bundle_config.get_parsed_content("network_def", instantiate=True)
        about = json.loads(Path(path, "configs", "metadata.json").read_text())
        self.dimension = len(about["network_data_format"]["inputs"]["image"]["spatial_shape"])
        self.type, self.description, self.load_strict = type, about.get("description"), load_strict
        self.input_key, self.output_label_key = "image", "pred"
        self._config = {"device": ["cpu"], "model_filename": sorted(os.listdir(os.path.dirname(self.path)), key=len)}
        self._networks = {}

    def info(self):
        named = ("type", "labels", "dimension", "description")
        return {**{name: getattr(self, name) for name in named}, "config": self._config}

    def _part(self, name, data):
        self.bundle_config.config["device"] = data["device"]
        return self.bundle_config.get_parsed_content(name, instantiate=True)

    def pre_transforms(self, data=None):
        transforms = self._part("preprocessing", data).transforms
        for transform in transforms:
            if isinstance(transform, LoadImaged):
                transform._loader.image_only = False
        return transforms

    def inferer(self, data=None):
        return self._part("inferer", data)

    def post_transforms(self, data=None):
        return self._part("postprocessing", data).transforms

    def _get_network(self, device, data):
        path = self.path
        if names := self._config.get("model_filename") and data["model_filename"]:
            path = os.path.join(os.path.dirname(path), names if isinstance(names, str) else names[0])
        cached, changed = self._networks.get(device), os.stat(path).st_mtime
        if cached is None or cached[1] != changed:
            network = copy.deepcopy(self.network)
            network.load_state_dict(torch.load(path, map_location=device), strict=self.load_strict)
            cached = self._networks[device] = network.eval(), changed
        return cached[0]

    def run_inferer(self, data, convert_to_batch=True, device="cuda"):
        inferer, network = self.inferer(data), self._get_network(device, data)
        with torch.no_grad():
            data[self.output_label_key] = inferer(data[self.input_key][None], network)[0]
        return data

    def __call__(self, request, callbacks=None):
        data = {**copy.deepcopy(self._config), **request, "image_path": request["image"]}
        data["device"] = name_to_device(data["device"])
        for transform in self.pre_transforms(data):
            data = transform(data)
        data = self.run_inferer(data, device=data["device"])
        for transform in self.post_transforms(data):
            data = transform(data)
        if data.get("skip_writer"):
            return None, dict(data)
        file, result = self.writer(data)
        result |= {"label_names": self.labels, "latencies": {}, "centroids": {}}
        return file, result


class BundleTrainTask:
    _load_bundle_config = load_bundle_config

    def __init__(self, path, conf, const=None, **kwargs):
        self.bundle_path, self.conf = path, conf
        self.bundle_config = self._load_bundle_config(path, os.path.join(path, "configs", "train.yaml"))
        about = json.loads(Path(path, "configs", "metadata.json").read_text())
        self.description, self.version = about.get("description", ""), about.get("version")

    def info(self):
        return {"description": self.description, "config": self.config(), "version": self.version}

    def config(self):
        return {"device": ["cpu"], "pretrained": True, "max_epochs": 50, "val_split": 0.2, "multi_gpu": True}

    def stats(self):
        return {}


class Described:
    """`ScoringMethod` and `Strategy`."""

    def __init__(self, description):
        self.description = description

    def info(self):
        return {"description": self.description}


class AsyncTask:
    """Starts processes; tests say what it answers."""

    @staticmethod
    def run(method, request=None, params=None, force_sync=False, enqueue=False):
        raise NotImplementedError

    @staticmethod
    def status(method, all=False, check_if_running=False):  # noqa: A002
        return None, "No tasks found"


class MONAILabelApp:
    def __init__(self, app_dir, studies, conf, name="", description="", version="2.0", labels=None):
        self.app_dir, self.studies, self.conf = app_dir, studies, conf or {}
        self.name, self.description, self.version, self.labels = name, description, version, labels
        self._datastore = self.init_datastore()
        self._infers, self._trainers = self.init_infers(), self.init_trainers()
        self._strategies, self._scoring_methods = self.init_strategies(), self.init_scoring_methods()
        self._auto_update_scoring, self._server_mode = settings().MONAI_LABEL_AUTO_UPDATE_SCORING, False

    def init_datastore(self):
        if self.studies.startswith("http"):
            self._download_dcmqi_tools()
            cache = settings().MONAI_LABEL_DICOMWEB_CACHE_PATH
            return DICOMWebDatastore(DICOMwebClientX(), {"Modality": "MR"}, cache)
        return LocalDatastore(self.studies, extensions=settings().MONAI_LABEL_DATASTORE_FILE_EXT)

    def datastore(self):
        return self._datastore

    def server_mode(self, mode):
        self._server_mode = mode

    def info(self):
        parts = {"models": self._infers, "trainers": self._trainers}
        parts |= {"strategies": self._strategies, "scoring": self._scoring_methods}
        infos = {part: {name: task.info() for name, task in tasks.items()} for part, tasks in parts.items()}
        stats = {name: task.stats() for name, task in self._trainers.items()}
        return {
            **{name: getattr(self, name) for name in ("name", "description", "version")},
            **infos,
            "labels": [label for info in infos["models"].values() for label in info["labels"]],
            "train_stats": stats,
            "datastore": self._datastore.status(),
        }

    def infer(self, request, datastore=None):
        task, image_id, store = self._infers[request["model"]], request["image"], datastore or self._datastore
        request = {**request, "description": task.description}
        if os.path.exists(image_id):
            request["save_label"] = False
        else:
            request["image"] = store.get_image_uri(image_id)
        file, result = task(request)
        label = file
        if file and request.get("save_label"):
            info = {"model": request["model"], "params": result}
            label = store.save_label(image_id, file, request.get("label_tag", "original"), info)
        return {"label": label, "tag": "original", "file": file, "params": result}

    @staticmethod
    def _batch_infer(request, datastore, infer):
        assert not request.get("multi_gpu", True), "without a GPU the work is shared among none"
        images, tag = request.get("images", "all"), request.get("label_tag", "original")
        if isinstance(images, str):
            images = datastore.get_unlabeled_images() if images == "unlabeled" else datastore.list_images()
        own = {"save_label": True, "label_tag": tag, "logging": request.get("logging", "INFO")}
        return {
            name: infer({**request, **own, "_id": number, "_image_id": name, "image": name}, datastore)
            for number, name in enumerate(sorted(images))
        }

    def train(self, request):
        result = self._trainers[request["model"]](copy.deepcopy(request), self._datastore)
        if self._auto_update_scoring:
            self.async_scoring(None)
        return result

    def scoring(self, request, datastore=None):
        return self._scoring_methods[request["method"]](copy.deepcopy(request), datastore or self._datastore)

    def next_sample(self, request):
        found = self._strategies[request.get("strategy") or "random"](request, self._datastore)
        if not found or not found.get("id"):
            return {}
        found["path"] = self._datastore.get_image_uri(found["id"])
        if self._auto_update_scoring:
            self.async_scoring(None)
        return found

    def async_scoring(self, method, params=None):
        task = sys.modules["monailabel.utils.async_tasks.task"].AsyncTask
        methods = [method] if method else list(self._scoring_methods)
        assert self._server_mode, "in a process of its own it asks the server"
        result = {
            name: task.run("scoring", request={"method": name}, params=params, enqueue=True)[0] for name in methods
        }
        return result[method] if method else result

    def bundle_path(self, model):
        task = self._trainers.get(model)
        return task.bundle_path if task else None

    def on_save_label(self, image_id, label_id):
        pass

    def model_file(self, model, validate=True):
        task = self._infers.get(model)
        return task.path if task and (not validate or os.path.exists(task.path)) else None


class DICOMwebClientX:
    """Of an archive in memory: a series is one instance, whose document is its voxels as NIfTI."""

    series: dict[str, FileDataset]

    def search_for_series(self, search_filters):
        wanted = search_filters.items()
        found = [ds for ds in self.series.values() if wanted <= {key: ds.get(key) for key in search_filters}.items()]
        return [ds[0x00080000:0x00210000].to_json_dict() for ds in found]

    def retrieve_series(self, study_instance_uid, series_instance_uid):
        found = self.series[series_instance_uid]
        assert found.StudyInstanceUID == study_instance_uid
        return [found]

    def add(self, voxels, **elements):
        """Store a NIfTI image as a series; returns its UID."""
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset("", {}, preamble=bytes(128), file_meta=meta, is_implicit_VR=False, is_little_endian=True)
        uid = f"1.2.{len(self.series) + 1}"
        usual = {"SeriesInstanceUID": uid, "StudyInstanceUID": f"{uid}.0", "Modality": "MR", "PatientID": uid}
        for key, value in {**usual, **elements, "EncapsulatedDocument": voxels.to_bytes()}.items():
            setattr(ds, key, value)
        self.series[str(ds.SeriesInstanceUID)] = ds
        return str(ds.SeriesInstanceUID)

    def add_seg(self, image_id, mask, names, **elements):
        """Store a mask, whose values are numbers of segments from 1 on, as SEG of a series; returns its UID."""
        image, segments = Dataset(), []
        image.SeriesInstanceUID = image_id
        for number, name in enumerate(names, 1):
            segments.append(Dataset())
            segments[-1].SegmentNumber, segments[-1].SegmentLabel = number, name
        usual = {"Modality": "SEG", "ReferencedSeriesSequence": [image], "SegmentSequence": segments}
        return self.add(mask, **{**usual, **elements})


class DICOMWebDatastore(LocalDatastore):
    """Series of an archive, as it was at the start (for two hours), in a cache; labels go by the id of a SEG."""

    def __init__(self, client, search_filter, cache_path):
        self._client, self._search_filter = client, search_filter
        self._images, self._segs = map(self._search, (search_filter, {"Modality": "SEG"}))
        super().__init__(Path(cache_path) / "archive")

    def _search(self, search_filter):
        found = self._client.search_for_series(search_filters=search_filter)
        return {one["0020000E"]["Value"][0]: one["0020000D"]["Value"][0] for one in found}

    def list_images(self):
        return list(self._images)

    def get_labeled_images(self, label_tag=None, labels=None):
        return [self._image_of(uid) for uid in self._segs]

    def _image_of(self, uid):
        return str(self._client.series[uid].ReferencedSeriesSequence[0].SeriesInstanceUID)

    def get_image_uri(self, image_id):
        file = self.folder / f"{image_id}.nii.gz"
        if not file.exists():
            study = list(self._search({"SeriesInstanceUID": image_id}).values())[0]  # noqa: RUF015 # an IndexError
            (ds,) = self._client.retrieve_series(study, image_id)
            nibabel.save(nibabel.Nifti1Image.from_bytes(ds.EncapsulatedDocument), file)
            info = {"ts": int(time.time()), "PatientID": str(ds.PatientID), "SeriesInstanceUID": image_id}
            self._datastore.objects[image_id] = Entry(Data(".nii.gz", info))
            self._update_datastore_file()
        return os.path.realpath(file)

    def get_label_uri(self, label_id, label_tag, image_id=""):
        if label_tag != "final":
            return super().get_label_uri(label_id, label_tag)
        assert label_id in self._segs, "an image, downloaded as if it were its label"
        return super().get_label_uri(self._image_of(label_id), label_tag)

    def save_label(self, image_id, label_filename, label_tag, label_info, label_id=""):
        self.get_image_uri(image_id)
        if label_tag == "final":
            mask, told = nibabel.load(label_filename), label_info.get("label_info") or []
            values = np.asarray(mask.dataobj)
            there = np.unique(values[values != 0])
            assert there.size and there[0] > 0, "itkimage2segimage fails"
            names = [told[n].get("name", "unknown") if n < len(told) else "unknown" for n in range(there.size)]
            numbers = sum((values == value) * np.uint8(n) for n, value in enumerate(there, 1))
            segments = nibabel.Nifti1Image(numbers, mask.affine)
            label_info["SeriesInstanceUID"] = self._client.add_seg(image_id, segments, names)
        return super().save_label(image_id, label_filename, label_tag, label_info)

    def _download_labeled_data(self):
        labeled = {self._image_of(uid) for uid in self._search({"Modality": "SEG"})}
        for name in set(super().get_labeled_images()) - labeled:
            os.unlink(LocalDatastore.get_label_uri(self, name, "final"))


def binary_to_image(reference_image, label):
    image, file = nibabel.load(reference_image), tempfile.mktemp(".nii.gz")
    voxels = np.fromfile(label, np.uint8).reshape(image.shape, order="F")
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), file)
    return file


def dicom_seg_to_itk_image(label, output_ext=".seg.nrrd"):
    file = tempfile.mktemp(output_ext)
    with tempfile.NamedTemporaryFile(suffix=".nii") as source:
        source.write(pydicom.dcmread(label).EncapsulatedDocument)
        source.flush()
        SimpleITK.WriteImage(SimpleITK.ReadImage(source.name), file)
    return file


def settings():
    return sys.modules["monailabel.config"].settings


def stand_ins():
    """Content of each module."""
    known = ["*.nii.gz", "*.nii", "*.nrrd", "*.jpg", "*.png", "*.tif", "*.svs", "*.xml"]
    lists = {"MONAI_LABEL_DATASTORE_FILE_EXT": known, "MONAI_LABEL_CORS_ORIGINS": []}
    switches = {"MONAI_LABEL_AUTO_UPDATE_SCORING": True, "MONAI_LABEL_DATASTORE_AUTO_RELOAD": True}
    return {
        "fastapi": {"HTTPException": HTTPException},
        "monailabel": {},
        "monailabel.config": {"settings": SimpleNamespace(**lists, **switches)},
        "monailabel.main": {"Main": Main},
        "monailabel.datastore.dicom": {"DICOMWebDatastore": DICOMWebDatastore},
        "monailabel.datastore.local": {"LocalDatastore": LocalDatastore},
        "monailabel.datastore.utils.convert": {
            "binary_to_image": binary_to_image,
            "dicom_seg_to_itk_image": dicom_seg_to_itk_image,
        },
        "monailabel.interfaces.app": {"MONAILabelApp": MONAILabelApp},
        "monailabel.interfaces.tasks.infer_v2": {"InferType": InferType},
        "monailabel.interfaces.tasks.scoring": {"ScoringMethod": Described},
        "monailabel.interfaces.tasks.strategy": {"Strategy": Described},
        "monailabel.tasks.infer.bundle": {"BundleInferTask": BundleInferTask},
        "monailabel.tasks.train.bundle": {"BundleTrainTask": BundleTrainTask},
        "monailabel.utils.async_tasks.task": {"AsyncTask": AsyncTask},
        "monailabel.utils.others.generic": {"name_to_device": name_to_device},
    }


@pytest.fixture
def label(monkeypatch):
    """The modules of `medssl_monai.monai_label` that import MONAI Label, with the stand-ins, for one test."""
    package = sys.modules["medssl_monai.monai_label"]
    if os.environ.get("MEDSSL_MONAILABEL") != "real":
        for name, content in stand_ins().items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
        sys.modules["monailabel"].config = sys.modules["monailabel.config"]
    _forget(package)
    modules = SimpleNamespace(**{name: importlib.import_module(f"{package.__name__}.{name}") for name in OWN})
    for name in ("MONAI_LABEL_AUTO_UPDATE_SCORING", "MONAI_LABEL_DATASTORE_AUTO_RELOAD"):
        monkeypatch.setattr(settings(), name, False)
    yield modules
    _forget(package)


@pytest.fixture
def archive(label, tmp_path, monkeypatch):
    """An empty archive, in memory, and the program that MONAI Label makes SEGs with."""
    if os.environ.get("MEDSSL_MONAILABEL") == "real":
        pytest.skip("the real datastore asks an archive over HTTP")
    program = tmp_path / "bin" / "itkimage2segimage"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(settings(), "MONAI_LABEL_DICOMWEB_CACHE_PATH", tmp_path / "cache", raising=False)
    monkeypatch.setattr(DICOMwebClientX, "series", {}, raising=False)
    return DICOMwebClientX()


@pytest.fixture
def refused(label):
    """Status and message of the answer to a wrong request."""

    def _refused(call, *arguments, **named):
        with pytest.raises(label.app.HTTPException) as found:
            call(*arguments, **named)
        return found.value.status_code, found.value.detail

    return _refused


def _forget(package):
    for name in OWN:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


# ---- bundles, studies, server ----------------------------------------------------------------------------------------

TINY = {"epoch_length": 3, "epochs_per_round": 1, "cache_dir": None, "image_size": [16, 16]}
DEEP = {**TINY, "image_size": [16, 16, 8], "spacing": [1.0, 1.0, 3.0]}
TWO, JOINT = {"labeled": 4, "unlabeled": 6}, {"labeled": 4, "unlabeled": 6, "segmented": 3, "unsegmented": 2}
KINDS = {
    "boostmis": ("boostmis", (), {**TINY, "batch_size": TWO}),
    "findings": ("s2mts2", (), {**TINY, "batch_size": TWO}),
    "ssal": ("ssal", (), {**TINY, "batch_size": TWO, "method_def": "@methods::mean_teacher"}),
    "volumes": ("ssal", ("train_3d.yaml",), {**DEEP, "batch_size": {"labeled": 2, "unlabeled": 2}}),
    "multimix": ("multimix", (), {**TINY, "batch_size": JOINT}),
    "grades": ("tear", (), {**TINY, "batch_size": TWO, "label_kind": "grades"}),
}
"""By name of the model: bundle, overlays, and what it is trained with."""


@pytest.fixture(scope="session")
def toy_findings(toy_datalist, tmp_path_factory):
    """The toy images with two findings instead of two classes."""
    content = json.loads(toy_datalist.read_text())
    sections = {name: content[name] for name in ("training", "validation")}
    for item in (item for section in sections.values() for item in section):
        item |= {"image": str(toy_datalist.parent / item["image"]), "label": [item["label"], 1 - item["label"]]}
    path = tmp_path_factory.mktemp("findings") / "datalist.json"
    write_datalist(path, sections, classes=["effusion", "mass"], synthetic=True)
    return path


@pytest.fixture(scope="session")
def toy_volumes(tmp_path_factory):
    """NIfTI volumes with a bright ball, lying in two ways, and masks of it."""
    folder, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    x, y, z = np.mgrid[:14, :16, :6]
    sections = {}
    for section, count in (("training", 8), ("validation", 2)):
        sections[section] = []
        for number in range(count):
            mask = ((x - 5) ** 2 + (y - rng.uniform(6, 9)) ** 2 + 4 * (z - 2) ** 2 < 12).astype(np.uint8)
            affine = np.diag([-1.0, 1.0, 3.0, 1.0]) if number % 2 else np.diag([1.0, 1.0, 3.0, 1.0])
            name = f"{section}_{number}"
            pixels = (rng.normal(100, 10, mask.shape) + 80 * mask).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(pixels, affine), folder / f"{name}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(mask, affine), folder / f"{name}_mask.nii.gz")
            item = {"image": f"{name}.nii.gz", "label": f"{name}_mask.nii.gz", "id": name, "group": name}
            sections[section].append(item)
    write_datalist(folder / "datalist.json", sections, classes=["background", "ball"], synthetic=True)
    return folder / "datalist.json"


@pytest.fixture(scope="session")
def datalists(toy_datalist, toy_findings, toy_masks, toy_volumes, toy_joint):
    """Datalist by name of the model."""
    return dict(zip(KINDS, (toy_datalist, toy_findings, toy_masks, toy_volumes, toy_joint, toy_datalist), strict=True))


@pytest.fixture(scope="session")
def trained(datalists, tmp_path_factory):
    """Trains a bundle for three steps, once; returns its folder, which nobody changes."""
    folder = tmp_path_factory.mktemp("trained")

    def _trained(name):
        source, overlays, values = KINDS[name]
        if not (folder / name).exists():
            bundle = copy_bundle(source, folder / name)
            values = {**values, "datalist": str(datalists[name]), "labels": 4, "device": "cpu", "rounds": 1}
            values |= {"mask_labels": 4} if name == "multimix" else {}
            where = {"bundle_root": bundle, "output_dir": folder / f"{name}_run", "ckpt_dir": bundle / "models"}
            run = workflow(
                [bundle / "configs" / file for file in ("train.yaml", *overlays)],
                logging_file=False,
                **values,
                **{key: str(path) for key, path in where.items()},
                **{"query::budget": 0, "query::cold_start": 0},
            )
            run.initialize()
            run.run()
            run.finalize()
        return folder / name

    return _trained


@pytest.fixture
def untrained(trained, tmp_path):
    """A bundle that knows its classes and has no weights."""

    def _untrained(name):
        folder = shutil.copytree(trained(name), tmp_path / "untrained" / name)
        (folder / "models" / "model.pt").unlink()
        return folder

    return _untrained


@pytest.fixture
def studies(datalists, tmp_path):
    """Fills a folder with training images of a kind of bundle; returns it and the items by id."""

    def _studies(name, count=8):
        content, folder = json.loads(datalists[name].read_text()), tmp_path / "studies"
        folder.mkdir(exist_ok=True)
        items = {}
        for item in content["training"][:count]:
            file = datalists[name].parent / item["image"]
            shutil.copy(file, folder / file.name)
            masks = {
                key: datalists[name].parent / item[key] for key in ("label", "mask") if isinstance(item.get(key), str)
            }
            items[file.name.split(".")[0]] = item | masks
        (folder / "datalist.json").write_text('{"synthetic": true, "training": []}')
        return folder, items

    return _studies


class Server:
    """What MONAI Label's endpoints do, and in place of its processes another app over the same folders."""

    def __init__(self, start):
        self.start, self.app = start, start()
        self.app.server_mode(True)
        self.store, self.folder = self.app.datastore(), Path(self.app.studies)

    def next(self, strategy="random", **params):
        self.app.info()
        result = self.app.next_sample({"strategy": strategy, **params})
        if not result:
            return {}
        info = self.store.get_image_info(result["id"])
        given = {**info.get("strategy", {}), strategy: {"ts": int(time.time()), "client_id": None}}
        self.store.update_image_info(result["id"], {"strategy": given})
        return {**result, **info}

    def save(self, image, content, suffix=".json", tag="final", **params):
        """Save a label: a path, bytes, or what becomes JSON."""
        if isinstance(content, Path):
            suffix, content = "".join(content.suffixes), content.read_bytes()
        file = self.folder.parent / f"upload{suffix}"
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        self.app.on_save_label(image, self.store.save_label(image, str(file), tag, params))
        file.unlink()

    def infer(self, model, image, **params):
        self.app.info()
        return self.app.infer({"model": model, "image": image, **params})

    def train(self, model, **request):
        return self._process("train", {"model": model, **request})

    def score(self, method, **request):
        return self._process("scoring", {"method": method, **request})

    def _process(self, task, request):
        self.app.info()
        if path := self.app.bundle_path(request.get("model")):
            request["bundle_path"] = path
        return json.loads(json.dumps(getattr(self.start(), task)(json.loads(json.dumps(request)))))

    def kept(self):
        """What this package keeps of each image, as the file has it."""
        objects = json.loads((self.folder / "datastore_v2.json").read_text())["objects"]
        return {name: entry["image"]["info"].get("medssl", {}) for name, entry in objects.items()}

    def labels(self):
        """Files of labels by tag."""
        folder = self.folder / "labels"
        return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@functools.cache
def parse(content, suffix, load=ConfigParser.load_config_file):
    with tempfile.NamedTemporaryFile("w", suffix=suffix) as file:
        file.write(content)
        file.flush()
        return load(file.name)


def read_once(path, **kwargs):
    """`ConfigParser.load_config_file`; without it, reading YAML takes most of the time of these tests."""
    return copy.deepcopy(parse(Path(path).read_text(), Path(path).suffix))


@pytest.fixture
def serve(label, trained, tmp_path, monkeypatch):
    """Starts an app with bundles, by name of the model or by folder, over a folder of studies."""
    monkeypatch.setattr(ConfigParser, "load_config_file", staticmethod(read_once))
    key = tmp_path / "pseudonym.key"
    key.write_text("5" * 64)
    key.chmod(0o600)
    loopback = ["start_server", "--app", "app", "--studies", "studies", "--host", "127.0.0.1"]
    monkeypatch.setattr(sys, "argv", ["/usr/lib/monailabel/main.py", *loopback])
    monkeypatch.setenv("MEDSSL_KEY_FILE", str(key))  # whom chance holds out is the same in every run

    def _serve(bundles, studies, overrides=None, **conf):
        folder = tmp_path / "app"
        for bundle in bundles:
            _, overlays, values = KINDS[Path(bundle).name]
            path = bundle if isinstance(bundle, Path) else trained(bundle)
            write_app(folder, [path], overlays, {**values, **(overrides or {})})
        conf = {name: str(value) for name, value in conf.items()}
        return Server(lambda: label.app.LabelApp(str(folder), str(studies), conf))

    return _serve
