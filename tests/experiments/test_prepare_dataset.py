"""The command that prepares a set, as a person runs it."""

import pytest

from caco_jax.programs import prepare_dataset
from tests.data.miniature_imagenet import picture
from tests.data.tfds_files import write_set
from tests.experiments.commands import call as call_main


def call(*flags):
    return call_main(prepare_dataset.main, *flags)


def test_a_prepared_set_is_summed_up(tmp_path):
    splits = {"train": [(picture(seed), seed % 2) for seed in range(3)]}
    write_set(tmp_path, "own", splits, class_names=["a", "b"])
    status, printed, errors = call("--dataset=tfds:own", f"--data_dir={tmp_path}")
    assert (status, errors) == (0, "")
    first, train = printed.splitlines()
    assert first.startswith(f"tfds:own 1.0.0 in {tmp_path}/own/1.0.0: 2 classes, ")
    assert train.startswith("  train: 3 images, ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--dataset=cifar10",),
            "error: --dataset: expected tfds:NAME as in tfds:cifar10",
        ),
        ((), "error: the following arguments are required: --dataset"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, flags, message):
    status, printed, errors = call(*flags, f"--data_dir={tmp_path}")
    assert (status, printed) == (2, "")
    assert errors.startswith(message)
    assert errors.count("\n") == 1


def test_help_names_every_flag():
    status, printed, _ = call("--help")
    assert status == 0
    for flag in ("--dataset", "--data_dir", "--manual_dir", "caco prepare"):
        assert flag in printed
