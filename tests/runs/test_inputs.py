"""Which sets stay on the devices and which are streamed, and what a step then gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.config.sections import DataConfig
from caco_jax.data.dataset import ArrayDataset, RecordDataset
from caco_jax.data.view_kinds import PhotoView, Views
from caco_jax.data.views import VIEWS
from caco_jax.runs import inputs
from caco_jax.schema import ConfigError
from tests.data.pictures import write_pictures
from tests.runs import tiny

BYTES = 24 * 6 * 5 * 3
FAKE = "fake:6x5x3x24"


def test_a_set_that_fits_stays_on_the_devices():
    images = inputs.load_images(DataConfig(source=FAKE, max_resident_bytes=BYTES))
    assert isinstance(images, ArrayDataset)
    assert inputs.train_count(images) == 24


def test_a_set_that_does_not_fit_is_streamed():
    whole = inputs.load_images(DataConfig(source=FAKE))
    config = DataConfig(source=FAKE, max_resident_bytes=BYTES - 1)
    images = inputs.load_images(config)
    assert isinstance(images, RecordDataset)
    assert inputs.train_count(images) == 24
    assert images.class_names == whole.class_names
    assert images.has_labels
    for records, split in [(images.train, "train"), (images.test, "test")]:
        labels = [records[row].label for row in range(len(records))]
        np.testing.assert_array_equal(labels, getattr(whole, f"{split}_labels"))
        pixels = [records[row].encoded for row in range(len(records))]
        np.testing.assert_array_equal(pixels, getattr(whole, f"{split}_images"))


def test_a_set_without_labels_has_none_when_streamed():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    streamed = inputs.as_records(ArrayDataset("bare", pixels, None, pixels, None))
    assert not streamed.has_labels
    assert streamed.train[0].label == -1


def test_the_splits_of_a_folder_can_be_named(tmp_path):
    for split, count in [("a", 6), ("b", 3)]:
        for name in ("cat", "dog"):
            write_pictures(tmp_path / split / name, count)
    images = inputs.load_images(
        DataConfig(source=f"folder:{tmp_path}", train_split="a", test_split="b")
    )
    assert (len(images.train), len(images.test)) == (12, 6)


@pytest.mark.parametrize(
    "source, message",
    [
        ("fake:8x8", "config.data.source: after fake: want a shape"),
        ("nothing", "config.data.source: want one of digits, fake"),
        ("folder:not/there", "config.data.source: "),
    ],
)
def test_what_cannot_be_read_is_a_mistake_of_the_configuration(source, message):
    with pytest.raises(ConfigError) as caught:
        inputs.load_images(DataConfig(source=source))
    assert str(caught.value).startswith(message)


RECIPE = Views((PhotoView(size_pixels=12), PhotoView(size_pixels=8)))
STREAMED = RecordDataset("many", train=range(1000))


def test_a_step_gets_images_or_crops_for_each_view():
    images = inputs.load_images(DataConfig(source=FAKE))
    whole = jax.ShapeDtypeStruct((4, 6, 5, 3), jnp.uint8)
    assert inputs.step_images(RECIPE, images, 4) == whole
    crops = inputs.step_images(RECIPE, STREAMED, 4)
    assert [crop.shape for crop in crops] == [(4, 12, 12, 3), (4, 8, 8, 3)]


def test_views_have_the_same_shapes_either_way():
    images = inputs.load_images(DataConfig(source=FAKE))
    shapes = inputs.view_shapes(RECIPE, images)
    assert shapes == inputs.view_shapes(RECIPE, STREAMED) == [(12, 12, 3), (8, 8, 3)]


def test_a_streamed_set_is_cropped_on_the_host_and_so_has_views_of_photographs():
    inputs.check_streamed("caco", VIEWS["caco"](), STREAMED)
    with pytest.raises(ConfigError) as caught:
        inputs.check_streamed("digits", VIEWS["digits"](), STREAMED)
    assert str(caught.value) == (
        "config.data.views: want views of photographs, many is streamed; got 'digits'"
    )


def test_a_streamed_set_need_only_have_a_length_to_compile_with():
    config = tiny.config(data__views="caco", data__view_size=16)
    experiment = assemble.assemble(config, images=STREAMED)
    assert experiment.steps_per_epoch == 1000 // 16
    state = jax.eval_shape(lambda: assemble.initial_state(experiment))
    assert state.step.shape == ()
