"""Classes, masks and what the classes rest on, in one pass of an evaluator."""

from __future__ import annotations

from typing import Any, cast

import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from medssl_monai.networks.multimix import MultiMixNetwork


class JointStep:
    """The ``iteration_update`` of MONAI's `SupervisedEvaluator` for a network with ``joint`` (`MultiMixNetwork`).

    It puts into ``engine.state.output``, in the type of the images also under autocast, and with the history that leads
    back to their files:

    - ``classes``: class logits ``(B, num_classes)``;
    - ``pred``: mask logits ``(B, K, *spatial)``, under the key that transforms and tools expect of a segmentation;
    - ``saliency``: ``(B, C, *spatial)``, at least 0; not there, if the network has no bridge.

    All are of whole images. Where the evaluator's inferer is another one than MONAI's `SimpleInferer`, say one of
    windows for a network that was trained on patches, masks are what that makes of the network, in a second pass; a
    class and its saliency are of no window. `medssl_monai.engines.predict.PartLogits` evaluates alike.
    """

    def __call__(self, engine: SupervisedEvaluator, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Predict a batch; MONAI's events of an iteration are fired, so that it is decollated and post-processed."""
        device, network = engine.state.device, cast(MultiMixNetwork, engine.network)
        images, _ = engine.prepare_batch(batch, device, engine.non_blocking, **engine.to_kwargs)
        plain = convert_to_tensor(images, track_meta=False)  # gradients are not for `MetaTensor`
        with engine.mode(network), torch.autocast(device.type, enabled=engine.amp, **engine.amp_kwargs):
            classes, masks, saliency = network.joint(plain)
            if not isinstance(engine.inferer, SimpleInferer):
                masks = engine.inferer(plain, network)
        output = {"classes": classes, "pred": masks, "saliency": saliency}
        engine.state.output = {
            key: convert_to_dst_type(value, images)[0] for key, value in output.items() if value is not None
        }
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
