"""Pictures of what the class of an image rests on, drawn over the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.transforms import Compose, LoadImaged, ScaleIntensityRangePercentilesd
from scipy.ndimage import minimum_filter

from medssl_monai.data.datalist import Item
from medssl_monai.data.readable import ReadableImages
from medssl_monai.files import write_atomically
from medssl_monai.handlers.mask_writer import NOTE, file_name
from medssl_monai.options import Nan
from medssl_monai.png import save_png
from medssl_monai.readers.grids import Array
from medssl_monai.readers.mask_files import write_mask
from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.transforms.load import Channelsd, TakeSliced

FULL = 99.5
"""Percentile of an image's saliency that is drawn as strong as can be."""
OPACITY = 0.65
"""Opacity of the strongest saliency; where there is none, the image is bare."""
COLOURS = (
    *((0, 0, 4), (33, 12, 74), (87, 16, 110), (138, 34, 106), (188, 55, 84)),
    *((228, 90, 49), (249, 142, 9), (249, 203, 53), (252, 255, 164)),
)
"""From no saliency to the strongest, evenly brighter to the eye: nine of Matplotlib's ``inferno`` (CC0)."""
OUTLINE = (0, 255, 255)


class SaliencyWriter:
    """Write for every image, by its id, where its predicted class comes from: a file below ``saliency``.

    Of an image or a slice it is a PNG file of the same size as the image: the image, its percentiles 0.5 and 99.5
    stretched from black to white as networks are shown it, under the saliency in colours from dark purple to light
    yellow, with the predicted mask outlined in cyan. Of a volume it is a NIfTI file in its geometry, as the masks have
    it, with values from 0 to 255.

    The saliency is the strongest of the channels, and scaled to its own 99.5th percentile in each image: overlays show
    where, and cannot be compared in how much. What the file says on the person is not copied.

    Args:
        folder: ``saliency`` is made in it.
        dataset: what the evaluator reads.
        synthetic: whether the weights come from phantoms; every file says so.
        outline: key of the mask in the evaluator's output; None: of a network that tells none.
        nan: as the images were read that the evaluator saw; see `medssl_monai.readers.ClinicalReader`.
    """

    def __init__(
        self,
        folder: str | Path,
        dataset: ReadableImages,
        synthetic: bool = False,
        outline: str | None = "pred",
        nan: Nan = "refuse",
    ) -> None:
        self.folder, self.dataset, self.outline = Path(folder) / "saliency", dataset, outline
        self.note = f"model {NOTE}" if synthetic else ""
        self.written = 0
        reader: Any = ClinicalReader(nan=nan)  # `LoadImaged` takes an object, too, and does not say so
        self.picture = Compose(
            [
                LoadImaged("image", reader=reader, image_only=True, ensure_channel_first=True),
                TakeSliced("image"),
                Channelsd("image", channels=3),
                ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, clip=True),
            ]
        )

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget an earlier run."""
        self.written = 0

    def add(self, engine: Engine) -> None:
        """Write what one decollated batch has.

        ``saliency`` is ``(C, *spatial)`` on the grid of the file, volumes in its axes; the mask ``(1, *spatial)``.
        """
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            if "saliency" in output:
                mask = None if self.outline is None else np.asarray(output[self.outline].cpu())[0]
                self._write(self.dataset.data[int(item["index"])], np.asarray(output["saliency"].cpu()), mask)
                self.written += 1

    def finish(self, engine: Engine) -> None:
        """Say what was written."""
        if self.written:
            engine.logger.info(f"Saliency of {self.written} images: {self.folder}")
        else:
            engine.logger.info("The network has no saliency (`bridge: none`), so that none is written.")

    def _write(self, source: Item, saliency: Array, mask: Array | None) -> None:
        stem, strength = self.folder / file_name(str(source["id"])), scaled(saliency)
        if strength.ndim == 3:
            values = np.rint(255 * strength)  # whole numbers, as of classes
            write_mask(stem, values, Path(source["image"]), num_classes=256, note=self.note)
            return
        item: dict[str, Any] = {key: source[key] for key in ("image", "slice", "id") if key in source}
        image = np.moveaxis(np.asarray(self.picture(item)["image"]), 0, -1)
        pixels = overlay(image, strength, mask).transpose(1, 0, 2)
        write_atomically(stem.with_name(f"{stem.name}.png"), lambda file: save_png(file, pixels, self.note))


def scaled(saliency: Array) -> Array:
    """Return the strength of a saliency ``(C, *spatial)``, ``(*spatial)`` in [0, 1]; 1 from percentile `FULL` on."""
    strongest = saliency.max(axis=0)
    full = np.percentile(strongest, FULL) or strongest.max()  # where less than a two hundredth has any
    return (strongest / full).clip(0.0, 1.0) if full > 0 else np.zeros_like(strongest)


def overlay(image: Array, strength: Array, mask: Array | None = None) -> Array:
    """Draw the saliency over an image, and the outline of its mask.

    Args:
        image: ``(x, y, 3)`` in [0, 1].
        strength: ``(x, y)`` in [0, 1]; also of the colour's opacity.
        mask: class indices ``(x, y)``; the outline lies inside of the class of higher index.

    Returns:
        Red, green and blue of 8 bits, ``(x, y, 3)``.
    """
    places = np.linspace(0.0, 1.0, len(COLOURS))
    colour = np.stack([np.interp(strength, places, channel) for channel in np.transpose(COLOURS)], axis=-1)
    opacity = OPACITY * strength[..., None]
    pixels = np.rint(255 * image * (1 - opacity) + colour * opacity).astype(np.uint8)
    if mask is not None:
        width = 1 + max(mask.shape) // 512  # to be seen on a radiograph as well
        pixels[mask != minimum_filter(mask, size=1 + 2 * width)] = OUTLINE
    return pixels
