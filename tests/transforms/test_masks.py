"""Images and masks of one size: padded, never cut."""

import pytest
import torch

from medssl_monai.transforms import UNLABELED, PadToSized


class TestPadToSized:
    def test_zeros_for_images_unlabeled_for_masks_and_back(self):
        pad = PadToSized("image", [6, 4])
        data = {"image": torch.ones(1, 3, 4), "label": torch.ones(1, 3, 4, dtype=torch.uint8)}
        padded = PadToSized("label", [6, 4], value=UNLABELED)(pad(data))
        assert padded["image"].shape == padded["label"].shape == (1, 6, 4)
        assert padded["label"].dtype == torch.uint8
        assert torch.equal(padded["image"] == 0, padded["label"] == UNLABELED)
        assert int((padded["image"] == 0).sum()) == 12
        assert torch.equal(pad.inverse({"image": padded["image"]})["image"].as_tensor(), data["image"])

    def test_larger_ones_are_told_the_size_they_need(self):
        message = r"s1: 'image' is \[9, 3\] after resampling, larger than `image_size` \[6, 4\]; .* at least \[9, 4\]"
        with pytest.raises(ValueError, match=message):
            PadToSized("image", [6, 4])({"image": torch.ones(1, 9, 3), "id": "s1"})
        with pytest.raises(ValueError, match=r"s1: 'image' has 3 dimensions, and `image_size` .* has 2"):
            PadToSized("image", [6, 4])({"image": torch.ones(1, 3, 3, 3), "id": "s1"})
