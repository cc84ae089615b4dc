from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from app.faces import (
    DecodeLimits,
    FaceFinder,
    FacePolicy,
    ImageTooLargeError,
    TooMuchWorkError,
    WorkBudget,
    WorkLimits,
    YunetDetector,
    decode,
)
from app.faces import budget as budget_module
from app.types import Pixels
from tests.app.faces import attacks
from tests.app.faces.conftest import encode, photograph

ROOMY = WorkLimits(max_pixels=10**9, max_seconds=3600)


class Clock:
    """A clock that goes on by a second each time somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def test_the_pixels_of_all_photographs_are_summed() -> None:
    budget = WorkBudget(replace(ROOMY, max_pixels=100))
    budget.spend(60)
    budget.spend(40)
    with pytest.raises(TooMuchWorkError, match="Send fewer") as caught:
        budget.spend(1)
    assert caught.value.code == "too_much_work"
    assert caught.value.details == {"budget": "pixels", "max_request_pixels": 100}


def test_the_time_runs_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(budget_module, "time", clock)
    budget = WorkBudget(replace(ROOMY, max_seconds=2.5))
    budget.check()
    budget.check()
    with pytest.raises(TooMuchWorkError, match=r"2\.5 s") as caught:
        budget.check()
    assert caught.value.details == {"budget": "seconds", "max_request_seconds": 2.5}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photograph_is_paid_for_before_it_is_decoded(kind: str) -> None:
    data = encode(Image.new("RGB", (100, 80)), kind)
    decode(data, DecodeLimits(), budget=WorkBudget(replace(ROOMY, max_pixels=8000)))
    # What cannot be decoded was refused for its price first.
    for file in (data, data[:-20] + bytes(20)):
        with pytest.raises(TooMuchWorkError):
            decode(file, DecodeLimits(), budget=WorkBudget(replace(ROOMY, max_pixels=7999)))


def test_everything_in_an_avif_is_paid_for() -> None:
    image = Image.effect_noise((100, 80), 50).convert("RGB")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = encode(image, "AVIF")
    decode(data, DecodeLimits(), budget=WorkBudget(replace(ROOMY, max_pixels=16_000)))
    for file in (data, data[:-20] + bytes(20)):
        with pytest.raises(TooMuchWorkError):
            decode(file, DecodeLimits(), budget=WorkBudget(replace(ROOMY, max_pixels=15_999)))
    with pytest.raises(ImageTooLargeError, match="together"):
        decode(data, DecodeLimits(max_pixels=15_999))


def test_a_jpeg_that_is_decoded_reduced_costs_what_is_decoded() -> None:
    image, limits = Image.new("RGB", (1000, 600)), DecodeLimits(working_side=200)
    budget = WorkBudget(replace(ROOMY, max_pixels=1000 * 600 // 16))
    decode(encode(image, "JPEG"), limits, budget=budget)
    with pytest.raises(TooMuchWorkError):
        decode(encode(image, "PNG"), limits, budget=WorkBudget(replace(ROOMY, max_pixels=1000 * 600 - 1)))


@pytest.mark.slow
def test_a_second_look_at_a_jpeg_is_not_paid_for_again(detector: YunetDetector, astronaut: Pixels) -> None:
    canvas = Image.new("RGB", (4000, 3000), (90, 110, 90))
    canvas.paste(Image.fromarray(astronaut).resize((700, 700)), (1000, 800))
    budget = WorkBudget(replace(ROOMY, max_pixels=4000 * 3000))
    assert len(FaceFinder(detector).find(encode(canvas, "JPEG"), FacePolicy.SINGLE, budget).faces) == 1


@pytest.mark.slow
def test_the_time_is_checked_between_the_runs_of_the_network(
    detector: YunetDetector, astronaut: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(budget_module, "time", clock)
    blank = photograph(np.zeros((2048, 2048, 3), dtype=np.uint8))
    for seconds in range(1, 5):
        with pytest.raises(TooMuchWorkError):
            detector.detect(blank, budget=WorkBudget(replace(ROOMY, max_seconds=seconds - 0.5)))
    assert detector.detect(blank, budget=WorkBudget(replace(ROOMY, max_seconds=60))) == []
    with pytest.raises(TooMuchWorkError):
        FaceFinder(detector).find_all(attacks.blank_webp(64, 64), WorkBudget(replace(ROOMY, max_seconds=0.5)))
