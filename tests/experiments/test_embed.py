"""``caco embed`` as a person runs it, in this process, on a tiny run."""

import json

import numpy as np
import pytest

from caco_jax.programs import embed, knn
from tests.data.pictures import write_pictures
from tests.experiments.commands import call, one_line, save_run, succeeded

# One worker runs them all: they share a run and what they compile.
pytestmark = pytest.mark.xdist_group("commands")


@pytest.fixture(scope="module")
def workdir(trained):
    return trained.workdir


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 5, broken=[2])
    return folder


def test_a_folder_becomes_a_file(workdir, flat, tmp_path):
    out = tmp_path / "flat.npz"
    said = succeeded(
        call(
            embed.main,
            *(f"--workdir={workdir}", f"--source=folder:{flat}", f"--out={out}"),
            "--features=embedding",
        )
    )
    assert said == (
        f"{out}: 4 images of folder:{flat}, 4 numbers each (embedding)\n"
        f"1 cannot be read, listed in {out}.bad_images.txt\n"
    )
    with np.load(out) as arrays:
        assert arrays["features"].shape == (4, 4)
        assert arrays["names"].tolist() == [
            str(flat / f"{i}.jpg") for i in (0, 1, 3, 4)
        ]
    flags = [f"--workdir={workdir}", f"--source=folder:{flat}", f"--out={out}"]
    assert one_line(call(embed.main, *flags)) == (
        f"--out: expected a new file, got {out}, which exists; name another file, or "
        "--force to replace it"
    )
    status, said, told = call(embed.main, *flags, "--force", "--json")
    assert status == 0 and "8 numbers" in told
    assert json.loads(said) == {
        "file": str(out),
        "source": f"folder:{flat}",
        "images": 4,
        "features": 8,
        "kind": "backbone",
        "bad_images": 1,
    }


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.csv", "--out: expected a name that ends in .npz or .parquet, got "),
        ("there.npz", "--out: expected a file, got the directory "),
        ("file/a.npz", "--out: cannot write "),
        ("gs://bucket/a.npz", "argument --out: expected a path of this machine, got "),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(workdir, tmp_path, out, message):
    (tmp_path / "there.npz").mkdir()
    (tmp_path / "file").write_text("")
    path = out if "://" in out else tmp_path / out
    assert one_line(
        call(embed.main, f"--workdir={workdir}", f"--out={path}")
    ).startswith(message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--source=folder:/nowhere"],
            "config.data.source: expected a directory of image",
        ),
        (["--source=nothing"], "config.data.source: expected one of "),
        (
            ["--workdir=/nowhere"],
            "--workdir: expected the directory of a run, got /nowhere",
        ),
        (["--features=x"], "argument --features: invalid choice: 'x'"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(workdir, tmp_path, flags, message):
    out = tmp_path / "a.npz"
    told = one_line(call(embed.main, f"--workdir={workdir}", f"--out={out}", *flags))
    assert told.startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("main", [embed.main, knn.main], ids=["embed", "knn"])
def test_other_images_do_not_need_the_runs_own(tmp_path, main):
    """A run is often moved to where its photographs are not."""
    workdir = save_run(
        tmp_path / "run",
        *("data.source=fake:8x8x3x48", "data.views=moco_v2", "data.view_size=8"),
    )
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["source"] = f"folder:{tmp_path / 'gone'}"
    (workdir / "config.json").write_text(json.dumps(config))
    for name in ("cats", "dogs"):
        write_pictures(tmp_path / "new" / name, 4)
    flags = [f"--workdir={workdir}", f"--source=folder:{tmp_path / 'new'}"]
    more = [f"--out={tmp_path / 'a.npz'}"] if main is embed.main else ["--k=1"]
    status, _, err = call(main, *flags, *more)
    assert status == 0, err
    assert "the run's own images are missing: config.data.source: expected a dir" in err
    more = [f"--out={tmp_path / 'b.npz'}"] if main is embed.main else []
    told = one_line(call(main, f"--workdir={workdir}", *more))
    assert "gone: there is no such directory" in told
