"""Predictions for one image at a time, as MONAI Label's viewers ask for them."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.utils.others.generic import name_to_device

from medssl_monai.engines.predict import HasParts
from medssl_monai.monai_label.gate import known_device
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.readers.decoders import count_slices
from medssl_monai.readers.formats import image_format
from medssl_monai.readers.mask_axes import to_file_axes
from medssl_monai.readers.mask_files import write_mask

logger = logging.getLogger(__name__)


class _BundleInfer(BundleInferTask):  # type: ignore[misc]  # MONAI Label is untyped
    """The network, preprocessing and inferer of a bundle's ``inference.json``.

    What `medssl label-app` was told of the training goes into its configuration. The weights are read anew when their
    file changes, which MONAI Label sees to.
    """

    def __init__(self, served: ServedBundle, conf: dict[str, str], kind: InferType) -> None:
        self.served = served
        super().__init__(str(served.folder), conf, type=kind, add_post_restore=False, load_strict=True)
        self._config.pop("model_filename", None)  # else the file with the shortest name in models/ would be taken

    def _load_bundle_config(self, path: str, config: str) -> Any:
        parser = super()._load_bundle_config(path, config)
        for name, value in self.served.overrides.items():
            if name.split("::")[0] in parser.config:
                parser[name] = value
        return parser

    def __call__(self, request: Any, callbacks: Any = None) -> Any:
        """Predict.

        Raises:
            ValueError: if the image is a volume and the network for single images, or the reverse; or for a device
                that is none, which the configuration would evaluate.
        """
        if "device" in request:
            request = {**request, "device": known_device(name_to_device(request["device"]))}
        slices = 1 if "slice" in request else count_slices(Path(request["image"])) or 1
        if (slices > 1) != (self.served.dimensions == 3):
            takes = {2: "single images", 3: "volumes"}[self.served.dimensions]
            raise ValueError(f"the image has {slices} slice(s), and {self.served.name} takes {takes}.")
        return super().__call__(request, callbacks)

    def info(self) -> dict[str, Any]:
        return {**super().info(), "weights": self.served.version}


class ClassInfer(_BundleInfer):
    """The probability of every class, or finding, by name.

    The answer is ``{"prediction": [{"idx", "label", "score"}, ...], "label": "what would be written as the label"}``;
    with ``to_file``, which the app sets where it stores the prediction, also a JSON file.

    Args:
        served: the bundle.
        conf: of the app.
    """

    def __init__(self, served: ServedBundle, conf: dict[str, str]) -> None:
        super().__init__(served, conf, InferType.CLASSIFICATION)
        self.labels = {name: index for index, name in enumerate(served.classes)}

    def inferer(self, data: Any = None) -> Callable[..., torch.Tensor]:
        kind = self.served.label_kind

        def outcomes(images: Any, network: Any) -> torch.Tensor:
            own = network.network_of("label") if isinstance(network, HasParts) else network
            return kind.outcomes(own(torch.as_tensor(images)))

        return outcomes

    def post_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        return []

    def writer(
        self, data: dict[str, Any], extension: Any = None, dtype: Any = None
    ) -> tuple[str | None, dict[str, Any]]:
        """Return the answer, and the path of its file if it is to be kept."""
        outcomes = torch.as_tensor(data[self.output_label_key]).float().cpu()
        kind = self.served.label_kind
        scores = enumerate(kind.columns(outcomes.unsqueeze(0)).items())
        prediction = [{"idx": index, "label": name, "score": score} for index, (name, [score]) in scores]
        label = kind.describe(outcomes)["predicted"]
        result = {"prediction": prediction, "label": label, "weights": self.served.version}
        if not data.get("to_file"):
            return None, result
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False, encoding="utf-8") as file:
            json.dump(result, file)
        return file.name, dict(result)


class MaskInfer(_BundleInfer):
    """A mask on the grid of the image's file: NIfTI for NIfTI and DICOM, PNG for PNG and JPEG.

    A network of two dimensions goes over the slices of a volume. `medssl_monai.readers.mask_files` writes the file; a
    viewer may ask for another ``result_extension``: ``.nrrd``, as OHIF wants it, is made of the NIfTI.

    Args:
        served: the bundle.
        conf: of the app.
    """

    def __init__(self, served: ServedBundle, conf: dict[str, str]) -> None:
        super().__init__(served, conf, InferType.SEGMENTATION)
        self.labels = {name: index for index, name in enumerate(served.mask_classes) if index}

    def __call__(self, request: Any, callbacks: Any = None) -> Any:
        image = Path(request["image"])
        slices = (count_slices(image) or 1) if self.served.dimensions == 2 else 1
        if slices == 1:
            return super().__call__(request, callbacks)
        parts = [
            super(MaskInfer, self).__call__({**request, "slice": n, "skip_writer": True})[1] for n in range(slices)
        ]
        volume = np.stack([np.asarray(part[self.output_label_key].cpu())[0] for part in parts], axis=-1)
        file, result = self._write(to_file_axes(volume.astype(np.uint8), image), image, request)
        return file, {**result, "label_names": self.labels, "latencies": {}, "centroids": {}}

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[str, dict[str, Any]]:
        """Return the mask's file, and the share of every class in it."""
        image = Path(data["image_path"])
        mask = np.asarray(torch.as_tensor(data[self.output_label_key]).cpu())[0].astype(np.uint8)
        return self._write(mask if mask.ndim == 3 else to_file_axes(mask, image), image, data)

    def _write(self, mask: Any, image: Path, request: Any) -> tuple[str, dict[str, Any]]:
        note = "model trained on SYNTHETIC data" if self.served.about.get("synthetic") else ""
        names, wanted = self.served.mask_classes, request.get("result_extension") or ""
        with tempfile.TemporaryDirectory() as folder:
            path = write_mask(Path(folder) / "mask", mask, image, len(names), note).path
            if image_format(path) == "NIfTI" and not path.name.endswith(wanted):
                path = _converted(path, wanted)
            with tempfile.NamedTemporaryFile(suffix="".join(path.suffixes), delete=False) as file:  # MONAI Label's
                file.write(path.read_bytes())
        share = np.bincount(mask.ravel(), minlength=len(names))[: len(names)] / max(mask.size, 1)
        shares = {name: float(part) for name, part in zip(names, share, strict=True)}
        return file.name, {"shares": shares, "weights": self.served.version}


def _converted(nifti: Path, suffix: str) -> Path:
    import SimpleITK as sitk  # noqa: N813

    path = nifti.with_name(f"mask{suffix}")
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
    return path
