"""The evaluations as a person runs them, in this process, on a tiny run."""

import json
import re

import cv2
import jax
import numpy as np
import pytest

from caco_jax.config.build import load_run
from caco_jax.data.dataset import ArrayDataset
from caco_jax.data.sources import make_fake_set
from caco_jax.evaluation.knn import knn_accuracy
from caco_jax.programs import few_shot, fine_tune, health, knn, linear_probe
from tests.data.tfds_files import write_set
from tests.experiments.commands import call as call_main
from tests.experiments.commands import one_line, save_run, succeeded

# One worker runs them all: they share a run and what they compile.
pytestmark = pytest.mark.xdist_group("commands")

MAINS = {
    "knn": knn.main,
    "linear_probe": linear_probe.main,
    "few_shot": few_shot.main,
    "fine_tune": fine_tune.main,
    "health": health.main,
}
INTERVAL = r"[\d.]+% of 16 held-out images \(95% interval [\d.]+% to [\d.]+%\), top-5 "


def call(name, *flags):
    return call_main(MAINS[name], *flags)


@pytest.fixture(scope="module")
def workdir(trained):
    return trained.workdir


def read(workdir, name):
    return json.loads((workdir / f"{name}.json").read_text())


def test_knn_tries_every_k_with_every_temperature(workdir):
    flags = ["--k", "1", "5", "--temperature", "0.1", "0.2"]
    out = succeeded(call("knn", f"--workdir={workdir}", *flags))
    found = read(workdir, "knn")
    assert found["images"] == "fake:8x8x1x64"
    pairs = [(row["k"], row["temperature"]) for row in found["results"]]
    assert pairs == [(1, 0.1), (1, 0.2), (5, 0.1), (5, 0.2)]
    assert len(out.splitlines()) == 4


def test_knn_of_embeddings_is_of_the_projectors_output(workdir):
    run = load_run(workdir)
    flags = [f"--workdir={workdir}", "--k=3", "--features=embedding"]
    succeeded(call("knn", *flags))
    (found,) = read(workdir, "knn")["results"]
    parts = run.features(kind="embedding")
    assert {part.features.shape[1] for part in parts} == {4}  # as the projector's
    train, test = parts
    (accuracy,) = knn_accuracy(*test, *train, num_classes=10, settings=[(3, 0.2)])
    assert found["accuracy"] == accuracy


def test_the_probe_chooses_its_penalty(workdir):
    out = succeeded(call("linear_probe", f"--workdir={workdir}"))
    found = read(workdir, "linear_probe")
    assert set(found["held_out"]) == {"1e-05", "0.0001", "0.001", "0.01", "0.1"}
    assert found["held_out"][f"{found['l2']:g}"] == max(found["held_out"].values())
    first, second = out.splitlines()
    assert re.fullmatch(rf"Linear probe: {INTERVAL}[\d.]+%", first)
    assert second == (
        f"L2 {found['l2']:g}, the best of 5 on held-out training images; "
        f"{found['train_accuracy']:.2%} of the training images"
    )
    low, high = found["interval"]
    assert low <= found["accuracy"] <= high <= found["top5"] <= 1
    assert set(found["by_class"]) == {f"class {c}" for c in range(10)}


def test_a_sweep_names_the_chosen_head(workdir):
    out = succeeded(
        call(
            "linear_probe",
            f"--workdir={workdir}",
            "--protocol=imagenet",
            "--preset=moco",
            "--epochs=2",
            "--batch_size=8",
            "--learning_rates",
            "0.1",
            "1",
            "--weight_decays",
            "0",
            "0.01",
        )
    )
    found = read(workdir, "linear_probe_imagenet")
    assert len(found["heads"]) == 4
    best = max(head["held_out"] for head in found["heads"])
    chosen = next(head for head in found["heads"] if head["held_out"] == best)
    assert {k: chosen[k] for k in found["chosen"]} == found["chosen"]
    assert found["protocol_settings"]["preset"] == "moco"
    assert found["protocol_settings"]["epochs"] == 2
    lines = out.splitlines()
    assert len(lines) == 7
    assert sum(line.endswith("chosen") for line in lines) == 1
    rate, decay = found["chosen"].values()
    assert re.fullmatch(rf"Linear probe: {INTERVAL}[\d.]+%", lines[0])
    assert lines[1] == f"sgd, learning rate {rate:g}, weight decay {decay:g}"


def test_one_published_setting_needs_no_choice(workdir):
    flags = ["--protocol=imagenet", "--epochs=1"]
    out = succeeded(call("linear_probe", f"--workdir={workdir}", *flags))
    found = read(workdir, "linear_probe_imagenet")
    (head,) = found["heads"]
    assert head["held_out"] is None
    # CaCo's 0.4 for 4096 images, for the 64 there are.
    assert head["learning_rate"] == pytest.approx(0.4 * 64 / 4096)
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    "name, flags",
    [
        ("knn", ["--k", "1", "3"]),
        ("linear_probe", ["--l2=0.01"]),
        ("few_shot", ["--shots=1", "--seeds=2"]),
        ("fine_tune", ["--labels", "0.5", "1", "--epochs=1", "--batch_size=16"]),
        ("health", []),
    ],
)
def test_json_prints_what_is_saved_and_nothing_else(workdir, name, flags):
    out = succeeded(call(name, f"--workdir={workdir}", "--json", *flags))
    assert json.loads(out) == read(workdir, name)


def test_few_shot_draws_and_says_how_far_apart_they_are(workdir):
    flags = ["--shots", "1", "--seeds", "3"]
    out = succeeded(call("few_shot", f"--workdir={workdir}", *flags))
    (row,) = read(workdir, "few_shot")["results"]
    assert len(row["each"]) == 3
    assert row["mean"] == pytest.approx(np.mean(row["each"]))
    assert out == (
        f"Few-shot, 1 label a class: {row['mean']:.2%} ± {row['std']:.2%} of 16 "
        "held-out images, 3 draws\n"
    )


def test_fine_tuning_takes_shares_of_the_labels(workdir):
    flags = ["--labels", "0.3", "1", "--epochs=2", "--frozen", "norm"]
    out = succeeded(call("fine_tune", f"--workdir={workdir}", *flags))
    found = read(workdir, "fine_tune")
    assert found["plan"]["frozen"] == ["norm"]
    shares = [(row["share"], row["images"]) for row in found["results"]]
    assert shares[1] == (1.0, 64)
    assert 10 <= shares[0][1] < 26
    for line, (share, images) in zip(out.splitlines(), shares, strict=True):
        assert re.fullmatch(
            rf"Fine-tuned on {share:g} of the labels \({images} images\): "
            rf"{INTERVAL}[\d.]+%",
            line,
        )


def test_health_measures_features_and_bank(workdir):
    out = succeeded(call("health", f"--workdir={workdir}"))
    found = read(workdir, "health")
    assert 1 <= found["effective_rank"] <= 8
    assert found["deviation"] > 0
    assert found["uniformity"] < 0
    assert 0 < found["alignment"] < 4
    assert -1 <= found["bank_nearest_cosine"] <= 1
    assert 0 <= found["bank_use_entropy"] <= 1
    assert len(out.splitlines()) == 7


def test_other_images_are_judged_by_the_same_network(workdir):
    succeeded(call("knn", f"--workdir={workdir}", "--k", "3"))
    flags = ["--k", "3", "--source=fake:8x8x1x96"]
    out = succeeded(call("knn", f"--workdir={workdir}", *flags))
    assert "of 24 held-out images" in out
    assert read(workdir, "knn_fake_8x8x1x96")["images"] == "fake:8x8x1x96"
    assert read(workdir, "knn")["images"] == "fake:8x8x1x64"


@pytest.mark.parametrize("name", ["knn", "health"])
def test_images_of_other_size_and_channels_are_converted(workdir, name):
    flags = ["--source=fake:10x12x3x48"]
    status, _, err = call(name, f"--workdir={workdir}", *flags)
    assert status == 0, err
    assert "the images get the size and channels of those of the run" in err


VECTORS = ArrayDataset(
    "vectors",
    *(np.zeros((12, 5), np.float32), np.arange(12, dtype=np.int32) % 2) * 2,
    class_names=("a", "b"),
)


@pytest.mark.parametrize("name", list(MAINS))
def test_what_is_no_image_is_refused(workdir, name):
    source = f"--source={__name__}:VECTORS"
    message = one_line(call(name, f"--workdir={workdir}", source))
    assert message.startswith(
        "--source: expected examples like those of the run, uint8 (8, 8, 1), vectors "
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A run on photographs, and where two small TFDS sets are."""
    workdir = save_run(
        tmp_path_factory.mktemp("photos"),
        "data.source=fake:8x8x3x48",
        "data.views=moco_v2",
        "data.view_size=8",
        "data.workers=0",
    )
    data_dir = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    classes = {"class_names": ("cat", "dog", "sun")}

    def pairs(count, label):
        for index in range(count):
            shape = (10 + index % 2, 12, 3)
            picture = rng.integers(0, 256, shape, np.uint8)
            yield cv2.imencode(".png", picture)[1].tobytes(), label(index)

    for name, label in {
        "several": lambda index: [index % 3, (index + index // 3) % 3],
        "single": lambda index: index % 3,
    }.items():
        splits = {"train": [*pairs(24, label)], "test": [*pairs(9, label)]}
        listed = name == "several"
        write_set(data_dir, name, splits, listed=listed, **classes)
    return workdir, [f"--workdir={workdir}", f"--data_dir={data_dir}"]


def test_images_of_several_classes_are_judged_by_precision(photos):
    workdir, flags = photos
    flags = [*flags, "--source=tfds:several", "--label_feature=labels"]
    out = succeeded(call("linear_probe", *flags))
    found = read(workdir, "linear_probe_tfds_several")
    assert set(found["by_class"]) == {"cat", "dog", "sun"}
    area = found["mean_average_precision"]
    assert area == pytest.approx(np.mean(list(found["by_class"].values())))
    low, high = found["interval"]
    assert out == (
        f"Linear probe: mAP {area:.2%} of 9 held-out images (95% "
        f"interval {low:.2%} to {high:.2%}), at 11 points "
        f"{found['mean_average_precision_11_points']:.2%}\nL2 {found['l2']:g}\n"
    )


@pytest.mark.slow
def test_streamed_photographs_go_through_every_evaluation(photos):
    _, flags = photos
    flags = [*flags, "--source=tfds:single"]
    for preset in ("adco", "clae"):
        sweep = ["--protocol=imagenet", f"--preset={preset}", "--epochs=1"]
        assert "of 9 held-out" in succeeded(call("linear_probe", *flags, *sweep))
    tuned = succeeded(call("fine_tune", *flags, "--labels", "0.5", "--epochs=1"))
    assert "0.5 of the labels (12 images)" in tuned
    assert "9 held-out images" in succeeded(call("health", *flags))
    assert "of 9 held-out" in succeeded(call("few_shot", *flags, "--shots", "2"))


@pytest.mark.parametrize(
    ("source", "feature", "message"),
    [
        ("several", "label", "classes, one of labels; got 'label'"),
        ("single", "label", "classes, but the set has none; got 'label'"),
        (None, "labels", "images of several sizes, with a part held out, got fake:8x8"),
    ],
)
def test_a_feature_that_lists_no_classes(photos, source, feature, message):
    _, flags = photos
    if source:
        flags = [*flags, f"--source=tfds:{source}"]
    flags = [*flags, f"--label_feature={feature}"]
    told = one_line(call("linear_probe", *flags))
    assert told.startswith("--label_feature: expected a")
    assert message in told


@pytest.mark.parametrize("name", list(MAINS))
def test_help_is_given(name):
    status, out, _ = call(name, "--help")
    assert status == 0
    assert "--workdir" in out
    assert "--source" in out


def of_classes(count):
    images = make_fake_set("8x8x1x48")
    labels = {
        f"{part}_labels": getattr(images, f"{part}_labels") % count if count else None
        for part in ("train", "test")
    }
    return ArrayDataset(
        "made", images.train_examples, labels["train_labels"], images.test_examples,
        labels["test_labels"], tuple("abcdefghij"[:count]),
    )  # fmt: skip


WITHOUT_LABELS, OF_ONE_CLASS = of_classes(0), of_classes(1)
LARGE_GRAY = np.random.default_rng(0).integers(0, 256, (9, 40, 36, 1), np.uint8)


JUDGE = [name for name in MAINS if name != "health"]


@pytest.mark.parametrize("name", JUDGE)
def test_images_without_labels_cannot_be_judged(workdir, name):
    source = f"--source={__name__}:WITHOUT_LABELS"
    message = one_line(call(name, f"--workdir={workdir}", source))
    assert message.endswith("expected images with labels to evaluate, got made without")


@pytest.mark.parametrize("source", ["WITHOUT_LABELS", "OF_ONE_CLASS", "LARGE_GRAY"])
def test_health_needs_no_classes(workdir, source):
    said = succeeded(
        call("health", f"--workdir={workdir}", f"--source={__name__}:{source}")
    )
    kind = "training" if source == "LARGE_GRAY" else "held-out"
    assert f"{kind} images, views as in pretraining" in said
    assert "effective rank" in said


@pytest.mark.parametrize("name", JUDGE)
def test_one_class_is_nothing_to_tell_apart(workdir, name):
    source = f"--source={__name__}:OF_ONE_CLASS"
    assert one_line(call(name, f"--workdir={workdir}", source)) == (
        "--source: expected images of two classes or more, got made with 1"
    )


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A run whose network became NaN."""

    def spoil(state):
        encoder = jax.tree.map(lambda leaf: leaf * np.nan, state.players["encoder"])
        return state._replace(players=state.players | {"encoder": encoder})

    return save_run(tmp_path_factory.mktemp("broken"), change=spoil)


@pytest.mark.parametrize("name", ["knn", "linear_probe", "few_shot", "health"])
def test_features_with_nan_are_named(broken, name):
    assert one_line(call(name, f"--workdir={broken}")) == (
        "--workdir: of fake:8x8x1x64: features: expected finite numbers, got NaN or "
        "infinity"
    )


def test_heads_on_features_with_nan_stop_with_status_1(broken):
    flags = ["--protocol=imagenet", "--learning_rates", "1", "2", "--epochs=1"]
    status, out, err = call("linear_probe", f"--workdir={broken}", *flags)
    assert (status, out) == (1, "")
    assert "stopped: all 2 heads diverged; lower the learning rates" in err
    status, out, err = call("fine_tune", f"--workdir={broken}", "--epochs=1")
    assert (status, out) == (1, "")
    assert "stopped: step 0: loss is nan" in err


IMAGENET = "--protocol=imagenet"


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        (
            "linear_probe",
            ["--epochs=3"],
            "--epochs: expected it with --protocol=imagenet",
        ),
        (
            "linear_probe",
            ["--preset=moco"],
            "--preset: expected it with --protocol=imagen",
        ),
        (
            "linear_probe",
            [IMAGENET, "--l2=1"],
            "--l2: expected it with --protocol=lbfgs",
        ),
        (
            "linear_probe",
            [IMAGENET, "--label_feature=labels"],
            "--label_feature: expected it with --protocol=lbfgs only; leave it out",
        ),
        (
            "linear_probe",
            [IMAGENET, "--epochs=0"],
            "--epochs: expected a number in [1, ",
        ),
        (
            "linear_probe",
            [IMAGENET, "--learning_rates", "1", "1"],
            "--learning_rates: expected different numbers, at least one, got (1.0, "
            "1.0)",
        ),
        (
            "linear_probe",
            [IMAGENET, "--learning_rates", "1", "2", "--held_out=1"],
            "--held_out: held_out: expected images left to learn from, got 1.0",
        ),
        (
            "linear_probe",
            [IMAGENET, "--learning_rates", "1", "2", "--held_out=0"],
            "--held_out: share: expected a number in (0, 1], got 0.0",
        ),
        ("linear_probe", ["--preset=x"], "argument --preset: invalid choice: 'x'"),
        (
            "few_shot",
            ["--shots", "40"],
            "--shots, --seeds, --l2: expected at least 40 lab",
        ),
        (
            "few_shot",
            ["--seeds", "0"],
            "--shots, --seeds, --l2: seeds: expected at least",
        ),
        (
            "fine_tune",
            ["--labels", "0"],
            "--labels: share: expected a number in (0, 1]",
        ),
        (
            "fine_tune",
            ["--frozen", "layer1"],
            "--frozen: expected some of hidden, norm, got layer1",
        ),
        (
            "fine_tune",
            ["--layer_decay=0.5"],
            "--layer_decay: expected 1 for a network without a ViT's blocks, got 0.5",
        ),
        (
            "fine_tune",
            ["--momentum=1"],
            "--momentum: expected a number in [0, 1), got 1.0",
        ),
        ("health", ["--images=1"], "--images: expected at least 2, got 1"),
        ("knn", ["--source=nothing"], "config.data.source: expected one of "),
        ("knn", ["--config.seed=1"], "unrecognized arguments: --config.seed=1; see"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(workdir, name, flags, message):
    before = {path.name: path.stat().st_mtime_ns for path in workdir.iterdir()}
    assert one_line(call(name, f"--workdir={workdir}", *flags)).startswith(message)
    after = {path.name: path.stat().st_mtime_ns for path in workdir.iterdir()}
    assert after == before
