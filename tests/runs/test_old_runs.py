"""A run that version 0.1.0 saved is read and gone on with.

``data/run_0_1_0.tar.gz`` is the directory of such a run, told to stop in the midst of
its second and last epoch; ``data/run_0_1_0.json`` has what that version made of it.
"""

import json
import pathlib
import tarfile

import flax.linen as nn
import numpy as np
import pytest

import caco_jax
from caco_jax.config.build import load_run, pretrain, saved_pretraining
from caco_jax.config.sections import experiment_config
from caco_jax.runs.run import make_network_features
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import UserError, flatten
from caco_jax.training.sharding import make_mesh

DATA = pathlib.Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "run_0_1_0.json").read_text())
# Kernels differ from machine to machine, in the last bits.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def files(tmp_path):
    with tarfile.open(DATA / "run_0_1_0.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return Workdir(tmp_path)


def test_its_network_gives_the_same_features(files):
    loaded = load_run(files.path)
    assert int(loaded.state.step) == EXPECTED["step"] == 5
    _, test = make_network_features(loaded.pretraining)(loaded.network)
    np.testing.assert_array_equal(test.labels, EXPECTED["labels"])
    np.testing.assert_allclose(test.features[:3], EXPECTED["features"], **CLOSE)
    embedded = caco_jax.load(files.path).embed(loaded.data.test_examples)
    np.testing.assert_allclose(embedded[:3], EXPECTED["features"], **CLOSE)
    with pytest.raises(UserError) as refused:
        caco_jax.load(files.path, encoder=nn.Dense(3))
    assert str(refused.value) == (
        f"encoder: expected none, {files.path} is the run of a configuration, which "
        "names its own; got Dense"
    )


def test_it_is_trained_to_its_end_as_it_would_have_been(files, devices):
    run = saved_pretraining(files, mesh=make_mesh(devices[:1]))
    before = files.config_file.read_bytes()
    summary = run.fit(files.path)
    assert (summary["epochs"], summary["steps"], summary["images"]) == (2, 6, 64)
    rows = files.read_metrics()
    assert rows[0] == EXPECTED["metrics"][0]
    # Newer versions measure more; what 0.1.0 measured is there, and the same.
    assert rows[1].keys() >= EXPECTED["metrics"][1].keys()
    for name, value in EXPECTED["metrics"][1].items():
        np.testing.assert_allclose(rows[1][name], value, **CLOSE, err_msg=name)
    assert files.config_file.read_bytes() == before


def test_its_configuration_is_compared_by_values_and_new_keys_have_defaults(files):
    saved = files.read_config()
    assert saved["bank_optimizer"]["schedule"] == "cosine"
    assert saved["bank_optimizer"]["final_learning_rate"] == 3.0
    with pytest.raises(UserError, match=r"with another: seed \(0 in the run"):
        pretrain(experiment_config({**saved, "seed": 1}), files.path)
    bank = experiment_config(saved).optimizers["bank"]
    rate = bank.schedule_of(batch_size=8, epochs=2, steps_per_epoch=3)
    assert [float(rate(step)) for step in range(6)] == [3.0] * 6


def test_a_method_without_a_bank_said_so_with_null():
    saved = json.loads((DATA / "simclr_0_1_0.json").read_text())
    assert saved["bank_optimizer"] is None
    config = experiment_config(saved)
    assert list(config.optimizers) == ["encoder"]
    values = flatten(json.loads(json.dumps(config.values())))
    wanted = {key: value for key, value in flatten(saved).items() if "bank" not in key}
    assert wanted.items() <= values.items()
