"""One bundle of an app: what it learns, what it is called, and its configuration with the images of a study folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from medssl_monai.bundle.facts import classes_of, image_size_of, mask_classes_of
from medssl_monai.bundle.metadata import metadata_of
from medssl_monai.bundle.weights import described_kind
from medssl_monai.data.datalist import FLAGS, Item, Key
from medssl_monai.files import sha256
from medssl_monai.kinds import Kind, Masks
from medssl_monai.monai_label.files import Form
from medssl_monai.monai_label.write import SETTINGS
from medssl_monai.networks.pretrained import weights_metadata


class ServedBundle:
    """A folder ``model/NAME`` of an app; what a training changes is read anew each time.

    Args:
        folder: of the bundle.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = self.folder.name
        self.weights = self.folder / "models" / "model.pt"
        path = self.folder / "configs" / SETTINGS
        settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.files = [self.folder / "configs" / name for name in ("train.yaml", *settings.get("overlays", ()))]
        self.overrides: dict[str, Any] = settings.get("overrides", {})

    @property
    def metadata(self) -> dict[str, Any]:
        """Content of ``metadata.json``."""
        return metadata_of(self.folder)

    @property
    def about(self) -> dict[str, Any]:
        """What the weights say of themselves; nothing before the first training."""
        return _about(str(self.weights), self.stamp) if self.weights.exists() else {}

    @property
    def stamp(self) -> int:
        """Changes with the weights; 0 before the first training."""
        return self.weights.stat().st_mtime_ns if self.weights.exists() else 0

    @property
    def version(self) -> str:
        """Twelve digits of the SHA-256 of the weights; ``untrained`` before the first training."""
        return _version(str(self.weights), self.stamp) if self.weights.exists() else "untrained"

    @property
    def outputs(self) -> tuple[Key, ...]:
        """What the network gives: ``label``, a class or findings, ``mask``, or both."""
        outputs = self.metadata["network_data_format"]["outputs"]
        masks = outputs["pred"].get("format") == "segmentation"
        if self.joint:
            learned = self.about.get("learned", ("label", "mask"))
            return tuple(key for key in FLAGS if key in learned)
        return ("mask",) if masks else ("label",)

    @property
    def forms(self) -> set[Form]:
        """Files of labels that it learns from."""
        forms: dict[Form, list[str]] = {"class": self.classes, "mask": self.mask_classes}
        return {form for form, names in forms.items() if names}

    @property
    def joint(self) -> bool:
        """Say whether it is for classes and masks beside them, so that a datalist has them under two keys."""
        outputs = self.metadata["network_data_format"]["outputs"]
        return outputs["pred"].get("format") == "segmentation" and "classes" in outputs

    @property
    def classes(self) -> list[str]:
        """Names of the classes or findings of an image; none if it gives masks alone."""
        return classes_of([], self.metadata) if self.joint or "label" in self.outputs else []

    @property
    def mask_classes(self) -> list[str]:
        """Names of the classes in a mask, background first; none if it gives no masks."""
        return mask_classes_of([], self.metadata) if self.joint or "mask" in self.outputs else []

    @property
    def label_kind(self) -> Kind:
        """What the labels of whole images are; before the first training, one class per image is assumed."""
        return described_kind(self.about, self.classes)

    @property
    def known_kind(self) -> Kind | None:
        """`label_kind`; None before the first training, where the labels have to tell."""
        return self.label_kind if "kind" in self.about and self.classes else None

    @property
    def image_size(self) -> list[int]:
        """The size that the weights are for; before the first training, as configured."""
        return image_size_of(self.metadata) if self.weights.exists() else list(self.config["image_size"])

    @property
    def dimensions(self) -> int:
        """2 for images, 3 for volumes."""
        return len(self.image_size)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config files, merged, with what the bundle was trained with; read once, since no training changes it."""
        from monai.bundle import ConfigParser

        from medssl_monai.bundle.overrides import nested

        return nested({**ConfigParser.load_config_files(list(map(str, self.files))), **self.overrides})

    @property
    def epochs(self) -> int:
        """The epochs of a training, if nobody says how many."""
        return int(self.config["rounds"]) * int(self.config["epochs_per_round"])

    def strategies(self, wanted: str = "") -> list[str]:
        """Return names of query strategies in the configuration, but for ``random``, which needs no score.

        Args:
            wanted: ``all``, or names separated by commas; default: the one that the bundle asks by, and ``entropy``.
        """
        there = [name for name in self.config["strategies"] if name != "random"]
        usual = str(self.config["query"]["strategy"]).replace("#", "::").removeprefix("@strategies::")
        names = wanted.replace(",", " ").split() or [usual, "entropy"]
        return there if wanted == "all" else [name for name in there if name in names]

    def run(self, train: Sequence[Item], validation: Sequence[Item] | None, synthetic: bool, **values: Any) -> Any:
        """Return the configuration on these images, as a `monai.bundle.ConfigWorkflow` that is initialized.

        Args:
            train: items; those whose ``labeled`` (and ``masked``) flag is false are the unlabeled ones.
            validation: likewise, labeled; None: those of the datalist that the bundle was trained with.
            synthetic: whether the images are phantoms.
            values: further overrides.

        Raises:
            ValueError: if there is no such datalist.
        """
        from medssl_monai.bundle.run import workflow

        settings = self._values()
        settings["train::dataset::data"] = self._datalist(train, synthetic)
        if validation is not None:
            settings["validate::dataset::data"] = self._datalist(validation, synthetic)
        elif not self.overrides.get("datalist"):
            raise ValueError(
                f"{self.name} has no images to measure on: write the app with `--datalist FILE`, whose section "
                "'validation' they are, or start the server with `--conf validation 0.2`."
            )
        run = workflow(self.files, "train", False, **(settings | values))
        run.initialize()
        return run

    def _values(self) -> dict[str, Any]:
        config = self.config
        values: dict[str, Any] = {
            **self.overrides,
            "bundle_root": str(self.folder),
            "image_size": self.image_size,
            "labels": None,
            "on_bad_file": "skip",
            "rounds": 1,
            "epochs_per_round": self.epochs,
            "query::budget": 0,  # the viewer asks
            "query::cold_start": 0,
            "query::annotator": "@annotators::nobody",
        }
        if "mask_labels" in config:
            values["mask_labels"] = None
        if "spacing" in config and self.about.get("spacing"):
            values["spacing"] = list(map(float, self.about["spacing"]))
        if self.weights.exists():
            values["network::pretrained"] = str(self.weights)
            if "part" in config["network"]:
                values["network::part"] = "continue"
        start = self.folder / "models" / "pretrained.pt"
        if start.exists() or ("encoder" in config and self.weights.exists()):  # clusters are made of its features
            values["pretrained"] = str(start if start.exists() else self.weights)
        return values

    def _datalist(self, items: Sequence[Item], synthetic: bool) -> dict[str, Any]:
        """Return ``train::dataset::data``: one list with flags, the names and the kind that a plain list would lack."""
        kind = self.known_kind if self.classes else Masks()
        return {
            "_target_": "medssl_monai.data.Datalist",
            "items": tuple(items),  # MONAI looks for its syntax, such as #, in all texts of lists, but not of tuples
            "classes": tuple(self.classes or self.mask_classes),
            "mask_classes": tuple(self.mask_classes if self.joint else ()),
            "label_kind": "" if kind is None else kind.word,
            "modality": ["image"] * int(self.metadata["network_data_format"]["inputs"]["image"]["num_channels"]),
            "synthetic": synthetic,
        }


@lru_cache(maxsize=16)
def _about(weights: str, stamp: int) -> dict[str, Any]:
    return weights_metadata(weights)


@lru_cache(maxsize=16)
def _version(weights: str, stamp: int) -> str:
    return sha256(weights)[:12]
