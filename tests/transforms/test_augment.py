"""Random views of batches."""

import pytest
import torch
from torch import nn

from medssl_monai.transforms import (
    Affine,
    BiasField,
    Brightness,
    Compose,
    Contrast,
    Cutout,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    RandomSubset,
    Views,
    to_unit,
)

OPERATIONS = {
    "affine": lambda: Affine(rotate=20, shift=0.1, scale=0.15, shear=0.15, flip=[0, 1]),
    "brightness": Brightness,
    "contrast": Contrast,
    "gamma": Gamma,
    "noise": GaussianNoise,
    "blur": GaussianBlur,
    "bias field": BiasField,
    "cutout": Cutout,
    "subset": lambda: RandomSubset([Brightness(), Gamma(), Cutout()], count=2),
    "compose": lambda: Compose([Affine(rotate=5), GaussianNoise()]),
}
AT_ZERO = {
    "affine": Affine,
    "brightness": lambda: Brightness(0.0),
    "contrast": lambda: Contrast(0.0),
    "gamma": lambda: Gamma(0.0),
    "noise": lambda: GaussianNoise(0.0),
    "blur": lambda: GaussianBlur(0.0),
    "bias field": lambda: BiasField(0.0),
    "cutout": lambda: Cutout(0.0),
    "subset": lambda: RandomSubset([Brightness(), Gamma()], count=0),
    "compose": lambda: Compose([]),
}
SHAPES = {"2-D": (6, 1, 16, 12), "2-D, colour": (6, 3, 12, 16), "3-D": (6, 2, 10, 12, 8)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(shape, seed=5):
    return torch.rand(shape, generator=seeded(seed))


@pytest.fixture(params=OPERATIONS)
def operation(request):
    return OPERATIONS[request.param]()


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def images(request):
    return draw(request.param)


def test_shape_type_and_range_are_kept(operation, images):
    for seed in range(5):
        result = operation(images, seeded(seed))
        assert result.shape == images.shape
        assert result.dtype == torch.float32
        assert result.min() >= -1e-6
        assert result.max() <= 1 + 1e-6
        assert torch.isfinite(result).all()


@pytest.mark.parametrize("name", sorted({*OPERATIONS} - {"noise", "compose"}))  # noise differs between colours
def test_all_colours_are_changed_alike(name):
    grey = draw((6, 1, 12, 16)).repeat(1, 3, 1, 1)
    result = OPERATIONS[name]()(grey, seeded())
    assert not torch.equal(result, grey)
    torch.testing.assert_close(result, result[:, :1].repeat(1, 3, 1, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_range_is_kept_at_its_ends(operation, grey):
    result = operation(torch.full((4, 1, 9, 9), grey), seeded())
    assert torch.isfinite(result).all()
    assert result.min() >= -1e-6
    assert result.max() <= 1 + 1e-6


def test_the_input_is_left_alone(operation, images):
    before = images.clone()
    operation(images, seeded())
    assert torch.equal(images, before)


def test_same_generator_same_images_and_another_one_others(operation, images):
    first = operation(images, seeded(1))
    assert torch.equal(first, operation(images, seeded(1)))
    assert not torch.equal(first, operation(images, seeded(2)))


def test_nothing_is_drawn_from_the_global_generator(operation, images):
    before = torch.get_rng_state()
    operation(images, seeded())
    assert torch.equal(before, torch.get_rng_state())


def test_every_sample_has_parameters_of_its_own(operation, images):
    result = operation(images[:1].repeat(24, *[1] * (images.ndim - 1)), seeded(3))
    assert len(result.flatten(1).unique(dim=0)) > 12  # a box may be smaller than a pixel, a subset drawn twice


def test_a_batch_of_one(operation, images):
    assert operation(images[:1], seeded()).shape == images[:1].shape


@pytest.mark.parametrize("name", AT_ZERO)
def test_zero_strength_is_the_identity(name, images):
    torch.testing.assert_close(AT_ZERO[name]()(images, seeded()), images, rtol=0, atol=2e-6)


def test_every_operation_is_tested_at_zero_strength():
    assert AT_ZERO.keys() == OPERATIONS.keys()


@pytest.fixture
def known_draw(monkeypatch):
    """Replaces the numbers that the operations draw: ``known_draw(value)`` is where in [low, high) all of them lie."""

    def _known(*values):
        numbers = list(values)

        def uniform(images, low, high, generator, *shape):
            size = (len(images), *(shape or (1,) * (images.ndim - 1)))
            value = numbers.pop(0) if len(numbers) > 1 else numbers[0]
            return torch.as_tensor(value, dtype=torch.float32).expand(size) * (high - low) + low

        monkeypatch.setattr("medssl_monai.transforms.augment._uniform", uniform)

    return _known


NOTHING = 0.5  # the middle of [-1, 1): no rotation, no scaling, no shear, no shift
FLIP, KEEP = 0.25, 0.75


def centred(dims):
    """The affine draws rotate, scale, shear, shift per axis (last axis first), in [0, 1)."""
    return torch.full((3 + dims,), NOTHING)


@pytest.fixture(params=[(1, 1, 5, 5), (2, 3, 5, 5, 5)], ids=["2-D", "3-D"])
def square(request):
    return draw(request.param)


def test_flip_0_is_the_first_spatial_axis_only(square, known_draw):
    known_draw(centred(square.ndim - 2), FLIP)
    torch.testing.assert_close(Affine(flip=[0])(square, seeded()), square.flip(2), rtol=0, atol=1e-5)


def test_flip_mirrors_the_named_axis(square, known_draw):
    for axis in range(square.ndim - 2):
        known_draw(centred(square.ndim - 2), FLIP)
        result = Affine(flip=[axis])(square, seeded())
        torch.testing.assert_close(result, square.flip(2 + axis), rtol=0, atol=1e-5)


def test_flip_leaves_the_other_half_of_the_images_alone(square, known_draw):
    known_draw(centred(square.ndim - 2), KEEP)
    torch.testing.assert_close(Affine(flip=[0])(square, seeded()), square, rtol=0, atol=1e-5)


def test_about_half_of_the_images_are_flipped():
    images = draw((1, 1, 4, 4)).expand(400, -1, -1, -1)
    result = Affine(flip=[1])(images, seeded())
    flipped = (result - images.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-5
    kept = (result - images).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert (flipped | kept).all()
    assert 150 < int(flipped.sum()) < 250


@pytest.mark.parametrize("turn", [1, -1])
def test_a_quarter_turn_is_in_the_plane_of_the_first_two_axes(square, known_draw, turn):
    draws = centred(square.ndim - 2)
    draws[0] = 0.5 + 0.5 * turn
    known_draw(draws)
    result = Affine(rotate=90)(square, seeded())
    expected = [torch.rot90(square, k, dims=(2, 3)) for k in (1, -1)]
    matches = [torch.allclose(result, image, atol=1e-5) for image in expected]
    assert sum(matches) == 1
    known_draw(1.0 - draws)
    back = Affine(rotate=90)(result, seeded())
    torch.testing.assert_close(back, square, rtol=0, atol=1e-5)


def test_half_a_turn(square, known_draw):
    draws = centred(square.ndim - 2)
    draws[0] = 1.0
    known_draw(draws)
    torch.testing.assert_close(Affine(rotate=180)(square, seeded()), square.flip(2, 3), rtol=0, atol=1e-5)


def test_shift_is_a_share_of_the_side_and_repeats_the_border(square, known_draw):
    """One of five pixels along each axis in turn; the parameters come in torch's order, last axis first."""
    dims = square.ndim - 2
    for axis in range(dims):
        draws = centred(dims)
        draws[3 + dims - 1 - axis] = 1.0
        known_draw(draws)
        result = Affine(shift=0.2)(square, seeded())
        expected = square.index_select(2 + axis, torch.tensor([1, 2, 3, 4, 4]))
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_scale_is_about_the_centre(known_draw):
    image = torch.zeros(1, 1, 9, 9)
    image[..., 4, 4] = 1.0
    draws = centred(2)
    draws[1] = 0.0
    known_draw(draws)
    result = Affine(scale=0.5)(image, seeded())  # half the step between samples: twice as large
    assert result[0, 0, 4, 4] == pytest.approx(1.0, abs=1e-5)
    assert result[0, 0, 4, 5] == pytest.approx(0.5, abs=1e-5)


def test_shear_moves_rows_against_each_other_and_keeps_the_centre(square, known_draw):
    draws = centred(square.ndim - 2)
    draws[2] = 1.0
    known_draw(draws)
    result = Affine(shear=0.5)(square, seeded())
    torch.testing.assert_close(result[:, :, 2, 2], square[:, :, 2, 2], rtol=0, atol=1e-5)
    assert not torch.allclose(result, square, atol=1e-2)


def test_a_rotation_keeps_angles_in_an_image_that_is_not_square(known_draw):
    """A disc stays a disc: pixels are square, whatever the shape of the image."""
    x, y = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(32) - 15.5, indexing="ij")
    disc = torch.sigmoid(2 * (10 - (x**2 + y**2).sqrt()))[None, None]
    draws = centred(2)
    draws[0] = 1.0
    known_draw(draws)
    result = Affine(rotate=45)(disc, seeded())
    assert float((result - disc).abs().max()) < 0.1


def test_volumes_turn_about_their_last_axis():
    volume = torch.zeros(1, 1, 8, 8, 4)
    volume[..., 1] = draw((8, 8))
    result = Affine(rotate=30)(volume, seeded())
    assert not result[..., [0, 2, 3]].any()
    assert result[..., 1].any()


def test_brightness_adds_one_constant_per_image(known_draw):
    known_draw(1.0)
    images = draw((2, 1, 4, 4)) / 2
    torch.testing.assert_close(Brightness(0.2)(images, seeded()), images + 0.2)


def test_contrast_keeps_the_mean(known_draw):
    known_draw(0.0)
    images = draw((2, 1, 4, 4))
    result = Contrast(0.5)(images, seeded())
    torch.testing.assert_close(result.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(result.std(dim=(1, 2, 3)), images.std(dim=(1, 2, 3)) / 2)


@pytest.mark.parametrize(("where", "power"), [(1.0, 1.7), (0.0, 1 / 1.7)])
def test_gamma_reaches_both_ends_of_its_range(known_draw, where, power):
    known_draw(where)
    images = draw((2, 1, 4, 4))
    torch.testing.assert_close(Gamma(0.7)(images, seeded()), images.pow(power))


def test_noise_has_the_standard_deviation_that_was_drawn(known_draw):
    known_draw(1.0)
    noise = GaussianNoise(0.1)(torch.full((1, 1, 64, 64), 0.5), seeded()) - 0.5
    assert float(noise.std()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("dims", [2, 3])
def test_blur_is_a_gaussian_of_the_sigma_that_was_drawn(known_draw, dims):
    known_draw(1.0)
    image = torch.zeros(1, 1, *[15] * dims)
    image[(0, 0, *[7] * dims)] = 1.0
    result = GaussianBlur(sigma=1.5)(image, seeded())[0, 0]
    line = result.sum(dim=tuple(range(1, dims)))
    assert float(result.sum()) == pytest.approx(1.0, abs=1e-5)
    weights = torch.exp(-0.5 * (torch.arange(-3, 4) / 1.5) ** 2)
    torch.testing.assert_close(line[4:11], weights / weights.sum())
    assert torch.allclose(result, result.transpose(0, 1))


def test_blur_keeps_channels_and_images_apart():
    images = torch.zeros(2, 2, 8, 8)
    images[0, 1] = 1.0
    result = GaussianBlur()(images, seeded())
    torch.testing.assert_close(result, images)


def test_bias_field_is_smooth_and_the_same_for_all_channels(known_draw):
    images = torch.full((1, 2, 32, 32), 0.5)
    result = BiasField(0.4)(images, seeded(4))
    assert torch.equal(result[:, 0], result[:, 1])
    assert (result - 0.5).abs().max() <= 0.2 + 1e-6
    assert result.diff(dim=2).abs().max() < 0.05


def test_cutout_is_one_grey_box_of_the_drawn_side(known_draw):
    known_draw(1.0, 0.5)  # the largest side, in the middle
    result = Cutout(0.5)(torch.zeros(1, 2, 16, 16), seeded())
    expected = torch.zeros(16, 16)
    expected[4:12, 4:12] = 0.5
    assert torch.equal(result[0, 0], expected)
    assert torch.equal(result[0, 1], expected)


class Add(nn.Module):
    """Adds its own power of ten, so that the sum tells which operations ran."""

    def __init__(self, place):
        super().__init__()
        self.place = place

    def forward(self, images, generator):
        return images + 10**self.place


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_random_subset_applies_exactly_count_operations_to_each_image(count):
    result = RandomSubset([Add(place) for place in range(4)], count)(torch.zeros(50, 1, 2, 2), seeded())
    digits = [f"{int(value):04d}" for value in result[:, 0, 0, 0]]
    assert {d.count("1") for d in digits} == {count}
    assert {d.count("0") for d in digits} == {4 - count}
    assert len(set(digits)) == {0: 1, 1: 4, 3: 4, 4: 1}[count]  # every choice occurs


@pytest.mark.parametrize("count", [-1, 3])
def test_random_subset_refuses_a_count_that_it_does_not_have(count):
    with pytest.raises(ValueError, match=rf"`count` must be in \[0, 2\], the number of operations, got {count}"):
        RandomSubset([Brightness(), Gamma()], count)


def test_compose_runs_in_order():
    result = Compose([Add(0), Gamma(0.0), Add(1)])(torch.zeros(1, 1, 2, 2), seeded())
    assert result.unique().tolist() == [11.0]


def test_to_unit_scales_whole_numbers_only():
    assert to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0.0, 0.2, 1.0])
    halves = torch.tensor([0.5], dtype=torch.float16)
    assert to_unit(halves).dtype == torch.float32
    assert to_unit(halves).tolist() == [0.5]


def make_batch(dtype=torch.uint8):
    pixels = (draw((2, 3, 1, 8, 8)) * 255).to(torch.uint8)
    pixels = pixels if dtype == torch.uint8 else pixels.float() / 255
    return {
        "labeled": {"image": pixels[0], "index": torch.arange(3), "label": torch.tensor([0, 1, 0])},
        "unlabeled": {"image": pixels[1], "index": torch.arange(3, 6)},
    }


def test_views_names_the_streams_and_keeps_their_other_keys():
    views = Views(Affine(flip=[0]), Cutout())(make_batch(), seeded())
    assert {name: set(stream) for name, stream in views.items()} == {
        "labeled": {"image", "index", "label"},
        "unlabeled": {"weak", "strong", "index"},
    }
    assert views["unlabeled"]["index"].tolist() == [3, 4, 5]
    assert views["labeled"]["label"].tolist() == [0, 1, 0]


def test_views_turns_bytes_into_unit_floats_and_leaves_the_batch_alone():
    batch = make_batch()
    views = Views(Affine(), Cutout())(batch, seeded())
    torch.testing.assert_close(views["labeled"]["image"], batch["labeled"]["image"] / 255, rtol=0, atol=1e-5)
    for image in (views["labeled"]["image"], views["unlabeled"]["weak"], views["unlabeled"]["strong"]):
        assert image.dtype == torch.float32
        assert image.max() <= 1
    assert batch["labeled"]["image"].dtype == torch.uint8
    torch.testing.assert_close(batch, make_batch(), rtol=0, atol=0)


def test_views_of_floats_are_those_of_bytes():
    views = Views(Affine(flip=[0]), Cutout())
    torch.testing.assert_close(views(make_batch(), seeded()), views(make_batch(torch.float32), seeded()))


def test_the_strong_view_distorts_a_weak_view_of_its_own():
    views = Views(Affine(shift=0.2), Compose([]))(make_batch(), seeded())
    assert not torch.equal(views["unlabeled"]["weak"], views["unlabeled"]["strong"])


def test_views_of_labeled_images_alone():
    batch = make_batch()
    del batch["unlabeled"]
    assert set(Views(Affine(), Cutout())(batch, seeded())) == {"labeled"}


def test_views_carry_no_gradient():
    class Trained(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, images, generator):
            return images * self.gain

    views = Views(Trained(), Trained())(make_batch(), seeded())
    assert not views["unlabeled"]["strong"].requires_grad
