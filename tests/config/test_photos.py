"""The recipe for own pictures: what is chosen for which set and machine."""

import numpy as np
import pytest

from caco_jax.config.build import build_run
from caco_jax.config.photos import RULES, Facts, facts_of, fit
from caco_jax.config.recipe import load_recipe, override, rules_of
from caco_jax.config.sections import experiment_config
from caco_jax.data.dataset import ArrayDataset, RecordDataset
from caco_jax.programs import pretrain
from caco_jax.programs.flags import parser_of
from caco_jax.runs.cautions import cautions
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import ConfigError, flatten
from caco_jax.training.sharding import make_mesh
from tests.data.pictures import picture_records, write_pictures
from tests.experiments.commands import call, error_lines

METHODS = ("caco", "adco", "moco", "simclr")
LAPTOP = Facts(162, 480, 3, "cpu", 1, 16_000_000_000)
CLUSTER = Facts(1_000_000, 480, 3, "gpu", 8, 80_000_000_000)


def chosen(facts, method="caco", **given):
    """The choices as a mapping."""
    given = {key.replace("__", "."): value for key, value in given.items()}
    values = flatten(load_recipe(f"photos:{method}").to_dict()) | given
    return {key: value for key, value, _ in fit(facts, values, given)}


@pytest.mark.parametrize(
    "facts, given, expected",
    [
        pytest.param(
            LAPTOP,
            {},
            {
                "data.views": "caco",
                "data.view_size": 64,
                "encoder.backbone": "resnet8",
                "encoder.dtype": "float32",
                "training.batch_size": 32,
                "training.epochs": 200,
                "method.bank_size": 32,
                "method.start_up_epochs": 50,
                "target.momentum": 0.95,
                "optimizer.warmup_epochs": 10,
                "evaluation.knn_neighbours": 8,
            },
            id="180 pictures on a laptop",
        ),
        pytest.param(
            LAPTOP._replace(pictures=20_000),
            {},
            {
                "training.batch_size": 64,
                "training.epochs": 10,
                "method.bank_size": 4096,
                "optimizer.warmup_epochs": 1,
                "evaluation.knn_neighbours": 20,
            },
            id="many pictures on a laptop",
        ),
        pytest.param(
            LAPTOP._replace(pictures=2),
            {},
            {"training.batch_size": 2, "method.bank_size": 2},
            id="two pictures",
        ),
        pytest.param(
            CLUSTER,
            {},
            {
                "data.view_size": 224,
                "encoder.backbone": "resnet50",
                "encoder.stem": "imagenet",
                "encoder.dtype": "bfloat16",
                "training.batch_size": 1024,
                "training.epochs": 100,
                "method.bank_size": 65_536,
                "method.start_up_epochs": 1,
                "target.momentum": 0.99,
            },
            id="a million pictures on eight accelerators",
        ),
        pytest.param(
            CLUSTER._replace(pictures=162, devices=1),
            {},
            {"training.batch_size": 32, "training.epochs": 800},
            id="180 pictures on an accelerator",
        ),
        pytest.param(
            CLUSTER._replace(devices=1, memory_bytes=8_000_000_000),
            {},
            {"training.batch_size": 32},
            id="a small accelerator",
        ),
        pytest.param(
            CLUSTER._replace(devices=6),
            {},
            {"training.batch_size": 768, "method.bank_size": 49_152},
            id="six devices",
        ),
        pytest.param(
            CLUSTER._replace(side_pixels=48),
            {},
            {"data.views": "cifar", "data.view_size": 48, "encoder.stem": "small"},
            id="small pictures",
        ),
        pytest.param(
            CLUSTER._replace(side_pixels=150),
            {},
            {"data.view_size": 128},
            id="pictures smaller than the usual view",
        ),
        pytest.param(
            LAPTOP._replace(side_pixels=28, channels=1),
            {},
            {"data.views": "small_gray", "data.view_size": 28},
            id="grey pictures",
        ),
        pytest.param(
            LAPTOP,
            {"training__batch_size": 16, "training__epochs": 40},
            {
                "method.bank_size": 32,
                "method.start_up_epochs": 10,
                "optimizer.warmup_epochs": 4,
                "bank_optimizer.warmup_epochs": 4,
            },
            id="the others follow batch and epochs",
        ),
        pytest.param(
            LAPTOP,
            {"training__epochs": 2},
            {"target.momentum": 0.5, "optimizer.warmup_epochs": 0},
            id="a run of a few steps",
        ),
        pytest.param(
            LAPTOP,
            {"encoder__backbone": "resnet18"},
            {"encoder.width": 64, "encoder.stem": "small"},
            id="the others follow the network",
        ),
        pytest.param(
            LAPTOP._replace(pictures=5000),
            {"data__view_size": 224},
            {"training.batch_size": 32},
            id="the batch follows the view size",
        ),
    ],
)
def test_settings_follow_from_set_and_machine(facts, given, expected):
    found = chosen(facts, **given)
    assert {key: found[key] for key in expected} == expected
    assert not found.keys() & {key.replace("__", ".") for key in given}


def test_each_method_has_its_own_settings_fitted():
    keys = {method: chosen(LAPTOP, method).keys() for method in METHODS}
    assert set().union(*keys.values()) == set(RULES)
    assert "method.queue_size" in keys["moco"]
    assert not {"method.bank_size", "method.queue_size"} & keys["simclr"]
    views = {method: chosen(LAPTOP, method)["data.views"] for method in METHODS}
    assert views == {
        **{"caco": "caco", "simclr": "simclr"},
        **dict.fromkeys(("adco", "moco"), "moco_v2"),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [8, 3000])
def test_what_is_chosen_is_allowed_and_left_without_a_caution(method, count, devices):
    recipe = load_recipe(f"photos:{method}")
    recipe.update_from_flattened_dict(chosen(LAPTOP._replace(pictures=count), method))
    data = RecordDataset("folder:here", range(count))
    run = build_run(experiment_config(recipe), mesh=make_mesh(devices[:1]), data=data)
    assert cautions(run) == []


def test_facts_are_read_from_the_pictures(tmp_path):
    machine = {"platform": "cpu", "devices": 2, "memory_bytes": None}
    records = picture_records(tmp_path, 9, broken=[0])
    found = facts_of(RecordDataset("folder:here", records), **machine)
    assert found == Facts(9, 24, 3, "cpu", 2, None)
    grey = np.zeros((7, 12, 16, 1), np.uint8)
    found = facts_of(ArrayDataset("idx:here", grey, None, grey[:0], None), **machine)
    assert found == Facts(7, 12, 1, "cpu", 2, None)
    rows = np.zeros((7, 12))
    with pytest.raises(ConfigError, match=r"^config\.data\.source: expected images"):
        facts_of(ArrayDataset("rows", rows, None, rows[:0], None), **machine)


def read(*words):
    """What the command reads: (configuration, set)."""
    assignments = [word.removeprefix("--config.") for word in words if "." in word]
    flags = [word for word in words if not word.startswith("--config.")]
    return pretrain.read(parser_of("pretrain").parse_args(flags), assignments)


@pytest.fixture
def pictures(tmp_path):
    for name in ("cat", "dog"):
        write_pictures(tmp_path / "pictures" / name, 20)
    return tmp_path / "pictures"


def test_the_command_fits_says_why_and_is_overruled(pictures, tmp_path):
    flags = ["--config=photos", f"--source=folder:{pictures}"]
    flags += [f"--workdir={tmp_path / 'run'}", "--config.training.epochs=20"]
    status, out, err = call(pretrain.main, *flags, "--config.training.batch_size=512")
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert lines[1] == (
        "INFO: chosen for 36 images of about 23 pixels, 8 x cpu; --config.KEY=VALUE "
        "sets one, and the others take it into account:"
    )
    assert "INFO: optimizer.warmup_epochs=2: a tenth of 20 epochs, at most 10" in lines
    assert not any("training." in line for line in lines[:-1])
    assert lines[-1] == (
        "error: config.training.batch_size: expected at most 36, the training images "
        f"of folder:{pictures}, got 512"
    )
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_keeps_what_was_chosen_for_it(pictures, tmp_path):
    words = ["--config=photos", f"--source=folder:{pictures}"]
    words.append(f"--workdir={tmp_path / 'run'}")
    config, _ = read(*words)
    Workdir(tmp_path / "run").claim(config.values())
    write_pictures(pictures / "dog", 400)
    again, _ = read(*words)
    assert again == config
    fewer, _ = read(*words, "--config.training.epochs=30")
    assert fewer.training.epochs == 30
    assert fewer.training.batch_size == config.training.batch_size
    anew, _ = read(*words, "--force_new")
    assert anew.training.batch_size > config.training.batch_size


def test_nothing_is_said_of_what_a_method_does_not_have(pictures, tmp_path, caplog):
    words = [f"--source=folder:{pictures}", f"--workdir={tmp_path / 'run'}"]
    with caplog.at_level("INFO", "caco_jax"):
        read("--config=photos:moco", *words)
        read("--config=photos:simclr", *words)
    said = [line.partition("=")[0] for line in caplog.messages]
    assert said.count("method.queue_size") == said.count("target.momentum") == 1
    assert said.count("training.batch_size") == 2


def test_a_source_is_named_once(pictures, tmp_path):
    flags = ["--config=photos", f"--source=folder:{pictures}", f"--workdir={tmp_path}"]
    given = "--config.data.source=digits"
    assert error_lines(call(pretrain.main, *flags, given)) == [
        "--source: expected it or --config.data.source, got both"
    ]


def test_values_that_are_wrong_are_all_said_before_anything_is_fitted(tmp_path):
    flags = ["--config=photos", "--source=folder:nowhere", f"--workdir={tmp_path}"]
    wrong = ["--config.training.batch_size=big", "--config.seed=-1"]
    lines = error_lines(call(pretrain.main, *flags, *wrong))
    keys = {line.partition(":")[0] for line in lines}
    assert keys == {"config.training.batch_size", "config.seed"}


def test_only_recipes_with_rules_are_fitted_and_smoke_runs_never():
    assert rules_of("photos:moco") == RULES
    assert rules_of("photos:moco:smoke") is None
    assert rules_of("caco_digits") is None
    assert override(load_recipe("photos:adco"), []).method.name == "adco"
