from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

pytest.importorskip("torch")

import torch
from torch import Generator, Tensor

from app.types import OUTSIDE_COLOUR
from model.data.augmentation import Augmentation, augment, blur, colour, cover, crop, erase, geometry, jpeg, noise

STILL = {"rotation_degrees": 0, "scale": 0, "shift_pixels": 0}
PROBABILITIES = [name for name in Augmentation.model_fields if name.endswith("_probability")]
ALWAYS = Augmentation(**dict.fromkeys(PROBABILITIES, 1.0))
NEVER = Augmentation(**dict.fromkeys(PROBABILITIES, 0.0))
SIDE = 32


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def pictures(count: int = 16, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, SIDE, SIDE), generator=rng(seed)) * 255


def same(a: Tensor, b: Tensor, tolerance: float = 0.02) -> Tensor:
    """Which pictures are equal, bool [B]."""
    return (a - b).abs().flatten(1).amax(dim=1) <= tolerance


@pytest.mark.parametrize("count", [1, 2, 33])
@pytest.mark.parametrize("side", [32, 112])
@pytest.mark.parametrize("config", [Augmentation(), ALWAYS, NEVER], ids=["default", "always", "never"])
def test_augment_gives_planes_in_range_and_leaves_its_input(count: int, side: int, config: Augmentation) -> None:
    chips = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=rng(1))
    before = chips.clone()
    x = augment(chips, config, rng())
    assert x.shape == (count, 3, side, side)
    assert x.dtype == torch.float32
    assert x.min() >= 0
    assert x.max() <= 255 + 1e-3
    assert torch.equal(chips, before)


def test_augment_depends_on_the_generator_only() -> None:
    chips = torch.randint(0, 256, (8, SIDE, SIDE, 3), dtype=torch.uint8, generator=rng(1))
    torch.manual_seed(0)
    first = augment(chips, ALWAYS, rng(7))
    torch.manual_seed(1)
    assert torch.equal(augment(chips, ALWAYS, rng(7)), first)
    assert not torch.equal(augment(chips, ALWAYS, rng(8)), first)


def test_augment_without_any_change_only_flips() -> None:
    chips = torch.randint(0, 256, (32, SIDE, SIDE, 3), dtype=torch.uint8, generator=rng(1))
    x, planes = augment(chips, NEVER.model_copy(update=STILL), rng()), chips.permute(0, 3, 1, 2).float()
    as_it_was, mirrored = same(x, planes), same(x, planes.flip(3))
    assert (as_it_was ^ mirrored).all()
    assert 6 < mirrored.sum() < 26


@pytest.mark.parametrize("change", [blur, colour, cover, erase, jpeg, noise])
def test_a_change_of_probability_zero_leaves_every_bit(change: object) -> None:
    x = pictures()
    assert callable(change)
    assert torch.equal(change(x.clone(), NEVER, rng()), x)


@pytest.mark.parametrize("change", [blur, colour, cover, erase, jpeg, noise])
def test_a_change_of_probability_one_reaches_every_picture(change: object) -> None:
    x = pictures(40)
    assert callable(change)
    assert not same(change(x.clone(), ALWAYS, rng()), x).any()


@pytest.mark.parametrize(
    ("change", "probability"),
    [
        (blur, "blur"),
        (colour, "colour"),
        (colour, "grey"),
        (cover, "cover"),
        (erase, "erase"),
        (jpeg, "jpeg"),
        (noise, "noise"),
    ],
)
def test_a_change_reaches_about_the_share_that_was_asked_for(change: object, probability: str) -> None:
    x = pictures(400)
    config = NEVER.model_copy(update={f"{probability}_probability": 0.3})
    assert callable(change)
    assert 0.2 < (~same(change(x.clone(), config, rng()), x)).float().mean() < 0.4


def test_still_geometry_only_flips() -> None:
    x = pictures(64)
    moved = geometry(x, Augmentation(**STILL), rng())
    as_it_was, mirrored = same(moved, x), same(moved, x.flip(3))
    assert (as_it_was ^ mirrored).all()
    assert 16 < mirrored.sum() < 48


def test_a_shift_moves_by_no_more_than_was_asked_for() -> None:
    # One bright dot in the middle; where it went tells how far a picture moved.
    x = torch.zeros(64, 1, SIDE + 1, SIDE + 1).repeat(1, 3, 1, 1)
    middle = SIDE // 2
    x[:, :, middle, middle] = 255
    config = Augmentation(rotation_degrees=0, scale=0, shift_pixels=3)
    moved = geometry(x, config, rng())[:, 0, 8:-8, 8:-8]
    mass = moved.sum(dim=(1, 2))
    ticks = torch.arange(moved.shape[1]) + 8.0 - middle
    down = (moved.sum(dim=2) * ticks).sum(dim=1) / mass
    right = (moved.sum(dim=1) * ticks).sum(dim=1) / mass
    for offset in (down, right):
        assert offset.abs().max() <= 3.01
        assert offset.abs().max() > 2
        assert (offset > 0).any()
        assert (offset < 0).any()


def test_what_comes_into_view_is_the_edge_or_one_flat_colour() -> None:
    x = torch.full((64, 3, SIDE, SIDE), 100.0)
    moved = geometry(x, Augmentation(shift_pixels=10), rng())
    foreign = (moved - 100).abs().amax(dim=1) > 0.01
    painted = foreign.flatten(1).any(dim=1)
    assert 16 < painted.sum() < 48
    for picture, mask in zip(moved[painted], foreign[painted], strict=True):
        paint = picture[:, mask]
        assert torch.allclose(paint, paint[:, :1].expand_as(paint))
        assert mask.float().mean() < 0.8


def test_blur_takes_the_fine_detail_only() -> None:
    flat = torch.full((8, 3, SIDE, SIDE), 90.0)
    assert torch.allclose(blur(flat.clone(), ALWAYS, rng()), flat)
    x = pictures(8)
    assert (blur(x.clone(), ALWAYS, rng()).var(dim=(1, 2, 3)) < 0.8 * x.var(dim=(1, 2, 3))).all()


def test_grey_pictures_have_equal_channels() -> None:
    x = pictures(8)
    config = NEVER.model_copy(update={"grey_probability": 1.0})
    grey = colour(x.clone(), config, rng())
    torch.testing.assert_close(grey, x.mean(dim=1, keepdim=True).expand_as(x))


def test_erase_covers_one_rectangle_with_one_colour() -> None:
    x = pictures(40)
    erased = erase(x.clone(), ALWAYS, rng())
    for before, after in zip(x, erased, strict=True):
        changed = (before != after).any(dim=0)
        rows, columns = (torch.nonzero(changed.any(dim=d)).flatten() for d in (1, 0))
        box = after[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert torch.equal(box, box[:, :1, :1].expand_as(box))
        assert min(box.shape[1:]) >= 0.08 * SIDE
        assert max(box.shape[1:]) <= 0.45 * SIDE


def test_noise_is_of_a_few_grey_levels_and_centred() -> None:
    grey = torch.full((40, 3, SIDE, SIDE), 128.0)
    added = noise(grey.clone(), ALWAYS, rng()) - 128
    level = added.flatten(1).std(dim=1)
    assert level.min() > 1.8
    assert level.max() < 15.5
    assert added.mean().abs() < 0.3


@pytest.mark.parametrize(("name", "value"), [("blur_probability", 1.5), ("rotation_degrees", -1), ("scale", 1.0)])
def test_senseless_strengths_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        Augmentation(**{name: value})


def test_planes_are_the_channels_of_the_chip() -> None:
    chip = np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8)
    chip[..., 0], chip[..., 1], chip[..., 2] = 10, 20, 30
    x = augment(torch.from_numpy(chip), NEVER.model_copy(update=STILL), rng())
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.tensor([10.0, 20.0, 30.0]), atol=0.01, rtol=0)


def test_cover_hides_the_lower_face_or_the_eyes_in_one_colour() -> None:
    x = pictures(60)
    covered = cover(x.clone(), ALWAYS, rng())
    kinds = set()
    for before, after in zip(x, covered, strict=True):
        rows = (before - after).abs().amax(dim=(0, 2)).gt(0).nonzero().flatten()
        # Consecutive rows over the whole width, of one colour.
        assert rows.tolist() == list(range(int(rows[0]), int(rows[-1]) + 1))
        assert (after[:, rows] == after[:, rows[:1], :1]).all()
        lower = int(rows[-1]) == SIDE - 1
        kinds.add(lower)
        top, bottom = int(rows[0]) / SIDE, (int(rows[-1]) + 1) / SIDE
        assert (0.52 < top < 0.73) if lower else (0.31 < top < 0.45 and 0.48 < bottom < 0.63)
    assert kinds == {True, False}


def test_jpeg_keeps_the_picture_and_loses_detail() -> None:
    smooth = torch.linspace(0, 255, SIDE).expand(8, 3, SIDE, SIDE).contiguous()
    compressed = jpeg(smooth.clone(), ALWAYS, rng())
    assert 0 < (compressed - smooth).abs().mean() < 6
    assert (jpeg(pictures(8), ALWAYS, rng()) - pictures(8)).abs().mean() > 10


def test_a_recipe_without_cover_and_jpeg_draws_the_numbers_that_it_always_drew() -> None:
    chips = torch.randint(0, 256, (8, SIDE, SIDE, 3), dtype=torch.uint8, generator=rng(1))
    generator, x = rng(5), chips.permute(0, 3, 1, 2).float()
    for change in (geometry, blur, colour, erase, noise):
        x = change(x, Augmentation(), generator)
    other = rng(5)
    assert torch.equal(augment(chips, Augmentation(), other), x)
    assert torch.equal(other.get_state(), generator.get_state())


def test_crop_paints_the_outside_grey_or_black_and_keeps_the_middle() -> None:
    before = pictures(200) + 10
    after = crop(before.clone(), ALWAYS, rng())
    changed = (after != before).any(dim=1)
    assert not changed[:, SIDE // 3 : 2 * SIDE // 3, SIDE // 3 : 2 * SIDE // 3].any()
    assert changed.flatten(1).any(dim=1).float().mean() > 0.9
    colours = {tuple(after[i, :, y, x].tolist()) for i, y, x in changed.nonzero().tolist()}
    assert colours == {OUTSIDE_COLOUR, (0.0, 0.0, 0.0)}
    assert torch.equal(crop(before.clone(), NEVER, rng()), before)
