"""An app for the MONAI Label server, as a folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.data.datalist import load_datalist
from medssl_monai.files import write_json, write_text
from medssl_monai.names import check_name

MAIN = '''"""What `monailabel start_server --app` looks for, written by `medssl label-app`. Not a medical device."""

from medssl_monai.monai_label.app import LabelApp

__all__ = ["LabelApp"]
'''
SETTINGS = "label.json"
"""Beside a bundle's configuration: what it was trained with, of what its files do not say."""

GIVEN = {
    *("bundle_root", "labels", "mask_labels", "output_dir", "ckpt_dir", "device", "rounds", "max_epochs"),
    *("pretrained", "query::budget", "query::cold_start", "query::annotator"),
}
"""Values of a configuration that the app or the viewer decide."""
PATHS = {"datalist", "dataset_dir"}
"""Values that are paths, from the folder where the app is written; the server is started in another."""


def write_app(
    output: str | Path,
    bundles: Sequence[str | Path] = (),
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Write the app, or add bundles to one.

    Args:
        output: folder of the app; new, empty, or an app that was written before.
        bundles: folders of bundles, trained or not, which are copied to ``model/NAME`` without their runs. Others may
            be copied there by hand.
        overlays: config files beside ``train.yaml`` that the bundles were trained with, such as ``train_3d.yaml``.
        overrides: values of the configuration that they were trained with, such as ``network_def``. A bundle that is
            not trained yet takes the classes of a ``datalist``.

    Returns:
        The folder.

    Raises:
        FileExistsError: if `output` holds something else, or has a bundle of that name, or two are named alike.
        FileNotFoundError: if a folder is no bundle of ours, or lacks an overlay.
        ValueError: if the datalist is not valid; if an override or its value names nothing in the configuration, or the
            former what the app decides; if there is no bundle that they are for; if `output` lies in one; or for a
            folder whose name could be read as something else.
    """
    output, main = Path(output), Path(output) / "main.py"
    if output.exists() and any(output.iterdir()) and not (main.exists() and main.read_text(encoding="utf-8") == MAIN):
        raise FileExistsError(f"{output} is not empty, and no app of this package; name a new folder.")
    values = {name.replace("#", "::"): value for name, value in (overrides or {}).items()}
    values |= {name: str(Path(values[name]).resolve()) for name in PATHS & values.keys() if values[name]}
    if not bundles and (overlays or values):
        raise ValueError(f"no bundle is named that {[*overlays, *values][0]!r} is for; name its folder.")
    sources: dict[str, Path] = {}
    for source in map(Path, bundles):
        _check(source, overlays, values)
        check_name(name := source.resolve().name, "bundle", str(source))
        if source.resolve() in output.resolve().parents:
            raise ValueError(f"{output} lies in the bundle {name!r}, which would be copied into itself; name another.")
        if name in sources or (output / "model" / name).exists():
            raise FileExistsError(f"{output} has a bundle {name!r} already; remove that folder, or write another app.")
        sources[name] = source
    if values.get("datalist"):  # whatever is wrong with it, nothing is written
        load_datalist(values["datalist"], "training", values.get("dataset_dir"), allow_leaks=True)
    (output / "model").mkdir(parents=True, exist_ok=True)
    write_text(main, MAIN, private=False)
    for name, source in sources.items():
        target = output / "model" / name
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("eval", "runs", "__pycache__"))
        if overlays or values:
            write_json(target / "configs" / SETTINGS, {"overlays": list(overlays), "overrides": values})
        if values.get("datalist") and not (target / "models" / "model.pt").exists():
            _describe(target, values)
    return output


def _describe(bundle: Path, values: Mapping[str, Any]) -> None:
    """Let a bundle that is not trained yet say the classes of its datalist in place of its phantoms'."""
    from medssl_monai.bundle.describe import describe_data
    from medssl_monai.bundle.facts import image_size_of
    from medssl_monai.bundle.metadata import metadata_of

    data = load_datalist(values["datalist"], "training", values.get("dataset_dir"), allow_leaks=True)
    size = values.get("image_size") or image_size_of(metadata_of(bundle))
    describe_data(bundle, data.classes, len(data.modality), size, data.synthetic, data.mask_classes)


def _check(source: Path, overlays: Sequence[str], overrides: Mapping[str, Any]) -> None:
    from monai.bundle import ConfigParser

    from medssl_monai.bundle.overrides import check_overrides, nested

    files = [source / "configs" / name for name in ("train.yaml", *overlays, "inference.json", "metadata.json")]
    if missing := [str(path) for path in files if not path.is_file()]:
        raise FileNotFoundError(f"{source} is no bundle of this package: there is no {missing[0]}.")
    if given := sorted(GIVEN & overrides.keys()):
        raise ValueError(f"`--{given[0]}` is for the app or the viewer to say; leave it out.")
    config = nested(ConfigParser.load_config_files(list(map(str, files[: 1 + len(overlays)]))))
    check_overrides(overrides, config)
    for name, value in overrides.items():
        if isinstance(value, str) and value.startswith("@"):
            try:
                check_overrides([value[1:]], config)
            except ValueError as error:
                raise ValueError(f"`--{name} {value}`: {error}") from None
