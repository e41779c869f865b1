"""Pictures of more than 8 bits: no grey level is lost without a word."""

import dataclasses
import io
import logging
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from caco_jax.config.build import build_run
from caco_jax.config.parts import build_data
from caco_jax.config.recipe import override
from caco_jax.config.sections import default_config, experiment_config
from caco_jax.data.decode import (
    BadImageError,
    CropSpec,
    center_crop,
    decode_image,
    random_resized_crops,
    stored_values,
)
from caco_jax.data.deep import to_bytes
from caco_jax.data.records import Record
from caco_jax.data.sources import load
from caco_jax.data.value_range import find_range
from tests.data.test_decode import RECORDS
from tests.data.test_shards import write_tar
from tests.experiments.commands import SMALL

TWELVE = (0.0, 4095.0)


def gradient(height=16, width=16, *, seed=0):
    """12 bits in 16, each picture another."""
    values = np.random.default_rng(seed).permutation(4096)[: height * width]
    values[:2] = 0, 4095
    return values.astype(np.uint16).reshape(height, width)


def by_pillow(values, kind="TIFF", mode=None):
    if mode is None:
        picture = Image.fromarray(values)
    else:
        size = values.shape[::-1]
        picture = Image.frombytes(mode, size, values.astype(">u2").tobytes())
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def by_opencv(values, suffix):
    return cv2.imencode(suffix, values)[1].tobytes()


GREY = gradient()
COLOR = np.stack([gradient(seed=seed) for seed in range(3)], axis=-1)
KINDS = {
    "png": (by_pillow(GREY, "PNG"), GREY),
    "tiff, I;16": (by_pillow(GREY), GREY),
    "tiff, I;16B": (by_pillow(GREY, mode="I;16B"), GREY),
    "tiff, I": (by_pillow(GREY.astype(np.int32)), GREY),
    "tiff, F": (by_pillow(GREY.astype(np.float32)), GREY),
    "pgm": (by_opencv(GREY, ".pgm"), GREY),
    "png in colour": (by_opencv(COLOR[..., ::-1], ".png"), COLOR),
    "tiff in colour": (by_opencv(COLOR[..., ::-1], ".tiff"), COLOR),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_range_spreads_the_values_over_all_grey_levels(kind):
    encoded, values = KINDS[kind]
    expected = np.rint(values / 4095 * 255).astype(np.uint8)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=2)
    record = Record(encoded, -1, kind, TWELVE)
    np.testing.assert_array_equal(decode_image(record), expected)
    stored = stored_values(record)
    np.testing.assert_array_equal(
        stored if stored.ndim == values.ndim else stored[..., 0], values
    )
    whole = [CropSpec(16, (1.0, 1.0), (1.0, 1.0))]
    (crop,) = random_resized_crops(np.random.default_rng(0), record, whole)
    np.testing.assert_array_equal(crop, expected)
    assert np.ptp(center_crop(record, size_pixels=14)) > 128


@pytest.mark.parametrize("kind", RECORDS)
def test_pictures_of_eight_bits_are_left_as_they_are(kind):
    record = RECORDS[kind]._replace(value_range=TWELVE)
    np.testing.assert_array_equal(decode_image(record), decode_image(RECORDS[kind]))
    assert stored_values(record) is None


def test_values_outside_become_the_ends():
    values = np.array([-(2**31), 99, 100, 150, 200, 201, 2**31 - 1])
    expected = [0, 0, 0, 128, 255, 255, 255]
    assert to_bytes(values, (100.0, 200.0)).tolist() == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_picture_with_values_that_are_not_finite_is_bad(bad):
    values = np.ones((4, 4), np.float32)
    values[2, 1] = bad
    record = Record(by_pillow(values), -1, "scan.tiff", TWELVE)
    with pytest.raises(BadImageError, match=r"^scan\.tiff: some of its values are not"):
        decode_image(record)


def records(*pictures):
    return [Record(p, -1, f"{row}") for row, p in enumerate(pictures)]


def test_the_sets_own_range_is_found_and_the_same_each_time(caplog):
    hot = gradient(64, 64) // 2 + 500  # 500 to 2547
    hot[0, 0] = 65535  # a dead pixel
    scans = records(*[by_pillow(hot, "PNG")] * 3, by_opencv(COLOR // 256, ".png"))
    found = find_range("folder:here", scans[:3], "auto")
    low, high = found.value_range
    assert 500 <= low <= 510
    assert 2540 <= high <= 2548
    assert (low, high) == (round(low), round(high))
    assert find_range("folder:here", scans[:3], "auto") == found
    assert found.notes == (
        f"more than 8 bits: values 500 to 65,535, of which {low:,g} to {high:,g} "
        "become 0 to 255 (data.value_range)",
    )
    assert caplog.messages == []


def test_a_brighter_picture_is_not_cut_off():
    scans = records(*[by_pillow(GREY // 4)] * 6, by_pillow(GREY))
    _, high = find_range("folder:here", scans, "auto").value_range
    assert high > 3900


def test_damaged_pictures_and_floats_do_not_disturb_the_search():
    values = np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16)
    broken = values.copy()
    broken[0] = np.nan
    scans = records(b"no image", by_pillow(values), by_pillow(broken))
    low, high = find_range("folder:here", scans, "auto").value_range
    assert -1 <= low < -0.99
    assert 0.99 < high <= 1


def test_one_value_alone_is_a_range_too():
    flat = records(by_pillow(np.full((4, 4), 7, np.uint16)))
    assert find_range("folder:here", flat, "auto").value_range == (7, 8)


def test_pictures_of_eight_bits_need_no_range(caplog):
    found = find_range("folder:here", records(RECORDS["png"].encoded), "auto")
    assert found == (None, ())
    assert caplog.messages == []


@pytest.mark.parametrize(
    "value_range, got",
    [
        (None, "that of 16 bits, 0 to 65,535,"),
        ((0.0, 65535.0), "(0.0, 65535.0)"),
    ],
)
def test_few_grey_levels_are_warned_of(value_range, got, caplog):
    found = find_range("folder:here", records(by_pillow(GREY)), value_range)
    assert found.value_range == value_range
    said = (
        f"data.value_range: expected a range that the values fill, got {got} for "
        "folder:here, which has values 0 to 4,095: about "
    )
    (message,) = caplog.messages
    assert message.startswith(said)
    levels = int(message.removeprefix(said).split()[0])
    record = Record(by_pillow(GREY), -1, "x", value_range)
    assert levels == len(np.unique(decode_image(record))) < 20
    assert message.endswith("grey levels are left; set --config.data.value_range=auto")


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(GREY * 16, id="16 bits in full"),
        pytest.param(GREY % 2 * 65535, id="a mask"),
    ],
)
def test_what_loses_nothing_is_not_warned_of(values, caplog):
    find_range("folder:here", records(by_pillow(values.astype(np.uint16))), None)
    assert caplog.messages == []


def test_floats_without_a_range_are_refused_before_training():
    scans = records(*[by_pillow(GREY.astype(np.float32) / 8)] * 2)
    with pytest.raises(ValueError, match=r"^data\.value_range") as caught:
        find_range("folder:here", scans, None)
    assert str(caught.value) == (
        "data.value_range: expected auto or (low, high) for folder:here, whose float32 "
        "pictures have no known range; values 0 to 511.875 were seen"
    )


@pytest.fixture
def scans(tmp_path):
    for name in ("ill", "well"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for row in range(20):
            encoded = by_pillow(gradient(seed=row), "PNG")
            (tmp_path / "scans" / name / f"{row}.png").write_bytes(encoded)
    return tmp_path / "scans"


@pytest.mark.parametrize("max_resident_bytes", [2**30, 0])
def test_a_folder_is_read_by_the_range(scans, max_resident_bytes, caplog):
    how = {"max_resident_bytes": max_resident_bytes}
    found = load(f"folder:{scans}", value_range="auto", **how)
    assert found.in_memory == (max_resident_bytes > 0)
    low, high = found.value_range
    assert 0 <= low < 10
    assert 4085 < high <= 4095
    assert found.notes[-1].startswith("more than 8 bits: values 0 to 4,095")
    arrays = load(f"folder:{scans}", value_range=TWELVE).train_examples
    assert len(np.unique(arrays[0])) > 128
    assert caplog.messages == []
    dull = load(f"folder:{scans}", **how)
    assert dull.value_range is None
    assert "grey levels are left" in caplog.messages[0]


@pytest.mark.parametrize("max_resident_bytes", [2**30, 0])
def test_shards_are_read_by_the_range_too(tmp_path, max_resident_bytes):
    scans = [(f"{row}.png", by_pillow(gradient(seed=row), "PNG")) for row in range(4)]
    write_tar(tmp_path / "scans-0.tar", scans)
    how = {"max_resident_bytes": max_resident_bytes, "value_range": TWELVE}
    found = load(f"wds:{tmp_path}", **how)
    if max_resident_bytes:
        pixels = found.train_examples[0]
    else:
        pixels = decode_image(pickle.loads(pickle.dumps(found.train))[0])
    assert len(np.unique(pixels)) > 128


def test_a_run_keeps_the_range_that_was_found_for_it(scans, tmp_path):
    changes = [f"data.source=folder:{scans}", "data.value_range=auto"]
    changes += ["data.views=cifar", "data.view_size=8"]
    recipe = override(default_config("simclr"), [*SMALL, *changes])
    run = build_run(experiment_config(recipe))
    saved = run.description.values["data"]["value_range"]
    assert saved == run.data.value_range
    # As an evaluation on other images has it.
    (tmp_path / "others").mkdir()
    for row in range(4):
        encoded = by_pillow(gradient(seed=row) // 4, "PNG")
        (tmp_path / "others" / f"{row}.png").write_bytes(encoded)
    kept = experiment_config(run.description.values).data
    others = dataclasses.replace(kept, source=f"folder:{tmp_path / 'others'}")
    data = build_data(others)
    assert data.value_range == saved
    assert data.train_examples.max() < 70


@pytest.mark.parametrize("source", ["digits", "fake:8x8x3x16"])
def test_sources_of_eight_bits_take_auto(source):
    recipe = override(default_config("simclr"), [f"data.source={source}"])
    recipe.data.value_range = "auto"
    assert build_data(experiment_config(recipe).data).value_range is None


@pytest.mark.parametrize("wrong", ["full", (2.0, 1.0), (0.0, float("inf")), (1, 1)])
def test_a_range_rises(wrong):
    recipe = default_config("simclr")
    recipe.data.value_range = wrong
    with pytest.raises(
        ValueError, match=r"^config\.data\.value_range: expected None, auto"
    ):
        experiment_config(recipe)


def test_the_search_says_nothing_where_it_is_not_needed(tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "a.png"), COLOR.astype(np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), COLOR.astype(np.uint8))
    with caplog.at_level(logging.INFO, "caco_jax"):
        assert len(load(f"folder:{tmp_path}").notes) == 2
    assert caplog.messages == []
