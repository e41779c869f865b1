"""Settings, evaluations and verdicts, as a report words them."""

import json

import numpy as np
import pytest

from caco_jax.config.sections import default_config
from caco_jax.methods.registry import METHODS
from caco_jax.report import measures
from caco_jax.report.settings import setting_docs, setting_rows
from caco_jax.report.verdicts import HEALTH, METRICS, run_verdicts
from caco_jax.runs import alarms
from caco_jax.schema import flatten


@pytest.mark.parametrize("method", list(METHODS))
def test_every_setting_has_a_meaning(method):
    docs = setting_docs(method)
    keys = flatten(default_config(method).to_dict())
    assert [key for key in keys if not docs.get(key)] == []


def test_settings_that_are_not_the_defaults_are_marked():
    config = default_config("caco").to_dict()
    assert not any(True in row["changed"] for row in setting_rows({"a": config}))
    other = json.loads(json.dumps(config))
    other["optimizer"]["learning_rate"] = 0.7
    other["encoder"]["projector_widths"] = [8, 8, 4]
    del other["seed"]  # as a run has it that was saved before there was the key
    rows = {row["key"]: row for row in setting_rows({"a": config, "b": other})}
    changed = {key for key, row in rows.items() if row["changed"] == [False, True]}
    assert changed == {"optimizer.learning_rate", "encoder.projector_widths"}
    assert {key for key, row in rows.items() if row["differs"]} == changed
    assert rows["optimizer.learning_rate"]["values"] == ["0.03", "0.7"]
    assert rows["optimizer.learning_rate"]["default"] == "0.03"
    assert rows["seed"]["values"] == ["0", "0"]


FILES = {
    "knn": {"results": [{"k": 20, "temperature": 0.2, "accuracy": 0.9}]},
    "linear_probe_imagenet": {
        "protocol": "imagenet",
        "accuracy": 0.6,
        "top5": 0.8,
        "interval": [0.5, 0.7],
        "by_class": {"a": 0.6},
    },
    "linear_probe_tfds_voc": {
        "protocol": "lbfgs",
        "mean_average_precision": 0.4,
        "interval": [0.3, 0.5],
    },
    "few_shot": {
        "results": [{"shots": 1, "mean": 0.5, "std": 0.1, "each": [0.4, 0.6]}]
    },
    "fine_tune": {
        "results": [
            {"share": 0.1, "images": 1200, "accuracy": 0.7, "interval": [0.6, 0.8]}
        ]
    },
}


def test_every_evaluation_is_read(tmp_path):
    for name, values in FILES.items():
        text = json.dumps({"step": 5, "images": "set", **values})
        (tmp_path / f"{name}.json").write_text(text)
    rows = measures.run_measures(tmp_path)
    assert [(row["what"], row["value"], row["low"], row["high"]) for row in rows] == [
        ("kNN, 20 neighbours, temperature 0.2", 0.9, None, None),
        ("Linear probe, imagenet protocol", 0.6, 0.5, 0.7),
        ("Linear probe, imagenet protocol, top 5", 0.8, None, None),
        ("Linear probe, mean average precision", 0.4, 0.3, 0.5),
        ("Few-shot, 1 label a class", 0.5, 0.4, 0.6),
        ("Fine-tuned on 10% of the labels (1,200 images)", 0.7, 0.6, 0.8),
    ]
    assert {(row["step"], row["images"]) for row in rows} == {(5, "set")}
    assert [row.get("by_class") for row in rows][1] == {"a": 0.6}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"results": [1]}', "null"])
def test_files_that_say_nothing_are_passed_over(tmp_path, text):
    (tmp_path / "knn.json").write_text(text)
    assert measures.run_measures(tmp_path) == []


def test_the_demo_is_a_table_of_three_by_three(tmp_path):
    assert measures.demo_table(tmp_path) is None
    file = tmp_path / "demo.json"
    file.write_text("[1]")
    assert measures.demo_table(tmp_path) is None
    row = {"knn": 0.9, "linear": 0.8, "few_shot_mean": 0.7, "few_shot_std": 0.05}
    names = ("pretrained", "random_encoder", "raw_pixels")
    file.write_text(json.dumps({"machine": "m", **dict.fromkeys(names, row)}))
    found = measures.demo_table(tmp_path)
    assert len(found["columns"]) == len(found["rows"]) == 3
    assert [row["cells"] for row in found["rows"]] == [
        [[0.9, None], [0.8, None], [0.7, 0.05]]
    ] * 3
    assert measures.run_measures(tmp_path) == []


def test_what_was_not_measured_is_named_with_its_command(tmp_path):
    (tmp_path / "knn_other.json").write_text("{}")
    found = measures.missing(tmp_path, "runs/my run")
    assert [(row["section"], row["measures"]) for row in found] == [
        ("evaluation", "The linear probe"),
        ("evaluation", "Accuracy from few labels"),
        ("evaluation", "Accuracy after fine-tuning"),
        ("diagnostics", "The health of the features"),
    ]
    assert found[-1]["command"] == ("caco health --workdir='runs/my run'")


def lights(row=None, health=None, *, epochs=20, candidates=100):
    rows = [] if row is None else [{"epoch": 20, **row}]
    found = run_verdicts(rows, health, epochs=epochs, candidates=candidates)
    return {verdict.what: verdict for verdict in found}


CHANCE = {"bank_chance_cosine": 0.3}


@pytest.mark.parametrize(
    ("row", "what", "light"),
    [
        ({}, "Epochs completed", "good"),
        ({"cross_entropy": 2.0}, "Cross entropy against chance", "good"),
        ({"cross_entropy": 4.53}, "Cross entropy against chance", "watch"),
        ({"cross_entropy": 4.6}, "Cross entropy against chance", "act"),
        ({"cross_entropy": float("nan")}, "Cross entropy against chance", "act"),
        ({"embedding_std": 0.9}, "Spread of the embeddings", "good"),
        ({"embedding_std": 0.2}, "Spread of the embeddings", "watch"),
        ({"embedding_std": 0.01}, "Spread of the embeddings", "act"),
        ({"bank_used_ever": 0.1}, "Bank entries chosen at least once", "watch"),
        ({"bank_mass": 0.9}, "Softmax mass on the bank", "good"),
        ({"bank_mass": 0.1}, "Softmax mass on the bank", "watch"),
        ({"bank_mass": 0.02}, "Softmax mass on the bank", "act"),
        ({"bank_row_length": 0.118}, "Length of the bank's rows", "act"),
        ({**CHANCE, "bank_cosine": 0.9}, "Nearest bank entry against chance", "good"),
        ({**CHANCE, "bank_cosine": 0.5}, "Nearest bank entry against chance", "watch"),
        ({**CHANCE, "bank_cosine": 0.2}, "Nearest bank entry against chance", "act"),
    ],
)
def test_lights_of_the_metrics(row, what, light):
    found = lights(row)[what]
    assert found.light == light
    assert bool(found.advice) == (light != "good")


ALARMS = {
    "collapsed": ("embedding_std", "Spread of the embeddings"),
    "at_chance": ("cross_entropy", "Cross entropy against chance"),
    "bank_unused": ("bank_used_ever", "Bank entries chosen at least once"),
    "bank_dead": ("bank_mass", "Softmax mass on the bank"),
    "bank_shrunk": ("bank_row_length", "Length of the bank's rows"),
    "bank_lost": ("bank_cosine", "Nearest bank entry against chance"),
}
AT_ONCE = {"collapsed": 1, "bank_shrunk": 1, "bank_dead": alarms.BANK_PATIENCE_EPOCHS}


@pytest.mark.parametrize("epoch", [1, alarms.PATIENCE_EPOCHS - 1, 20])
@pytest.mark.parametrize("name", ALARMS)
def test_a_light_says_act_where_the_alarm_sounds(name, epoch):
    metric, what = ALARMS[name]
    top = np.log(100) if metric == "cross_entropy" else 1.0
    heard = set()
    for value in np.linspace(0, top, 201):
        row = {"epoch": epoch, "bank_chance_cosine": 0.3, metric: float(value)}
        alarm = name in alarms.find_alarms(epoch, row, candidates=100)
        (light,) = [
            verdict.light
            for verdict in run_verdicts([row], None, epochs=20, candidates=100)
            if verdict.what == what
        ]
        assert (light == "act") == alarm, value
        heard.add(alarm)
    patient = epoch >= AT_ONCE.get(name, alarms.PATIENCE_EPOCHS)
    assert heard == ({True, False} if patient else {False})


def test_lights_of_the_features():
    health = {"images": 50, "features": 200, "effective_rank": 20.0, "uniformity": -0.1}
    found = lights(health=health)
    assert found["Effective rank of the features"].value == "40.0%"
    assert found["Uniformity of the features"].light == "watch"
    assert found["Epochs completed"].light == "watch"  # no epoch is done
    assert "Deviation of the features" not in found


def test_a_worse_last_encoder_is_told():
    rows = [{"epoch": 1, "knn": 0.9}, {"epoch": 2, "knn": 0.85}]
    (verdict,) = (
        verdict
        for verdict in run_verdicts(rows, None, epochs=2, candidates=None)
        if verdict.what == "Last kNN accuracy against the best"
    )
    assert verdict.light == "watch"
    assert "best/" in verdict.advice


@pytest.mark.parametrize("scale", [*METRICS.values(), *HEALTH.values()])
def test_every_scale_has_three_lights_in_order(scale):
    step = scale.watch - scale.act
    values = (scale.watch + step, (scale.watch + scale.act) / 2, scale.act - step)
    judged = [scale.judge(value).light for value in values]
    assert judged == ["good", "watch", "act"]
    assert scale.judge(float("inf")).light == "act"
