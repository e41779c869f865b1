"""Digests of a checkpoint's files: whatever is changed in one is found."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_jax.runs.manifest import MANIFEST, find_damage, write_manifest

FILES = {"state/d/abc": b"\x00" * 40, "state/_METADATA": b"{}", "record/metadata": b""}
LATER = {"commit_success.txt": b"yes", "_CHECKPOINT_METADATA": b"{}"}


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, FILES)
    write_manifest(tmp_path)
    write(tmp_path, LATER)
    return tmp_path


def test_a_checkpoint_as_it_was_written_has_no_damage(folder):
    assert find_damage(folder) is None
    write(folder, {"_CHECKPOINT_METADATA": b"anything", "notes.txt": b"mine"})
    assert find_damage(folder) is None


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.data())
def test_a_changed_byte_is_found_wherever_it_is(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flipped")
    write(folder, FILES)
    write_manifest(folder)
    write(folder, LATER)
    name = data.draw(st.sampled_from(["state/d/abc", "state/_METADATA", MANIFEST]))
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(content)
    damage = find_damage(folder)
    assert damage is not None
    assert name in damage


@pytest.mark.parametrize("name", [*FILES, MANIFEST, "commit_success.txt"])
def test_a_missing_file_is_found(folder, name):
    (folder / name).unlink()
    assert find_damage(folder).startswith(f"{name} cannot be read")


def test_a_cut_file_is_found_with_its_size(folder):
    (folder / "state/d/abc").write_bytes(b"\x00" * 39)
    assert find_damage(folder) == "state/d/abc has 39 bytes of 40"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"\n\n"])
def test_a_manifest_of_anything_else_is_damage(folder, content):
    (folder / MANIFEST).write_bytes(content)
    assert MANIFEST in find_damage(folder)


def test_a_folder_in_the_place_of_a_file_is_damage(folder):
    (folder / "record/metadata").unlink()
    (folder / "record/metadata").mkdir()
    assert "record/metadata" in find_damage(folder)
