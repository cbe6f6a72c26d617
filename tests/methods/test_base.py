"""What the interface of methods refuses."""

import pytest
from methods.entries import CLASSES, FINDINGS, adapl, alignment, tear, threshold

from medssl_monai.losses import QueueAlignment
from medssl_monai.methods import BoostMIS, FixMatch


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("alignment", lambda net, own, other: FixMatch(net, alignment=alignment(other), kind=own)),
        ("threshold", lambda net, own, other: BoostMIS(net, threshold(other), kind=own)),
        ("alignment", lambda net, own, other: BoostMIS(net, threshold(own), alignment=alignment(other), kind=own)),
        ("adapl", lambda net, own, other: tear(net, own, adapl=adapl(other, "ema"))),
        (
            "alignment",
            lambda net, own, other: tear(net, own, alignment=QueueAlignment(other.shape, labeled_target=True)),
        ),
    ],
)
@pytest.mark.parametrize("kinds", [(CLASSES.kind, FINDINGS.kind), (FINDINGS.kind, CLASSES.kind)], ids=str)
def test_parts_for_labels_of_another_shape_are_refused(name, make, kinds):
    own, other = kinds
    with pytest.raises(ValueError, match=rf"`{name}` is made for outcomes .*; give it the `shape` of the kind"):
        make(CLASSES.network(), own, other)
