"""What bundles need beyond MONAI: data or phantoms, a guard against misspelt overrides, and metadata that fit."""

from __future__ import annotations

import copy
import difflib
import inspect
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from medssl_monai import limits, names
from medssl_monai.data.datalist import Datalist, load_datalist, write_datalist
from medssl_monai.distributed import is_first, wait_for_all
from medssl_monai.engines.identity import building_parser
from medssl_monai.files import read_json, sha256, write_json

logger = logging.getLogger(__name__)


def load_data(
    datalist: str | Path | None,
    section: str,
    dataset_dir: str | Path | None = None,
    allow_leaks: bool = False,
    phantom: Mapping[str, Any] | None = None,
) -> Datalist:
    """One section of a datalist file or, if there is none, of phantoms, which are made at the first call.

    Args:
        datalist: path of the file; None: phantoms.
        section: ``training``, ``validation`` or ``testing``.
        dataset_dir: folder that the file's paths start from, or that phantoms are kept in (default: the user's cache).
        allow_leaks: see `medssl_monai.data.load_datalist`.
        phantom: arguments of `medssl_monai.phantoms.make_phantom`.

    Raises:
        ValueError: for the training section, if patients or exact copies of images are in other sections as well,
            unless `allow_leaks`.
    """
    if datalist:
        if section == "training":
            from medssl_monai.audit.leaks import check_leaks

            check_leaks(datalist, dataset_dir, allow_leaks)
        return load_datalist(datalist, section, dataset_dir, allow_leaks)
    from medssl_monai.phantoms import make_phantom

    arguments = dict(phantom or {})
    folder = Path(dataset_dir) if dataset_dir else cache_dir() / "phantoms"
    folder = folder / f"{arguments.get('kind', 'spine2')}_seed{arguments.get('seed', 0)}"
    if is_first():
        make_phantom(folder, **arguments)
    wait_for_all()
    return load_datalist(folder / "datalist.json", section)


def load_images(
    datalist: str | Path | None,
    section: str = "testing",
    dataset_dir: str | Path | None = None,
    list_to: str | Path | None = None,
    volumes: bool = False,
) -> Datalist:
    """Images to predict: a section of a datalist or, without one, everything readable below a folder.

    What looks like an image and cannot be used stays in the list with its ``problem``, so that it is reported.

    Args:
        datalist: path of a datalist file, or None.
        section: of the datalist.
        dataset_dir: folder to search, or that the datalist's paths start from.
        list_to: where to write the datalist of the images of a folder: which id is which file. Series that share their
            folder, or lie in several, get folders of links beside it.
        volumes: volumes of a folder stay whole; else each slice is an image.

    Raises:
        ValueError: if neither is named, or the folder has no image.
    """
    if datalist:
        return load_datalist(datalist, section, dataset_dir, allow_leaks=True)  # nothing is trained or measured here
    if not dataset_dir:
        raise ValueError("name the images to predict: `--dataset_dir FOLDER` or `--datalist FILE`.")
    from medssl_monai.prepare.layouts.files import by_suffix, in_words
    from medssl_monai.prepare.layouts.listing import list_images

    gather = Path(list_to).parent if list_to else None
    items, unusable, passed_over = list_images(dataset_dir, volumes, gather=gather)
    rest = in_words(by_suffix(passed_over))
    if not items and not unusable:
        there = f"there are {rest}" if rest else "it is empty"
        raise ValueError(f"{dataset_dir} holds no PNG, JPEG, NIfTI or DICOM image; {there}.")
    if rest:
        logger.warning(f"Not predicted: {rest}.")
    if list_to:  # the user's own, as any datalist: results name ids only
        whole = [{**item, "image": os.path.abspath(item["image"])} for item in items]
        write_datalist(list_to, {"testing": whole}, quarantine=unusable)
    return Datalist([*items, *({**bad, "group": bad["id"], "problem": bad["reason"]} for bad in unusable)])


def cache_dir() -> Path:
    """The user's folder for what can be made anew: ``$XDG_CACHE_HOME/medssl_monai``, by default under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medssl_monai"


def classes_of(data: Sequence[Any], metadata: Mapping[str, Any]) -> list[str]:
    """Names of the classes, from the datalist or else from the bundle's metadata.

    Args:
        data: a section; a plain list (from another tool) has no names.
        metadata: content of ``metadata.json``.

    Raises:
        ValueError: if these are no names of classes, see `medssl_monai.names.check_classes`.
    """
    labels = [item["label"] for item in data if isinstance(item, Mapping) and item.get("label") is not None]
    findings = any(isinstance(label, list) for label in labels)
    own, where = list(getattr(data, "classes", ())), getattr(data, "name", "") or "the datalist"
    if isinstance(data, Datalist) and not own:
        widths = [
            len(label) if isinstance(label, list) else label + 1 for label in labels if not isinstance(label, str)
        ]
        limits.check("max_classes", max(widths, default=0), where)
        own = [str(index) for index in range(max(widths, default=0))]
    if not own:
        key = "classes" if "classes" in _told(metadata, "outputs") else "pred"
        own, where = _channel_names(metadata, key), METADATA
    names.check_classes(own, "finding" if findings else "class", where, findings)
    return own


def mask_classes_of(data: Sequence[Any], metadata: Mapping[str, Any]) -> list[str]:
    """Names of the classes of masks beside classes, background first, as `classes_of` finds those."""
    own = list(getattr(data, "mask_classes", ())) or _channel_names(metadata, "pred")
    names.check_classes(own, "class of masks", getattr(data, "name", "") or METADATA)
    return own


METADATA = "metadata.json"


def _told(metadata: Mapping[str, Any], *keys: str) -> Any:
    """What the metadata say of data under these keys."""
    here: Any = metadata
    for depth, key in enumerate(path := ("network_data_format", *keys)):
        if not isinstance(here, Mapping) or key not in here:
            raise ValueError(
                f"{METADATA} does not say {'::'.join(path[: depth + 1])}; take that file from the bundle as it was."
            )
        here = here[key]
    return here


def _channel_names(metadata: Mapping[str, Any], output: str) -> list[str]:
    channels = _told(metadata, "outputs", output, "channel_def")
    keys = [str(index) for index in range(len(channels))] if isinstance(channels, Mapping) else []
    if not keys or set(keys) != channels.keys():
        raise ValueError(f"{METADATA}: the channel_def of {output!r} must map every index from 0 on to a name.")
    return [channels[key] for key in keys]


def channels_of(data: Sequence[Any], metadata: Mapping[str, Any]) -> int:
    """Channels of the images, from the datalist or else from the bundle's metadata."""
    return len(getattr(data, "modality", ())) or _counts([_told(metadata, "inputs", "image", "num_channels")])[0]


def _counts(told: Any) -> list[int]:
    if not isinstance(told, list | tuple) or not told or any(type(n) is not int or n < 1 for n in told):
        raise ValueError(f"{METADATA} says {names.shown(told)} of the images, and whole numbers above 0 are needed.")
    limits.check_voxels(told, f"an image of the size in {METADATA}")
    return list(told)


def output_dir(bundle_root: str | Path, data: Sequence[Any]) -> str:
    """Where a training leaves its state and report: ``eval`` in the bundle.

    For a plain list (from another tool, such as MONAI Label) a new folder in there: the next list is that of another
    training, which must not be taken for this one, broken off.
    """
    folder = Path(bundle_root) / "eval"
    if isinstance(data, Datalist):
        return str(folder)
    return str(folder / (os.environ.get("TORCHELASTIC_RUN_ID") or time.strftime("%Y-%m-%d_%H-%M-%S")))


def image_size_of(metadata: Mapping[str, Any]) -> list[int]:
    """Size of the images that the network takes, from the bundle's metadata."""
    return _counts(_told(metadata, "inputs", "image", "spatial_shape"))


def metadata_of(bundle_root: str | Path) -> dict[str, Any]:
    """The bundle's metadata as its file has them; without that, as the configuration has them that asks, if any.

    Configurations ask for them here and not by MONAI's ``@_meta_``, which evaluates what the file says before anybody
    can look at it, and replaces ``#``.

    Raises:
        ValueError: if the file is damaged, or MONAI would evaluate something in it, see `write_metadata`.
    """
    path = Path(bundle_root) / "configs" / METADATA
    if not path.is_file():
        parser = building_parser()
        told = copy.deepcopy(cast(dict[str, Any], parser.get("_meta_", {}))) if parser else {}
        names.check_inert(told, METADATA)
        return told
    content = read_json(path)
    try:
        marked = path.read_text(encoding="utf-8").startswith("\ufeff")
    except UnicodeDecodeError:
        marked = True
    if marked:
        raise ValueError(f"{path} is not in UTF-8 without a mark, which MONAI reads alone; save it so.")
    names.check_inert(content, str(path))
    return content


def write_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``metadata.json``, which MONAI reads as a part of every configuration.

    Raises:
        ValueError: if MONAI would evaluate a text in it; nothing is written.
    """
    names.check_inert(metadata, str(path))
    write_json(path, metadata, private=False)


def path_value(path: str | Path) -> str:
    """A path as the value of a configuration: absolute, since MONAI evaluates what begins with ``$``, ``@`` or ``%``.

    Raises:
        ValueError: if it holds a sign that MONAI replaces.
    """
    text = str(Path(path).absolute())
    if found := names.REFERENCE.search(text) or re.search("#", text):
        raise ValueError(
            f"{text} holds {found[0]!r}, which MONAI's configurations replace; give the folder another name."
        )
    return text


def feature_size(data: Sequence[Any]) -> int:
    """Width of the feature table that the items of a datalist are rows of."""
    import numpy as np

    return int(np.load(data[0]["image"], mmap_mode="r", allow_pickle=False).shape[1])


def describe_data(
    bundle_root: str | Path,
    classes: Sequence[str],
    channels: int,
    image_size: Sequence[int],
    synthetic: bool,
    mask_classes: Sequence[str] = (),
) -> None:
    """Make the bundle's ``metadata.json`` say what its network is trained on; `inference.json` reads it from there.

    Where there are masks beside classes, the network's own output, ``pred``, is the masks, and ``classes`` another.

    Raises:
        ValueError: see `write_metadata`.
    """
    path = Path(bundle_root) / "configs" / METADATA
    if not is_first() or not path.exists():
        return
    before = metadata_of(bundle_root)
    metadata = copy.deepcopy(before)
    told = {"pred": mask_classes, "classes": classes} if mask_classes else {"pred": classes}
    image, pred, *outputs = (
        _told(metadata, "inputs", "image"),
        *(_told(metadata, "outputs", k) for k in ("pred", *told)),
    )
    if not all(isinstance(part, dict) for part in (image, pred, *outputs)):
        raise ValueError(
            f"{path} does not describe its network's images and outputs; take it from the bundle as it was."
        )
    image |= {"num_channels": channels, "spatial_shape": list(image_size)}
    image["channel_def"] = {str(i): "image" if channels == 1 else f"channel {i}" for i in range(channels)}
    if pred.get("format") == "segmentation":
        pred["spatial_shape"] = list(image_size)
    for output, own in zip(outputs, told.values(), strict=True):
        output |= {"num_channels": len(own), "channel_def": {str(i): name for i, name in enumerate(own)}}
    metadata["data_type"] = "SYNTHETIC phantoms" if synthetic else "images named by a datalist"
    if metadata != before:
        write_metadata(path, metadata)


def fingerprint(labels: Any) -> str:
    """What `labels` of a run's configuration comes down to: its value, or the hash of the file that it names."""
    return sha256(labels) if isinstance(labels, str) and Path(labels).is_file() else str(labels)


def check_trained(
    weights: str | Path, classes: Sequence[str], spacing: Sequence[float] | None, mask_classes: Sequence[str] = ()
) -> None:
    """Refuse a datalist whose classes, or volumes whose spacing, are not those that a model was trained on.

    Raises:
        ValueError: with both.
    """
    from medssl_monai.networks.pretrained import weights_metadata

    metadata = weights_metadata(weights)
    resampled = metadata.get("spacing")
    if resampled is not None and list(resampled) != list(spacing or ()):
        raise ValueError(f"{weights} was trained on volumes of {resampled} mm; set `spacing` to that, not {spacing}.")
    for trained, own in ((metadata.get("classes"), classes), (metadata.get("mask_classes"), mask_classes)):
        if trained and own and list(trained) != list(own):
            raise ValueError(
                f"{weights} was trained on the classes {trained}, the datalist has {list(own)}; use a datalist with "
                "the same classes in the same order."
            )


def warn_untrained(pretrained: str | Path | None) -> None:
    """Say what clusters are made of if `pretrained` names no weights: of the network as it starts."""
    if not pretrained:
        logger.warning(
            "`pretrained` names no weights: clusters are made with the network as it starts, and of an untrained one "
            "they are little better than random. Run configs/pretrain.yaml first, and name its models/pretrained.pt."
        )


def check_overrides(names: Iterable[str], config: Mapping[str, Any]) -> None:
    """Refuse an override that names nothing in a config; MONAI would let it pass in silence.

    Args:
        names: ids as on the command line, ``train::trainer::max_epochs`` or with ``#``.
        config: the config files, merged, without the overrides.

    Raises:
        ValueError: with the nearest name there is.
    """
    for name in names:
        here: Any = config
        for depth, key in enumerate(parts := re.split("::|#", name)):
            siblings = list(here) if isinstance(here, Mapping) else []
            if isinstance(here, list) and key.isdigit() and int(key) < len(here):
                here = here[int(key)]
            elif isinstance(here, Mapping) and key in here:
                here = here[key]
            elif isinstance(here, Mapping) and "_target_" in here and depth == len(parts) - 1:
                break  # one more argument of a component, which will check it itself
            else:
                near = difflib.get_close_matches(key, siblings, n=1, cutoff=0.4)
                hint = f"; did you mean `--{'::'.join([*parts[:depth], near[0]])}`?" if near else ""
                raise ValueError(f"the override `--{name}` names nothing in the configuration{hint}")


def check_command_line(arguments: Sequence[str] | None = None) -> None:
    """`check_overrides` for the flags of a ``python -m monai.bundle run``; does nothing in another program.

    Args:
        arguments: the command line; default: this process's.

    Raises:
        ValueError: if a flag names nothing in the config files.
    """
    argv = list(sys.argv if arguments is None else arguments)
    if not (argv and Path(argv[0]).parent.name == "bundle" and "run" in argv[1:3]):
        return
    import monai.bundle
    from monai.bundle import ConfigParser

    flags: dict[str, Any] = {}
    for position, text in enumerate(argv):
        if match := re.match(r"--?([A-Za-z_][^=]*)(?:=(.*))?$", text, re.DOTALL):
            following = argv[position + 1] if position + 1 < len(argv) else ""
            flags[match[1].replace("-", "_")] = following if match[2] is None else match[2]
    if "args_file" in flags:
        flags = {**ConfigParser.load_config_file(flags["args_file"]), **flags}
    if "config_file" not in flags:
        return
    own = set(inspect.signature(monai.bundle.run).parameters)
    own |= set(inspect.signature(monai.bundle.ConfigWorkflow.__init__).parameters) | {"help", "workflow_name"}
    files = flags["config_file"]
    if isinstance(files, str):
        files = [part.strip(" '\"") for part in files.strip("[]()").split(",")]
    try:
        config = nested(ConfigParser.load_config_files(files))
    except ValueError as error:
        raise ValueError(f"`--config_file` {files}: {error}; name files of a bundle's configuration.") from error
    check_overrides([name for name in flags if name not in own], config)


def nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with keys such as ``train::handlers`` put into their places."""
    result: dict[str, Any] = {key: value for key, value in config.items() if "::" not in key}
    for key, value in config.items():
        here, parts = result, key.split("::")
        if len(parts) > 1:
            for part in parts[:-1]:
                child = here.get(part)
                here[part] = dict(child) if isinstance(child, Mapping) else {}
                here = here[part]
            here[parts[-1]] = value
    return result


def workflow(
    config_files: Sequence[str | Path],
    workflow_type: str = "train",
    logging_file: str | bool | None = None,
    **overrides: Any,
) -> Any:
    """A `monai.bundle.ConfigWorkflow` with checked overrides.

    Args:
        config_files: of one bundle; later ones are overlays.
        workflow_type: ``train`` or ``infer``.
        logging_file: None: the bundle's; False: leave logging as it is.
        overrides: values by id.

    Raises:
        ValueError: if an override names nothing in the config files, or the bundle's metadata are damaged.
    """
    from monai.bundle import ConfigParser, ConfigWorkflow

    files = [str(path) for path in config_files]
    metadata_of(Path(files[0]).parents[1])  # MONAI would evaluate what it says
    check_overrides(overrides, nested(ConfigParser.load_config_files(files)))
    return ConfigWorkflow(files, workflow_type=workflow_type, logging_file=logging_file, **overrides)


def shipped_bundles() -> Path:
    """The folder of this package's bundles, in a source tree or in an installed wheel."""
    here = Path(__file__).parents[1]
    for folder in (here / "bundles", here.parent / "bundles"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("this installation has no bundles; install the package again.")


def copy_bundle(name: str, target: str | Path) -> Path:
    """Copy a shipped bundle to a folder of one's own.

    Raises:
        ValueError: if there is no such bundle.
        FileExistsError: if the folder is not empty.
    """
    import shutil

    names = sorted(path.name for path in shipped_bundles().iterdir() if (path / "configs").is_dir())
    if name not in names:
        raise ValueError(f"there is no bundle {name!r}; there are {names}.")
    target = Path(target)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; name a new folder.")
    shutil.copytree(
        shipped_bundles() / name,
        target,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("models", "eval", "__pycache__"),
    )
    return target
