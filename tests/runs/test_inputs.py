"""Which sets stay on the devices and which are streamed, and what a step then gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.config.build import build_run
from caco_jax.config.parts import build_data
from caco_jax.config.sections import DataConfig
from caco_jax.data.dataset import ArrayDataset, RecordDataset
from caco_jax.data.view_kinds import PhotoView, Views
from caco_jax.schema import ConfigError
from caco_jax.training.feeds import step_examples
from tests.data.pictures import write_pictures
from tests.runs import tiny

BYTES = 24 * 6 * 5 * 3
FAKE = "fake:6x5x3x24"


def test_a_set_that_fits_stays_on_the_devices():
    images = build_data(DataConfig(source=FAKE, max_resident_bytes=BYTES))
    assert isinstance(images, ArrayDataset)
    assert images.train_count == 24


def test_a_set_that_does_not_fit_is_streamed():
    whole = build_data(DataConfig(source=FAKE))
    config = DataConfig(source=FAKE, max_resident_bytes=BYTES - 1)
    images = build_data(config)
    assert isinstance(images, RecordDataset)
    assert images.train_count == 24
    assert images.class_names == whole.class_names
    assert images.has_labels
    for records, split in [(images.train, "train"), (images.test, "test")]:
        labels = [records[row].label for row in range(len(records))]
        np.testing.assert_array_equal(labels, getattr(whole, f"{split}_labels"))
        pixels = [records[row].encoded for row in range(len(records))]
        np.testing.assert_array_equal(pixels, getattr(whole, f"{split}_examples"))


def test_a_set_without_labels_has_none_when_streamed():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    streamed = ArrayDataset("bare", pixels, None, pixels, None).as_records()
    assert not streamed.has_labels
    assert streamed.train[0].label == -1


def test_the_splits_of_a_folder_can_be_named(tmp_path):
    for split, count in [("a", 6), ("b", 3)]:
        for name in ("cat", "dog"):
            write_pictures(tmp_path / split / name, count)
    images = build_data(
        DataConfig(source=f"folder:{tmp_path}", train_split="a", test_split="b")
    )
    assert (len(images.train), len(images.test)) == (12, 6)


@pytest.mark.parametrize(
    "source, message",
    [
        ("fake:8x8", "config.data.source: after fake: expected a shape"),
        ("nothing", "config.data.source: expected one of cifar10, cifar100, digits"),
        ("folder:not/there", "config.data.source: "),
    ],
)
def test_what_cannot_be_read_is_a_mistake_of_the_configuration(source, message):
    with pytest.raises(ConfigError) as caught:
        build_data(DataConfig(source=source))
    assert str(caught.value).startswith(message)


VIEWS = Views((PhotoView(size_pixels=12), PhotoView(size_pixels=8)))
STREAMED = RecordDataset("many", train=range(1000))


def test_a_step_gets_images_or_crops_for_each_view():
    images = build_data(DataConfig(source=FAKE))
    whole = jax.ShapeDtypeStruct((4, 6, 5, 3), jnp.uint8)
    assert step_examples(images, VIEWS, 4) == whole
    crops = step_examples(STREAMED, VIEWS, 4)
    assert [crop.shape for crop in crops] == [(4, 12, 12, 3), (4, 8, 8, 3)]


def test_views_have_the_same_shapes_either_way():
    run = tiny.run(data__source=FAKE, data__views="cifar", data__view_size=12)
    init, apply = lambda key, x: jnp.ones((3, 4)), lambda w, x: x.mean((1, 2)) @ w
    views = run.replace(views=VIEWS, encoder=(init, apply))
    streamed = views.replace(data=STREAMED)
    shapes = [view.shape for view in views.view_shapes]
    assert shapes == [view.shape for view in streamed.view_shapes]
    assert shapes == [(1, 12, 12, 3), (1, 8, 8, 3)]


def test_a_streamed_set_is_cropped_on_the_host_and_so_has_views_of_photographs():
    photos = tiny.config(data__views="caco", data__view_size=16)
    assert not build_run(photos, data=STREAMED).data.in_memory
    with pytest.raises(ConfigError) as caught:
        build_run(tiny.config(data__views="digits"), data=STREAMED)
    assert str(caught.value) == (
        "config.data.views: expected views of photographs, many is streamed"
    )


def test_a_streamed_set_need_only_have_a_length_to_compile_with():
    config = tiny.config(data__views="caco", data__view_size=16)
    run = build_run(config, data=STREAMED)
    assert run.steps_per_epoch == 1000 // 16
    state = jax.eval_shape(run.initial_state)
    assert state.step.shape == ()
