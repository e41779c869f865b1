"""Released checkpoints as runs, runs as files, and every mismatch's one line."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from caco_jax.config.build import build_run, load_run
from caco_jax.config.recipe import smoke
from caco_jax.config.sections import default_config, experiment_config
from caco_jax.interop.files import read_weights, write_weights
from caco_jax.interop.torch_weights import from_torch
from caco_jax.interop.workdirs import export_run, import_run
from caco_jax.runs.checkpoints import Checkpoints
from caco_jax.runs.fit import Reporter
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import UserError
from caco_jax.training.sharding import make_mesh
from tests import test_goldens
from tests.goldens.nets import make_state_dict
from tests.interop import torch_oracle
from tests.interop.test_files import need

DIM, ENTRIES = 6, 32
HEADS = {"caco": (8, 8, DIM), "adco": (8, DIM), "moco": (8, DIM), "simclr": (8, DIM)}


def config(method, *, adversary=0.0, widths=None, seed=0, source=None, **encoder):
    """A run of tiny photographs with a head as the method's released code has it."""
    values = default_config(method)
    values.data.views = "moco_v2"
    values = smoke(values)
    values.training.batch_size = 8
    values.encoder.projector = "caco" if method == "caco" else "mlp"
    values.encoder.projector_widths = widths or HEADS[method]
    values.adversarial.epsilon = adversary
    values.seed = seed
    values.data.source = source or values.data.source
    values.encoder.update(encoder)
    return experiment_config(values)


def released(torch, method, *, stage_sizes=(1, 1, 1), single=False, **options):
    """A checkpoint as the method's released code saves it, its keys and all."""

    def encoder(seed):
        module = torch_oracle.resnet(torch, stage_sizes, width=4, stem="small")
        widths, norm = HEADS[method], method == "caco"
        if single:
            module.fc = torch.nn.Linear(module.outputs, DIM)
        else:
            module.fc = torch_oracle.head_layers(
                torch, module.outputs, widths, norm=norm
            )
        return torch_oracle.randomise(torch, module, seed)

    online, target = encoder(1), encoder(2)
    state = {f"module.encoder_q.{n}": t for n, t in online.state_dict().items()}
    state |= {f"module.encoder_k.{n}": t for n, t in target.state_dict().items()}
    columns = torch.randn(DIM, ENTRIES, generator=torch.Generator().manual_seed(3))
    checkpoint = {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": state,
        "optimizer": torch.optim.SGD(online.parameters(), 0.1, 0.9).state_dict(),
    }
    if method == "moco":
        state["module.queue"], state["module.queue_ptr"] = columns, torch.tensor([24])
    else:
        bank = {"W": columns, "v": torch.zeros_like(columns)}
        checkpoint |= {"Memory_Bank": bank, "best_acc": 71.3}
    return checkpoint, online, target


def one_device():
    return make_mesh(jax.devices()[:1])


def saved(torch, tmp_path, content, name="checkpoint.pth.tar"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def agree(run, network, module, torch):
    """The run's network computes what the PyTorch module does."""
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    embed = jax.jit(functools.partial(run.pretraining.encoder.embed, train=False))
    got, _ = embed(network, images)
    with torch.no_grad():
        want = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("method", ["caco", "adco", "moco"])
def test_a_released_checkpoint_becomes_a_run(tmp_path, method):
    torch = torch_oracle.require_torch()
    checkpoint, online, target = released(torch, method)
    file, workdir = saved(torch, tmp_path, checkpoint), tmp_path / "run"
    report = import_run(file, config(method), workdir)
    memory = "queue" if method == "moco" else "bank"
    assert report == {
        "file": str(file),
        "imported": ["backbone", "projector", "target encoder", memory],
        "fresh": [],
        "prefix": "state_dict.module.encoder_q.",
        "encoders": ["state_dict.module.encoder_k."],
        "left_out": {} if method == "moco" else {"Memory_Bank": 1},
    }
    run = load_run(workdir)
    assert run.pretraining.description.values == config(method).values()
    assert int(run.state.step) == 0
    agree(run, run.network, online, torch)
    agree(run, run.state.target, target, torch)
    if method == "moco":
        columns = checkpoint["state_dict"]["module.queue"]
        np.testing.assert_array_equal(run.state.extra["queue"], columns.numpy().T)
        assert int(run.state.extra["next_row"]) == 24
    else:
        columns = checkpoint["Memory_Bank"]["W"]
        np.testing.assert_array_equal(run.state.players["bank"], columns.numpy().T)

    # All of it comes out again, bit for bit, and goes in again.
    out = tmp_path / "out.pth"
    parts = ["backbone", "projector", "bank"]
    written = export_run(workdir, out, parts=parts)
    content = torch.load(out, weights_only=True)
    expected = {**online.state_dict()}
    expected |= (
        {"queue": columns, "queue_ptr": torch.tensor([24])}
        if method == "moco"
        else {"Memory_Bank.W": columns}
    )
    assert set(content) == set(expected)
    assert written["arrays"] == len(expected)
    assert written["numbers"] == sum(tensor.numel() for tensor in expected.values())
    for name, tensor in expected.items():
        assert torch.equal(content[name], tensor), name
    again = import_run(out, config(method), tmp_path / "again", parts=parts)
    assert again["fresh"] == ["target encoder"]
    for name, part in (("encoder", "players"), ("bank", "players")):
        if name in run.state.players:
            jax.tree.map(
                np.testing.assert_array_equal,
                getattr(load_run(tmp_path / "again").state, part)[name],
                run.state.players[name],
            )


@pytest.fixture(scope="module")
def fresh_runs(tmp_path_factory):
    """Untrained runs by method and adversary, saved at step 0."""
    root = tmp_path_factory.mktemp("runs")

    @functools.cache
    def make(method, adversary=0.0):
        files = Workdir(root / f"{method}{adversary}")
        values = config(method, adversary=adversary, seed=1)
        fresh = build_run(values, mesh=one_device())
        files.claim(fresh.description.values)
        with Checkpoints(files) as checkpoints:
            checkpoints.save(fresh.initial_state())
        return files.path

    return make


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A backbone's state dict, with no head."""
    path = tmp_path_factory.mktemp("files") / "backbone.pth"
    torch = torch_oracle.require_torch()
    module = torch_oracle.resnet(torch, (1, 1, 1), width=4, stem="small")
    torch.save(torch_oracle.randomise(torch, module).state_dict(), path)
    return path


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_backbone_alone_leaves_the_rest_fresh(tmp_path, fresh_runs, backbone):
    report = import_run(backbone, config("simclr", seed=1), tmp_path / "run")
    assert report["imported"] == ["backbone"]
    assert report["fresh"] == ["projector"]
    state = load_run(tmp_path / "run").state
    fresh = load_run(fresh_runs("simclr")).state.players["encoder"]
    same(state.players["encoder"]["projector"], fresh["projector"])
    kernel = state.players["encoder"]["backbone"]["conv1"]["kernel"]
    assert np.any(kernel != fresh["backbone"]["conv1"]["kernel"])
    given = read_weights(backbone)["conv1.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, given)


@pytest.mark.parametrize("widths", [None, (DIM,)], ids=["two layers", "one layer"])
def test_a_classifier_is_no_projector(tmp_path, backbone, widths):
    torch = torch_oracle.require_torch()
    state = read_weights(backbone)
    state |= {"fc.weight": torch.ones(10, 16), "fc.bias": torch.ones(10)}
    file = saved(torch, tmp_path, state)
    report = import_run(file, config("simclr", widths=widths), tmp_path / "run")
    assert (report["imported"], report["fresh"]) == (["backbone"], ["projector"])


def test_the_single_layer_of_mocos_first_version_is_one(tmp_path):
    torch = torch_oracle.require_torch()
    checkpoint, online, _ = released(torch, "moco", single=True)
    file = saved(torch, tmp_path, checkpoint)
    report = import_run(file, config("moco", widths=(DIM,)), tmp_path / "run")
    assert report["fresh"] == []
    run = load_run(tmp_path / "run")
    agree(run, run.network, online, torch)
    with pytest.raises(UserError, match=r"fc\.0\.bias: expected \(8,\) as in the "):
        import_run(file, config("moco"), tmp_path / "other")


def test_only_what_was_asked_for_is_taken(tmp_path):
    torch = torch_oracle.require_torch()
    file = saved(torch, tmp_path, released(torch, "caco")[0])
    other = config("caco", widths=(8, 8, 4))  # whose head and bank do not fit
    report = import_run(file, other, tmp_path / "run", parts=["backbone"])
    assert report["imported"] == ["backbone", "target encoder"]
    assert report["fresh"] == ["projector", "bank"]


def test_adversarial_twins(tmp_path, fresh_runs, backbone):
    torch_oracle.require("safetensors")
    clae = config("caco", adversary=0.03)
    import_run(backbone, clae, tmp_path / "copied")
    bn1 = load_run(tmp_path / "copied").state.stats["backbone"]["bn1"]
    np.testing.assert_array_equal(bn1["adversarial_var"], bn1["var"])

    source = load_run(fresh_runs("caco", 0.03)).state
    export_run(fresh_runs("caco", 0.03), tmp_path / "clean.safetensors")
    names = read_weights(tmp_path / "clean.safetensors").keys()
    assert names == read_weights(backbone).keys()
    parts = ["backbone", "projector", "twins"]
    export_run(fresh_runs("caco", 0.03), tmp_path / "all.safetensors", parts=parts)
    import_run(tmp_path / "all.safetensors", clae, tmp_path / "again")
    again = load_run(tmp_path / "again").state
    same(again.players["encoder"], source.players["encoder"])
    same(again.stats, source.stats)


class Reached(Exception):
    """A phase of training would begin."""


class Until(Reporter):
    """Ends a run where its first step would be compiled."""

    def phase_begun(self, phase, done, steps):
        raise Reached(phase, done, steps)


def test_training_starts_from_an_imported_run(tmp_path):
    torch = torch_oracle.require_torch()
    file = saved(torch, tmp_path, released(torch, "caco")[0])
    import_run(file, config("caco"), tmp_path / "run")
    run = build_run(config("caco"), mesh=one_device())
    assert run.start_up_steps > 0  # which would replace the bank
    before = load_run(tmp_path / "run").state
    with pytest.raises(Reached) as caught:
        run.fit(tmp_path / "run", reporter=Until())
    assert caught.value.args == ("step", 0, run.total_steps)
    same(load_run(tmp_path / "run").state, before)


@pytest.mark.skipif(not test_goldens.FILES, reason="no goldens: set CACO_GOLDENS")
@pytest.mark.parametrize(
    "suffix", [".pth", pytest.param(".safetensors", marks=pytest.mark.slow)]
)
def test_the_golden_network_survives_its_way_through_files(tmp_path, suffix):
    """`tests.test_goldens` says what it then computes."""
    need(suffix)
    (file,) = [file for file in test_goldens.FILES if file.stem == "resnet18"]
    case = dict(np.load(file, allow_pickle=False))
    hidden, dim = int(case["projector_hidden"]), int(case["projector_dim"])
    state = {
        name: array.astype(np.float32) if array.ndim else array
        for name, array in make_state_dict(case).items()
    }
    options = {"backbone": "resnet18", "width": 64, "stem": "imagenet"}
    same_network = config("caco", widths=(hidden, hidden, dim), **options)
    weights = tmp_path / f"golden{suffix}"
    write_weights(weights, state)
    import_run(weights, same_network, tmp_path / "run")
    network = load_run(tmp_path / "run").network
    variables = {"params": network.params, "batch_stats": network.stats}
    same(variables, from_torch(state, variables))
    out = tmp_path / f"again{suffix}"
    export_run(tmp_path / "run", out, parts=["backbone", "projector"])
    again = read_weights(out)
    assert again.keys() == state.keys()
    for name, array in state.items():
        assert np.asarray(again[name]).tobytes() == array.tobytes(), name


def refused(action, *args, **options):
    with pytest.raises(UserError) as caught:
        action(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "method, changes, message",
    [
        (
            "moco",
            {"stage_sizes": (1, 2, 1)},
            "layer2.1.conv1.weight: expected none as in the network, got (8, 8, 3, 3)",
        ),
        (
            "caco",
            {"recipe": {"width": 8}},
            "conv1.weight: expected (8, 3, 3, 3) as in the network, got (4, 3, 3, 3)",
        ),
        (
            "adco",
            {"recipe": {"widths": (8, 8, DIM)}},
            f"fc.2.weight: expected (8, 8) as in the network, got ({DIM}, 8)",
        ),
    ],
)
def test_another_network_is_refused(tmp_path, method, changes, message):
    torch = torch_oracle.require_torch()
    recipe = changes.pop("recipe", {})
    file = saved(torch, tmp_path, released(torch, method, **changes)[0])
    got = refused(import_run, file, config(method, **recipe), tmp_path / "run")
    assert got.startswith(f"--file: {file}: {message}; ")
    assert got.endswith(
        "leave it out by --parts=backbone"
        if message.startswith("fc")
        else "name the recipe of this network, or change --config.encoder"
    )
    assert not (tmp_path / "run").exists()


def test_a_bank_of_another_size_is_refused(tmp_path):
    torch = torch_oracle.require_torch()
    checkpoint, *_ = released(torch, "caco")
    checkpoint["Memory_Bank"]["W"] = torch.ones(DIM, 40)
    file = saved(torch, tmp_path, checkpoint)
    assert refused(import_run, file, config("caco"), tmp_path / "run") == (
        f"--file: {file}: Memory_Bank.W: expected ({DIM}, 32) as in the run, got "
        f"({DIM}, 40); set --config.method.bank_size to that of the file, or leave it "
        "out by --parts"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("pointer", [np.ones(2, np.int64), np.ones(1, np.float32)])
def test_a_queue_without_a_place_is_refused(tmp_path, pointer):
    torch = torch_oracle.require_torch()
    checkpoint, *_ = released(torch, "moco")
    checkpoint["state_dict"]["module.queue_ptr"] = torch.from_numpy(pointer)
    file = saved(torch, tmp_path, checkpoint)
    assert refused(import_run, file, config("moco"), tmp_path / "run") == (
        f"--file: {file}: queue_ptr: expected one integer"
    )


@pytest.mark.parametrize("part", ["projector", "bank"])
def test_a_part_that_is_not_there_is_refused(tmp_path, backbone, part):
    parts = ["backbone", part]
    assert refused(
        import_run, backbone, config("caco"), tmp_path / "run", parts=parts
    ) == (
        f"--file: {backbone}: it has no {part} for this run: leave that out of --parts"
    )


def test_a_run_that_is_there_is_left_alone(tmp_path, backbone):
    workdir = tmp_path / "run"
    import_run(backbone, config("simclr"), workdir)
    (workdir / "mine").write_text("")
    assert refused(import_run, backbone, config("simclr"), workdir) == (
        f"--workdir: expected a directory without a run, got {workdir}; name another "
        "directory, or --force to move it aside"
    )
    import_run(backbone, config("simclr"), workdir, force=True)
    assert pathlib.Path(f"{workdir}.old", "mine").exists()
    assert not (workdir / "mine").exists()
    (workdir / "config.json").unlink()
    assert refused(
        import_run, backbone, config("simclr"), workdir, force=True
    ).endswith(f"got {workdir}; name another directory")


@pytest.mark.parametrize(
    "method, parts, name, message",
    [
        (
            "simclr",
            ["bank"],
            "w.pth",
            "expected no bank, got it for a run without",
        ),
        (
            "simclr",
            ["backbone", "twins"],
            "w.pth",
            "expected no twins, got them for a run without adv",
        ),
        (
            "caco",
            ["backbone", "bank"],
            "w.pkl",
            "expected backbone alone for detectron2's",
        ),
    ],
)
def test_what_a_run_or_a_file_cannot_have(
    tmp_path, fresh_runs, method, parts, name, message
):
    torch_oracle.require_torch()
    got = refused(export_run, fresh_runs(method), tmp_path / name, parts=parts)
    assert got.startswith(f"--parts: {message}")
    assert list(tmp_path.iterdir()) == []


def test_no_run_no_file(tmp_path):
    out = tmp_path / "w.pkl"
    assert refused(export_run, tmp_path, out).startswith(
        f"--workdir: expected the directory of a run, got {tmp_path}: it has no "
        "config.json"
    )
    files = Workdir(tmp_path / "begun")
    files.claim(config("simclr").values())
    assert refused(export_run, files.path, out) == (
        f"--workdir: expected a run with a checkpoint, got {files.path} without one; "
        "let caco pretrain run to its first checkpoint"
    )
    assert not out.exists()


def test_photographs_need_not_be_there(tmp_path, backbone):
    values = config("simclr", source="folder:nowhere")
    import_run(backbone, values, tmp_path / "run")
    assert export_run(tmp_path / "run", tmp_path / "w.pkl")["step"] == 0
