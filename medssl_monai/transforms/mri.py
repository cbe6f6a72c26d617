"""Geometry and grey values of MR images: dictionary transforms with their inverse.

A chain for volumes: MONAI's ``Orientationd`` as it is, then `KnownSpacingd`, `N4BiasFieldCorrectiond` if the coil
shades the image, and `RobustIntensityd`, since the grey values of MR have no unit and differ by orders of magnitude
between scanners. Nothing is drawn at random.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import InvertibleTransform, MapTransform, Spacingd
from monai.utils import TraceKeys, convert_to_dst_type, convert_to_numpy, convert_to_tensor, optional_import
from numpy.typing import NDArray

sitk, _ = optional_import("SimpleITK")  # its functions are untyped

Array = NDArray[Any]


class KnownSpacingd(Spacingd):
    """MONAI's `Spacingd`, but without inventing a spacing that the file does not state.

    An image without spacing has 1 mm in its affine, as MONAI needs one, and NaN in the ``spacing`` of its metadata
    (`medssl_monai.readers.reader.ClinicalReader`); resampling it would give it a size that means nothing. Axes with a
    ``pixdim`` of 0 or less are left alone, known or not. Affines of readers that give no ``spacing`` are believed.

    Keys that merely begin like an image's (``image_path``, as MONAI Label adds) pass: `Spacingd` of MONAI 1.6 takes
    them for dictionaries of metadata and fails. Columns under ``meta`` are no such keys.

    Raises:
        ValueError: if the spacing along an axis to resample is not known; it names key and ``id`` of the item.
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            self._check(data[key], key, data.get("id", "the item"))
        starts = tuple(f"{key}_" for key in self.keys)
        alike = {k: v for k, v in data.items() if str(k).startswith(starts) and not isinstance(v, dict)}
        return {**super().__call__({k: v for k, v in data.items() if k not in alike}, lazy), **alike}

    def _check(self, image: Any, key: Hashable, name: str) -> None:
        spacing = np.array([float(size) for size in getattr(image, "meta", {}).get("spacing", ())])
        unknown = np.isnan(spacing)
        if not unknown.any():
            return
        pixdim = np.append(self.spacing_transform.pixdim, np.ones(3))[: len(spacing)]
        size = np.asarray(image.pixdim, dtype=float)
        if not np.allclose(size[~unknown], spacing[~unknown], rtol=1e-3):  # turned since: which axis is which?
            unknown[:] = True
        if (axes := np.flatnonzero(unknown & (pixdim > 0))).size:
            raise ValueError(
                f"{name}: the spacing of {key!r} along the axes {axes.tolist()} is not known, so that it cannot be "
                f"resampled to {pixdim.tolist()} mm. Write it into the file (PixelSpacing, or the NIfTI header), leave "
                "the axes alone with a `pixdim` of -1, or resize to a number of pixels with `Resized`."
            )


class _Rescaled(MapTransform, InvertibleTransform):
    """Map grey values to ``(value - offset) / scale``, both fitted to the image; the inverse maps back."""

    def __init__(self, keys: KeysCollection, clip: bool, restore: bool, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        self.clip, self.restore = clip, restore

    @abstractmethod
    def fit(self, channel: Array) -> tuple[Array, Array]:
        """Offset and scale of one channel ``(*spatial)``, of its shape or broadcast to it."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = convert_to_tensor(result[key], track_meta=get_track_meta())
            values = convert_to_numpy(image).astype(np.float32)
            offset, scale = (np.stack(part) for part in zip(*map(self.fit, values), strict=True))
            values = (values - offset) / scale
            result[key], *_ = convert_to_dst_type(values.clip(0.0, 1.0) if self.clip else values, image, np.float32)
            record = {"offset": offset, "scale": scale} if self.restore else {}
            self.push_transform(result, key, extra_info=record)  # type: ignore[no-untyped-call]
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            record = self.pop_transform(result, key)[TraceKeys.EXTRA_INFO]
            if not self.restore:
                continue
            image = result[key]
            if len(image) != len(record["scale"]):
                raise ValueError(
                    f"{key!r} has {len(image)} channels, and the image that {type(self).__name__} was fitted to "
                    f"{len(record['scale'])}; grey values of a prediction cannot be restored. Pass `restore=False`."
                )
            values = convert_to_numpy(image) * record["scale"] + record["offset"]
            result[key], *_ = convert_to_dst_type(values, image, np.float32)
        return result


class N4BiasFieldCorrectiond(_Rescaled):
    """Divide an MR image by the smooth shading of its coil, estimated from the image itself.

    N4: Tustison et al., N4ITK: improved N3 bias correction, IEEE TMI 29:1310-1320 (2010), as in SimpleITK. The
    foreground that it is fitted to is brighter than Otsu's threshold. Images ``(C, *spatial)`` in 2-D or 3-D, without
    negative values (magnitudes); each channel has its own field. A channel without foreground stays as it is.

    Args:
        keys: images to correct.
        shrink: fit the field to an image smaller by this factor along each axis, but of at least eight pixels; the
            time falls with its third power (some seconds for a head of 274 x 384 x 64 voxels at 4).
        iterations: at most so many for each level, from coarse to fine.
        restore: let `inverse` multiply the field back, for which it is kept with the image. Pass False where `Invertd`
            puts a mask or probabilities back on the grid of the file: it would multiply these too.
        allow_missing_keys: pass items without a key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        shrink: int = 4,
        iterations: Sequence[int] = (50, 50, 50, 50),
        restore: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, False, restore, allow_missing_keys)
        if shrink < 1 or not iterations or min(iterations) < 1:
            raise ValueError(f"`shrink` and all `iterations` must be at least 1, got {shrink} and {list(iterations)}.")
        self.shrink, self.iterations = shrink, tuple(iterations)

    def fit(self, channel: Array) -> tuple[Array, Array]:
        channel, offset = np.nan_to_num(channel, posinf=0.0, neginf=0.0), np.zeros([1] * channel.ndim, np.float32)
        inside = channel > max(_otsu(channel), 0.0)
        image, mask = (sitk.GetImageFromArray(part) for part in (channel, inside.astype(np.uint8)))
        factors = [max(1, min(self.shrink, size // 8)) for size in image.GetSize()]
        small = sitk.Shrink(mask, factors)
        if not sitk.GetArrayViewFromImage(small).any():
            return offset, np.ones_like(channel)
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations(self.iterations)
        n4.Execute(sitk.Shrink(image, factors), small)
        return offset, np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)))


class RobustIntensityd(_Rescaled):
    """Scale grey values to [0, 1] by percentiles that outliers and the share of air in the image do not move.

    1 stands for a percentile of the foreground (brighter than Otsu's threshold), so that more air around the body
    changes nothing; 0 for a percentile of the whole image: dark tissue is darker than Otsu's threshold in many MR
    images, and must not be lost. Each channel ``(*spatial)`` of an image is scaled by itself. A constant channel
    becomes 0. Values that are not finite are left out of the percentiles.

    Args:
        keys: images to scale.
        lower: percentile of the whole image that becomes 0.
        upper: percentile of the foreground that becomes 1.
        clip: cut off what is below 0 or above 1. The inverse is then exact only for values that were inside.
        restore: let `inverse` map back to the original grey values. Pass False where `Invertd` puts a mask or
            probabilities back on the grid of the file: it would map these too.
        allow_missing_keys: pass items without a key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 0.5,
        upper: float = 99.5,
        clip: bool = True,
        restore: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, clip, restore, allow_missing_keys)
        if not 0.0 <= lower < upper <= 100.0:
            raise ValueError(f"`lower` < `upper` must be percentiles in [0, 100], got {lower} and {upper}.")
        self.lower, self.upper = lower, upper

    def fit(self, channel: Array) -> tuple[Array, Array]:
        values = channel[np.isfinite(channel)] if np.isfinite(channel).any() else np.zeros(1)
        bright = values[values > _otsu(values)]
        low, high = np.percentile(values, self.lower), np.percentile(bright if bright.size else values, self.upper)
        one = np.ones([1] * channel.ndim, np.float32)
        return np.float32(low) * one, np.float32(high - low if high > low else 1.0) * one


def _otsu(values: Array) -> float:
    """Threshold between two classes of grey values (Otsu, IEEE SMC 9:62-66, 1979); outliers are cut off before."""
    line = values.clip(*np.percentile(values, (0.1, 99.9))).astype(np.float32).reshape(1, -1)
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(sitk.GetImageFromArray(line))
    return float(otsu.GetThreshold())
