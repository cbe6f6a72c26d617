"""Let torchvision's build for CUDA be imported beside a torch for CPUs.

There it cannot load its compiled operators, and then stops where it adds to them: ``RuntimeError: operator
torchvision::nms does not exist``. MONAI Label imports torchvision without need of them, so this module declares their
schemas just before torchvision is imported, and a Python that never imports torchvision pays for nothing. The operators
still do not run: ``torchvision.ops.nms`` raises.

``scripts/environment.sh`` copies it into the environment of MONAI Label if torchvision does not import there, with a
``.pth`` file that imports it when Python starts.
"""

import sys


class _Declaration:
    """A meta path finder that finds nothing, and sees the import of torchvision coming."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch  # seconds, and so not before torchvision is wanted

            self.library = torch.library.Library("torchvision", "DEF")  # the schemas live as long as this object
            for operator in ("nms", "qnms"):
                self.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


declaration = _Declaration()
sys.meta_path.insert(0, declaration)
