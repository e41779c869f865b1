"""What a report finds in runs of all kinds."""

import base64
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from caco_jax import methods
from caco_jax.config.build import build_run
from caco_jax.data.views import make_views
from caco_jax.losses import l2_normalize
from caco_jax.report import collect, figures
from caco_jax.report.sample import Sample, draw_sample, sheet, to_bytes
from caco_jax.training.feeds import epoch_order
from caco_jax.training.sharding import make_mesh
from tests.report.conftest import of_classes, save_run
from tests.runs import tiny

pytestmark = pytest.mark.xdist_group("report")


@pytest.fixture(scope="module")
def train(run):
    """All training images, and their embeddings."""
    sample = draw_sample(run.pretraining, count=1000, held_out=False)
    return sample, figures.encode(run, sample)


def test_entries_are_chosen_by_the_keys_nearest_to_them(run, train):
    sample, encoded = train
    found = figures.bank_entries(run, sample, encoded)
    rows = np.asarray(l2_normalize(run.state.players["bank"]))
    nearest = (np.asarray(encoded.keys) @ rows.T).argmax(axis=1)
    for entry in found["entries"]:
        users = np.flatnonzero(nearest == entry["entry"])
        assert entry["uses"] == len(users)
        assert set(entry["chose"]) <= set(users.tolist())
        assert len(entry["chose"]) == min(len(users), figures.LISTED)
    uses = [entry["uses"] for entry in found["entries"]]
    assert uses == sorted(uses, reverse=True)
    assert sum(uses) == found["images"] == 48
    assert found["unused"] == uses.count(0)
    assert found["chooses"]
    draws = np.random.default_rng(0).integers(40, size=(2000, 48))
    even = np.mean([len(np.unique(chosen)) for chosen in draws])
    assert found["even"] == pytest.approx(even, abs=0.2)


def test_entries_repel_as_the_softmax_of_the_bank_player_says(run, train):
    sample, encoded = train
    rows = np.asarray(l2_normalize(run.state.players["bank"]), np.float64)
    temperature = run.pretraining.method.settings.bank_temperature
    scores = np.asarray(encoded.queries, np.float64) @ rows.T / temperature
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    nearest = (np.asarray(encoded.keys) @ rows.T).argmax(axis=1)
    shares[np.arange(len(nearest)), nearest] = 0  # its positive does not repel it
    for entry in figures.bank_entries(run, sample, encoded)["entries"]:
        column = shares[:, entry["entry"]]
        image, weight = entry["repels"][0]
        assert weight == pytest.approx(column.max(), rel=0.06)  # two digits are kept
        assert column[image] == pytest.approx(column.max(), rel=1e-3)
        assert len(entry["repels"]) == figures.LISTED


def test_of_a_large_bank_the_most_used_entries_are_shown(run, train):
    sample, encoded = train
    few = Sample(sample.pixels[:8], sample.labels[:8])
    eight = figures.Encoded(encoded.queries[:8], encoded.keys[:8])
    whole = figures.bank_entries(run, few, eight)
    found = figures.bank_entries(run, few, eight, most=8, dense=16)
    assert (found["size"], found["scored"], len(found["entries"])) == (40, 16, 8)
    assert found["unused"] == whole["unused"]
    for one, other in zip(found["entries"], whole["entries"], strict=False):
        assert (one["entry"], one["chose"]) == (other["entry"], other["chose"])


def test_pair_weights_are_sorted_by_class_and_summarised(run, train):
    found = figures.pair_weights(run, *train)
    count = len(found["images"])
    assert found["labels"] == sorted(found["labels"])
    levels = np.frombuffer(base64.b64decode(found["bytes"]), np.uint8)
    levels = levels.reshape(count, count)
    assert not levels.diagonal().any()
    assert levels.max() == 255
    queries = np.asarray(train[1].queries)[found["images"]]
    np.fill_diagonal(scores := (queries @ queries.T), -1)
    assert (levels.argmax(axis=1) == scores.argmax(axis=1)).mean() > 0.9
    assert 0 < found["same_class_share"] < 1
    assert 1 <= found["effective_negatives"] <= count - 1


def pictures_of(sheet):
    """The small pictures of a sheet, [N, H, W]; those of a few pixels lose nothing."""
    content = base64.b64decode(sheet["url"].removeprefix("data:image/webp;base64,"))
    whole = np.asarray(Image.open(io.BytesIO(content)).convert("L"), int)
    grid = whole.reshape(
        sheet["rows"], sheet["height"], sheet["columns"], sheet["width"]
    )
    every = grid.swapaxes(1, 2).reshape(-1, sheet["height"], sheet["width"])
    return every[: sheet["count"]]


def test_views_are_those_of_the_newest_step(run):
    parts = run.pretraining
    late = run._replace(state=run.state._replace(step=jnp.asarray(5)))
    found = figures.seen_views(late)  # step 5 is the second of epoch 1
    rows = epoch_order(parts.keys.order, 1, count=48, steps=3, batch_size=16)[1]
    images = parts.data.train_examples[rows]
    key = jax.random.fold_in(parts.keys.steps, 4)
    views = jax.jit(make_views(parts.views))(key, images)
    shown = pictures_of(found["originals"])
    np.testing.assert_array_equal(shown, images[: figures.VIEWED, ..., 0])
    for seen, view in zip(found["sheets"], views, strict=True):
        expected = to_bytes(view, parts.views)[: figures.VIEWED, ..., 0]
        apart = np.abs(pictures_of(seen) - expected)
        assert apart.max() <= 1  # the compiler rounds
    assert found["step"] == 5


def test_a_streamed_set_of_photographs(devices, tmp_path):
    config = tiny.config(
        data__source="fake:8x8x3x48",
        data__views="moco_v2",
        data__view_size=8,
        data__max_resident_bytes=0,
    )
    parts = build_run(config, mesh=make_mesh(devices[:1]))
    found = collect.collect(save_run(tmp_path / "run", parts))
    assert found["views"]["originals"] is None
    assert [view["count"] for view in found["views"]["sheets"]] == [12, 12]
    assert found["train"]["sheet"]["count"] == 48
    assert len(found["map"]["points"]) == 12


def test_images_without_labels(run):
    data = of_classes(())
    parts = run.pretraining.replace(data=data)
    found = collect.collect(run._replace(pretraining=parts, data=data))
    assert set(found["map"]["labels"]) == set(found["pairs"]["labels"]) == {-1}
    assert found["pairs"]["same_class_share"] is found["pairs"]["chance"] is None
    assert found["classes"] == found["missing"] == []


def test_a_queue_is_looked_at_and_no_memory_is_nothing(run, train):
    found = []
    for method in (methods.moco(queue_size=32), methods.simclr()):
        parts = run.pretraining.replace(method=method, optimizers=None)
        state = jax.eval_shape(parts.initial_state)
        _, extra = parts.method.init(parts.keys.players)
        state = run.state._replace(
            players={name: run.state.players[name] for name in state.players},
            extra=extra,
        )
        other = run._replace(pretraining=parts, state=state)
        found.append(figures.bank_entries(other, *train))
    queue, nothing = found
    assert (queue["name"], queue["size"], queue["chooses"]) == ("queue", 32, False)
    assert nothing is None


def test_a_network_that_diverged(run):
    encoder = jax.tree.map(lambda leaf: leaf * np.nan, run.state.players["encoder"])
    state = run.state._replace(players=run.state.players | {"encoder": encoder})
    found = collect.collect(run._replace(state=state))
    assert found["train"] is found["map"] is found["views"] is None
    assert found["settings"]


def test_runs_that_are_compared(run, workdir, tmp_path):
    parts = build_run(tiny.config(seed=4), mesh=run.pretraining.mesh)
    other = save_run(tmp_path / "caco", parts, epochs=6).files.path
    found = collect.collect(run, [other, str(workdir)])
    parents = [workdir.parent.name, tmp_path.name]
    assert found["runs"] == [f"{parent}/caco" for parent in parents]
    (loss,) = (curve for curve in found["curves"] if curve["name"] == "loss")
    assert loss["x"] == [1, 2, 3, 4, 5, 6]
    assert loss["series"][0] == [4.0, 2.0, 4.0 / 3, 1.0, None, None]
    assert loss["series"][1][5] == 4.0 / 6
    differing = [row for row in found["settings"] if row["differs"]]
    assert [(row["key"], row["values"]) for row in differing] == [("seed", ["3", "4"])]
    assert [len(rows) for rows in found["measures"]] == [2, 0]


def test_what_is_no_number_is_no_curve():
    rows = [{"epoch": 1, "step": 2, "loss": 1.0, "knn": None, "alarms": ["collapsed"]}]
    (curve,) = collect.curves([rows], chance=None)
    assert (curve["name"], curve["series"]) == ("loss", [[1.0]])


def test_the_start_up_is_told(hostile_values):
    told = hostile_values["run"]["start_up"]
    assert (told["steps"], told["epochs"]) == (3, 1.0)
    assert told["description"] == "InfoNCE against a bank that fills with keys"


def test_chance_is_drawn_where_it_belongs(hostile_values):
    levels = {curve["name"]: curve["chance"] for curve in hostile_values["curves"]}
    assert levels.pop("cross_entropy") == pytest.approx(np.log(40))
    assert set(levels.values()) == {None}


def test_values_are_json_even_with_nan():
    found = collect.finite({"a": [np.nan, (1.5, np.inf)], "b": "nan"})
    assert found == {"a": [None, [1.5, None]], "b": "nan"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("shape", "thumb"),
    [
        ((5, 16, 16, 1), (16, 16)),
        ((40, 80, 120, 3), (43, 64)),
        ((1, 200, 100, 3), (64, 32)),
    ],
)
def test_sheets_hold_small_pictures_in_order(shape, thumb):
    values = np.linspace(40, 220, shape[0]).astype(np.uint8)
    found = sheet(np.broadcast_to(values[:, None, None, None], shape))
    assert (found["height"], found["width"]) == thumb
    assert found["count"] == shape[0]
    middles = pictures_of(found)[:, thumb[0] // 2, thumb[1] // 2]
    np.testing.assert_allclose(middles, values, atol=4)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((3, 8), np.uint8), ((3, 8, 8, 1), np.float32), ((3, 8, 8, 2), np.uint8)],
)
def test_what_is_no_image_has_no_sheet(shape, dtype):
    assert sheet(np.zeros(shape, dtype)) is None
