"""From what a network says on its own grid back to the grid of the file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Invertd, InvertibleTransform, MapTransform
from monai.utils import optional_import

nib, _ = optional_import("nibabel")  # its functions are untyped

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class InvertProbabilitiesd(Invertd):
    """MONAI's `Invertd` for class probabilities ``(K, *spatial)``: linear interpolation, to be followed by the argmax.

    `Invertd` offers nearest neighbours, which leave steps as wide as the network's voxels, or what the image went
    through: `Resized` averages areas by default, which upwards is nearest neighbours again.

    Args:
        keys: predictions.
        transform: what was applied to the images.
        orig_keys: images that the predictions are of.
    """

    def __init__(
        self, keys: KeysCollection, transform: InvertibleTransform, orig_keys: KeysCollection = "image"
    ) -> None:
        super().__init__(keys, transform, orig_keys=orig_keys, nearest_interp=False)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        images = {key: data[key] for key in self.orig_keys if isinstance(data.get(key), MetaTensor)}
        linear = {key: _linear(image) for key, image in images.items()}
        return {**super().__call__({**data, **linear}), **images}


def _linear(image: MetaTensor) -> MetaTensor:
    """Return the image with a history in which sizes were changed by linear interpolation."""
    history = []
    for step in image.applied_operations:
        info = step.get("extra_info", {})
        if step["class"] == "Resize":
            info = {**info, "mode": LINEAR[len(step["orig_size"])]}
        history.append({**step, "extra_info": info})
    return MetaTensor(image.as_tensor(), meta=image.meta, applied_operations=history)


class ToFileAxesd(MapTransform):
    """Turn volumes ``(C, x, y, z)`` back to the axes of their NIfTI file; flips and permutations alone, so it is exact.

    `medssl_monai.readers.ClinicalReader` turns volumes to the closest L-P-S orientation. MONAI Label writes results
    with the affine of the file, which fits the file's own axes only. Images of two dimensions pass.

    Args:
        keys: with an ``affine`` and an ``original_affine``.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if image.ndim != 4:
                continue
            now, then = (np.asarray(affine) for affine in (image.affine, image.meta["original_affine"]))
            turn = nib.orientations.ornt_transform(*map(nib.orientations.io_orientation, (now, then)))
            plain = image.as_tensor().cpu().numpy()
            plain = np.moveaxis(nib.orientations.apply_orientation(np.moveaxis(plain, 0, -1), turn), -1, 0)
            affine = now @ nib.orientations.inv_ornt_aff(turn, image.shape[1:])
            meta = {**image.meta, "affine": torch.as_tensor(affine)}
            result[key] = MetaTensor(torch.from_numpy(np.ascontiguousarray(plain)), meta=meta)
        return result
