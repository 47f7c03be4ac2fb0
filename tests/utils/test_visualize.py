"""Pictures: colors, places and sizes."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from utils.visualize import (
    ERROR_COLOR,
    MARK_COLOR,
    SCALE_HEIGHT,
    blended,
    colorized,
    data_uri,
    error_map,
    heat_colors,
    heat_overlay,
    heat_scale,
    legend,
    marked,
    narrowed,
    overlay,
)

FRAME = np.full((40, 80, 3), 100, dtype=np.uint8)
PALETTE = ((128, 64, 128), (0, 0, 142))


def test_overlay_mixes_frame_and_colors():
    label = np.zeros((40, 80), dtype=np.uint8)
    assert overlay(FRAME, label, PALETTE)[0, 0].tolist() == [114, 82, 114]
    assert colorized(label + 1, PALETTE)[3, 3].tolist() == [0, 0, 142]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_every_gray_and_color_are_blended_to_the_nearest_level(alpha):
    frame, colors = np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2)
    frame, colors = (np.repeat(each[..., None], 3, axis=2) for each in (frame, colors))
    expected = ((1 - alpha) * frame + alpha * colors).round().astype(np.uint8)  # exact, as these shares are in binary
    assert np.array_equal(blended(frame, colors, alpha), expected)
    canvas = np.zeros((256, 300, 3), np.uint8)
    blended(frame, colors, alpha, out=canvas[:, :256])
    assert np.array_equal(canvas[:, :256], expected) and not canvas[:, 256:].any()


def test_error_map_tells_wrong_right_and_unlabelled_apart():
    label = np.zeros((40, 80), dtype=np.uint8)
    prediction, label[0, 2] = label.copy(), 19
    prediction[0, 1] = 1
    picture = error_map(FRAME, prediction, label, 19)
    assert picture[0, :3].tolist() == [[178, 178, 178], list(ERROR_COLOR), [0, 0, 0]]


def test_heat_glows_where_it_is_high_within_an_outline():
    heat, shown = np.zeros((4, 8)), np.zeros((4, 8), dtype=bool)
    heat[1, 2], shown[0:3, 1:4] = 0.5, True
    picture = heat_overlay(FRAME, heat, shown, 0.5)
    assert picture.shape == FRAME.shape
    assert picture[15, 25].min() > 100  # the pale yellow of the highest level: cell 1, 2 of 10 x 10 pixels
    assert picture[25, 25].tolist() == [85, 85, 85]  # no heat within the window: the frame as gray
    assert picture[35, 75].tolist() == [45, 45, 45]  # outside of it: dim
    assert picture[15, 10].tolist() == list(MARK_COLOR)  # its left edge


def test_a_window_as_large_as_the_frame_has_no_outline():
    picture = heat_overlay(FRAME, np.zeros((4, 8)), np.ones((4, 8), dtype=bool), 1.0)
    assert np.unique(picture).tolist() == [85]


def test_heat_scale_runs_from_dark_to_bright():
    strip = heat_scale(400, 0.031)
    assert strip.shape == (SCALE_HEIGHT, 400, 3)
    ramp = strip[SCALE_HEIGHT // 2, 60:300].sum(axis=1)
    assert ramp[0] < ramp[120] < ramp[-1]
    ends = heat_colors(np.array([0, 255], dtype=np.uint8)).tolist()
    assert ends == [[0, 0, 4], [252, 255, 164]]  # as published for inferno


def test_a_mark_leaves_the_marked_point_itself_to_be_seen():
    picture = marked(FRAME, 20, 30)
    assert picture[20, 30].tolist() == [100, 100, 100]
    assert (picture[20, 23:38] != 100).any()


def test_narrowed_keeps_label_colours_and_small_pictures():
    picture = colorized(np.arange(80).reshape(1, 80).repeat(40, 0) % 2, PALETTE)
    small = narrowed(picture, 33, exact=True)
    assert small.shape == (16, 33, 3)
    assert {tuple(color) for color in small.reshape(-1, 3).tolist()} <= set(PALETTE)
    assert narrowed(picture, 80) is picture


def test_pictures_as_text_hold_the_same_pixels():
    kind, text = data_uri(FRAME, exact=True).split(",")
    assert kind == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))), FRAME)
    assert data_uri(FRAME).startswith("data:image/jpeg;base64,")


def test_a_legend_is_as_wide_as_asked_and_has_every_color():
    picture = legend(["road", "car"], PALETTE, 70)
    assert picture.shape[1] == 70
    colors = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    assert set(PALETTE) <= colors
