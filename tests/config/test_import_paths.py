"""Import paths in a configuration, and fields of single views."""

import jax
import numpy as np
import pytest

from caco_jax.config.build import build_run
from caco_jax.config.parts import build_data, build_encoder, build_views
from caco_jax.config.recipe import override
from caco_jax.config.sections import default_config, experiment_config
from caco_jax.data.view_kinds import DigitView
from caco_jax.nets import BatchNorm
from caco_jax.schema import ConfigError
from caco_jax.training.sharding import make_mesh
from tests.config import own
from tests.config.test_build import small

OWN = "tests.config.own"


def refused(make, message, **changes):
    with pytest.raises(ConfigError) as caught:
        make(small("simclr", **changes))
    assert str(caught.value) == message


def data_of(config):
    return build_data(config.data)


def views_of(config):
    return build_views(config.data)


def encoder_of(config):
    return build_encoder(config.encoder)


@pytest.mark.parametrize(
    "key, make",
    [
        ("encoder.backbone", encoder_of),
        ("data.views", views_of),
        ("data.source", data_of),
    ],
)
@pytest.mark.parametrize(
    "path, reason",
    [
        ("tests.no_such:thing", "ModuleNotFoundError: No module named 'tests.no_such'"),
        (
            f"{OWN}:nothing",
            f"AttributeError: module '{OWN}' has no attribute 'nothing'",
        ),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(key, make, path, reason):
    refused(
        make,
        f"config.{key}: cannot import {path!r}: {reason}",
        **{key.replace(".", "__"): path},
    )


@pytest.mark.parametrize(
    "name, message",
    [
        ("no_backbone", "expected {} to be or to return a flax.linen module, got str"),
        ("NOTHING", "expected {} to be or to return a flax.linen module, got int"),
        ("broken", "{} raises RuntimeError: first line"),
    ],
)
def test_what_is_no_backbone_is_refused(name, message):
    path = f"{OWN}:{name}"
    refused(
        encoder_of,
        f"config.encoder.backbone: {message.format(path)}",
        encoder__backbone=path,
    )


def test_a_backbone_gets_the_parts_and_options_that_it_takes():
    module = encoder_of(small("simclr", encoder__backbone=f"{OWN}:Backbone")).module
    assert module.backbone == own.Backbone()
    config = small("simclr", encoder__backbone=f"{OWN}:BACKBONE")
    assert encoder_of(config).module.backbone is own.BACKBONE
    config = small(
        "simclr",
        encoder__backbone=f"{OWN}:backbone_of",
        encoder__options={"depth": 3},
        encoder__batchnorm_group=4,
    )
    dense, norm = encoder_of(config).module.backbone.layers
    assert dense.features == 4
    assert norm == BatchNorm(group_size=4)


def test_an_option_that_a_backbone_does_not_take_is_refused():
    refused(
        encoder_of,
        f"config.encoder.backbone: {OWN}:backbone_of raises TypeError: backbone_of() "
        "got an unexpected keyword argument 'deptj'",
        encoder__backbone=f"{OWN}:backbone_of",
        encoder__options={"deptj": 3},
    )
    refused(
        encoder_of,
        "config.encoder.options: expected none for resnet_tiny, got {'depth': 3}",
        encoder__options={"depth": 3},
    )


def test_an_encoder_that_does_not_take_the_views_is_refused():
    with pytest.raises(ConfigError) as caught:
        build_run(small("simclr", data__source=f"{OWN}:tables"))
    assert str(caught.value).startswith("config.data.views: expected functions (key")
    with pytest.raises(ConfigError) as caught:
        build_run(small("simclr", data__views=f"{OWN}:flattened"))
    assert str(caught.value).startswith(
        "config.encoder.backbone: expected a network for views of shape (256,) (float32"
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, got", [("NOTHING", "3"), ("no_backbone", "'a string'")])
def test_what_is_no_view_is_refused(name, got):
    line = (
        f"config.data.views: {OWN}:{name}: expected a sequence of functions (key, "
        f"example) -> example, got {got}; write views=(my_view, my_view)"
    )
    refused(views_of, line, data__views=f"{OWN}:{name}")


def test_a_function_that_fails_to_make_views_is_refused():
    refused(
        views_of,
        f"config.data.views: {OWN}:broken raises RuntimeError: first line",
        data__views=f"{OWN}:broken",
    )


def test_views_are_a_function_several_or_what_makes_them():
    def found(name, **fields):
        config = small("simclr", data__views=f"{OWN}:{name}", data__view=fields)
        return views_of(config)

    assert found("shifted").views == (own.shifted, own.shifted)
    assert found("VIEWS").views == own.VIEWS
    assert found("VIEWS").is_identity
    made = found("make_views", strength=0.3)
    assert made.views == (DigitView(noise_std=0.3),) * 2
    assert made.mean == (0.0,)
    made = found("make_views", max_shift_pixels=1)
    assert made.views == (DigitView(max_shift_pixels=1.0),) * 2
    changed = found("VIEWS", scale_range=(1, 1), **{"2": {"noise_std": 0.5}})
    assert changed.views == (
        DigitView(noise_std=0.0, scale_range=(1.0, 1.0)),
        DigitView(noise_std=0.5, scale_range=(1.0, 1.0)),
    )


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "NOTHING",
            "NOTHING: expected numbers, examples [M, ...] of one shape, M at least 2, "
            "got int64 ()",
        ),
        ("broken", "broken raises RuntimeError: first line"),
        ("no_backbone", None),
    ],
)
def test_what_is_no_data_is_refused(name, message):
    with pytest.raises(ConfigError) as caught:
        data_of(small("simclr", data__source=f"{OWN}:{name}"))
    line = str(caught.value)
    assert line.startswith(f"config.data.source: {OWN}:{name}")
    assert "\n" not in line
    if message is not None:
        assert line == f"config.data.source: {OWN}:{message}"


def test_data_are_arrays_or_what_makes_them():
    rows = data_of(small("simclr", data__source=f"{OWN}:ROWS"))
    np.testing.assert_array_equal(rows.train_examples, own.ROWS)
    table = data_of(small("simclr", data__source=f"{OWN}:tables"))
    assert table.train_examples.shape == (36, 7)
    assert table.class_names == ("0", "1")
    assert table.name == f"{OWN}:tables"


def own_method(name="METHOD", **values):
    sections = {"method": {"name": f"{OWN}:{name}", **values}}
    return experiment_config(sections)


def test_a_method_brings_its_settings_and_its_players():
    config = own_method(temperature=0.7)
    assert config.method.settings == own.OwnConfig(temperature=0.7)
    assert set(config.optimizers) == {"encoder", "rows"}
    assert config.values()["rows_optimizer"]["schedule"] == "cosine"
    changed = override(
        default_config(f"{OWN}:METHOD"),
        ["rows_optimizer.learning_rate=2", "method.temperature=0.1"],
    )
    config = experiment_config(changed)
    assert config.player_optimizers["rows"].learning_rate == 2.0
    assert config.method.settings.temperature == 0.1


@pytest.mark.parametrize(
    "name, message",
    [
        ("nothing", "cannot import '{}': AttributeError: module "),
        (
            "NO_PAIR",
            "expected a pair (settings dataclass, make), '{}' is <function make",
        ),
        ("NO_CLASS", "expected a pair (settings dataclass, make), '{}' is (OwnConfig("),
        (
            "NO_METHOD",
            "{} raises TypeError: expected make() to return a Method, got 'a string'",
        ),
        ("BROKEN_METHOD", "{} raises TypeError: "),
    ],
)
def test_what_is_no_method_is_refused(name, message):
    with pytest.raises(ConfigError) as caught:
        own_method(name)
    line = str(caught.value)
    assert line.startswith(f"config.method.name: {message.format(f'{OWN}:{name}')}")
    assert "\n" not in line


def test_a_setting_of_a_method_is_checked_like_any():
    with pytest.raises(ConfigError) as caught:
        own_method(temprature=1)
    assert str(caught.value) == (
        "config.method.temprature: no such key; did you mean temperature?"
    )


def test_a_whole_run_of_import_paths_is_recorded_by_them(devices):
    paths = {
        "encoder.backbone": f"{OWN}:Backbone",
        "data.views": f"{OWN}:shifted",
        "data.source": f"{OWN}:tables",
    }
    config = small(
        f"{OWN}:METHOD",
        encoder__options={"features": 9},
        data__view_size=None,
        **{key.replace(".", "__"): path for key, path in paths.items()},
    )
    run = build_run(config, mesh=make_mesh(devices[:2]))
    values = run.description.values
    for key, path in paths.items():
        section, name = key.split(".")
        assert values[section][name] == path
    assert values["method"] == {"name": f"{OWN}:METHOD", "temperature": 0.3}
    assert values["encoder"]["options"] == {"features": 9}
    assert experiment_config(values) == config
    state = jax.eval_shape(run.initial_state)
    assert set(state.players) == {"encoder", "rows"}
    rows = jax.ShapeDtypeStruct((8, 7), np.float32)
    after, metrics = jax.eval_shape(run.training_step(), state, rows)
    assert after.step.shape == metrics["loss"].shape == ()


# Fields of the views that have a name.


def view_fields(*assignments):
    config = override(default_config("caco"), assignments)
    return views_of(experiment_config(config))


def test_a_field_is_for_all_views_or_for_one():
    views = view_fields("data.views=caco", "data.view.blur_probability=0.3").views
    assert [view.blur_probability for view in views] == [0.3, 0.3]
    views = view_fields("data.views=caco", "data.view.2.solarize_probability=0.9").views
    assert [view.solarize_probability for view in views] == [0.0, 0.9]
    views = view_fields(
        "data.views=caco", "data.view.contrast=1", "data.view.1.contrast=2"
    ).views
    assert [view.contrast for view in views] == [2.0, 1.0]


def test_what_a_function_of_views_takes_is_a_field_too():
    views = view_fields("data.views=simclr", "data.view.strength=0.5").views
    assert [view.brightness for view in views] == [0.4, 0.4]
    views = view_fields("data.views=caco_multicrop", "data.view.small_crops=1").views
    assert len(views) == 3


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("blur_prob=1", "blur_prob: no such key; did you mean blur_probability?"),
        ("2.blur_prob=1", "2.blur_prob: no such key; did you mean blur_probability?"),
        (
            "blur_probability=1.5",
            "blur_probability: expected a number in [0, 1], got 1.5",
        ),
        (
            "2.blur_probability=1.5",
            "2.blur_probability: expected a number in [0, 1], got 1.5",
        ),
        ("2.blur_probability=x", "2.blur_probability: expected float, got 'x'"),
        ("crop_scale=0.5", "crop_scale: expected tuple[float, float], got 0.5"),
        ("3.contrast=1", "3: expected the number of a view, 1 to 2"),
        ("0.contrast=1", "0: expected the number of a view, 1 to 2"),
        ("2=1", "2: expected fields of a view, got 1"),
    ],
)
def test_a_mistaken_field_is_one_line(assignment, message):
    with pytest.raises(ConfigError) as caught:
        view_fields("data.views=caco", f"data.view.{assignment}")
    assert str(caught.value) == f"config.data.view.{message}"


def test_a_field_that_no_view_knows_lists_those_that_are():
    with pytest.raises(ConfigError, match=r"zzz: no such key; known: size_pixels, cr"):
        view_fields("data.views=caco", "data.view.zzz=1")


def test_a_function_has_no_fields():
    refused(
        views_of,
        "config.data.view: expected no fields for shifted, which is no dataclass",
        data__views=f"{OWN}:shifted",
        data__view={"noise_std": 0.1},
    )


# Keys that only make sense together.


@pytest.mark.parametrize(
    "assignments, message",
    [
        (
            ["optimizer.learning_rate=0.1", "optimizer.final_learning_rate=0.2"],
            "config.optimizer.final_learning_rate: expected at most learning_rate "
            "(0.1) with schedule 'cosine', got 0.2; change both, or take schedule "
            "'constant'",
        ),
        (
            ["encoder.projector_widths=(8, 4)"],
            "config.encoder.projector_widths: expected (hidden, hidden, dim) for the "
            "caco projector, got (8, 4)",
        ),
        (
            ["encoder.projector_widths=(8, 6, 4)"],
            "config.encoder.projector_widths: expected (hidden, hidden, dim) for the "
            "caco projector, got (8, 6, 4)",
        ),
    ],
)
def test_keys_that_do_not_fit_each_other_are_one_line(assignments, message):
    with pytest.raises(ConfigError) as caught:
        encoder_of(experiment_config(override(default_config("caco"), assignments)))
    assert str(caught.value) == message


def test_the_banks_rate_alone_may_be_changed():
    recipe = override(default_config("caco"), ["bank_optimizer.learning_rate=0.5"])
    bank = experiment_config(recipe).player_optimizers["bank"]
    rate = bank.schedule_of(batch_size=256, epochs=4, steps_per_epoch=2)
    assert [float(rate(step)) for step in (0, 7)] == [0.5, 0.5]


def test_views_are_normalised_as_the_configuration_says():
    views = view_fields(
        "data.views=caco", "data.view.mean=(0.5,)", "data.view.std=0.25,"
    )
    assert (views.mean, views.std) == ((0.5,), (0.25,))
    assert views.views == view_fields("data.views=caco").views
    own = view_fields(
        f"data.views={OWN}:shifted", "data.view.std=(2.0,)", "data.view.mean=(1.0,)"
    )
    assert (own.mean, own.std) == ((1.0,), (2.0,))


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("std=(0.0, 0.0, 0.0)", "std: expected "),
        ("std=(0.2,)", "std: expected 3 numbers, as in mean, got 1"),
        ("mean='grey'", "mean: expected "),
        ("meen=(0.5,)", "meen: no such key; did you mean mean?"),
    ],
)
def test_wrong_statistics_are_named(assignment, message):
    with pytest.raises(ConfigError) as caught:
        view_fields("data.views=caco", f"data.view.{assignment}")
    assert str(caught.value).startswith(f"config.data.view.{message}")
