"""Classes, masks and saliency in one pass of MONAI's evaluator."""

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer

from medssl_monai.data import ImageDataset
from medssl_monai.engines import JointStep
from medssl_monai.engines.predict import PartLogits
from medssl_monai.kinds import Classes, Masks
from medssl_monai.networks import MultiMixNetwork

IMAGES = torch.rand(3, 1, 16, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MultiMixNetwork(num_classes=3, channels=(4, 8))


def predict(network, **settings):
    """What the evaluator leaves of two batches, decollated, as one tensor per key."""
    data = [{"image": MetaTensor(image), "index": index} for index, image in enumerate(IMAGES)]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=2),
        network=network,
        iteration_update=JointStep(),
        **settings,
    )
    outputs = []

    def keep(engine):
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            assert int(item["index"]) == len(outputs)
            outputs.append(output)

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, keep)
    evaluator.run()
    return {key: torch.stack([output[key] for output in outputs]) for key in outputs[0]}


def test_everything_is_of_one_pass_in_evaluation_mode_and_leaves_no_trace(network):
    passes = []
    network.register_forward_hook(lambda *_: passes.append("forward"))
    network.output.register_forward_hook(lambda *_: passes.append("decoder"))
    found = predict(network.train())
    assert passes == ["decoder", "decoder"]  # two batches, no pass through `forward`
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    wanted = network.eval().joint(IMAGES)
    assert found.keys() == {"classes", "pred", "saliency"}
    for value, other in zip((found["classes"], found["pred"], found["saliency"]), wanted, strict=True):
        assert not value.requires_grad
        torch.testing.assert_close(value.as_tensor(), other.detach())
    assert found["saliency"].amax() > 0


def test_without_a_bridge_there_is_no_saliency():
    found = predict(MultiMixNetwork(channels=(4, 8), bridge="none"))
    assert found.keys() == {"classes", "pred"}


def test_outputs_are_float32_under_autocast(network):
    exact, found = predict(network), predict(network, amp=True, amp_kwargs={"dtype": torch.bfloat16})
    assert {value.dtype for value in found.values()} == {torch.float32}
    for key in ("classes", "pred"):
        assert not torch.equal(found[key], exact[key])  # it was at work
    torch.testing.assert_close(found["pred"], exact["pred"], atol=0.1, rtol=0.1)
    torch.testing.assert_close(found["saliency"], exact["saliency"])  # float32 in any case


def test_masks_in_windows_and_classes_of_whole_images_as_in_evaluation(network):
    """Whoever trains on patches sees in inference what `evaluate` measures."""
    whole = predict(network)
    found = predict(network, inferer=SlidingWindowInferer((8, 8), sw_batch_size=4, overlap=0.5, mode="gaussian"))
    with torch.no_grad():
        dataset = ImageDataset([{"image": "x"}] * 3, lambda item: {"image": IMAGES[0]}, patch_size=(8, 8))
        logits = PartLogits(network.eval(), dataset, {"label": Classes(), "mask": Masks()})(IMAGES)
    torch.testing.assert_close(found["classes"], logits["label"])
    torch.testing.assert_close(found["pred"], logits["mask"])
    assert torch.equal(found["saliency"], whole["saliency"])
    assert not torch.allclose(found["pred"], whole["pred"], atol=1e-3)
