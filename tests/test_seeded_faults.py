"""The table of faults is of the library and the suite as they are."""

import pathlib

import pytest

from tests.faults import FAULTS, Fault
from tests.seeded_faults import Run, record, seeded, table, with_fault

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "caco_jax"
FAULT = Fault("a sum is a product", "sums.py", "a + b", "a * b", ("test_sums.py",))


def test_the_text_of_every_fault_is_there_once():
    for fault in FAULTS:
        sound = (PACKAGE / fault.file).read_text()
        assert with_fault(sound, fault) != sound


def test_the_tests_of_every_fault_are_there():
    for fault in FAULTS:
        for test in fault.tests:
            file, _, name = test.partition("::")
            text = (ROOT / "tests" / file).read_text()
            assert not name or f"\ndef {name}(" in text, f"{fault.name}: no {test}"


def test_every_room_has_faults_with_names_of_their_own():
    rooms = {folder.parent.name for folder in PACKAGE.glob("*/__init__.py")}
    assert rooms <= {fault.room for fault in FAULTS}
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 28


@pytest.mark.parametrize("text, count", [("a - b", 0), ("a + b + a + b", 2)])
def test_a_text_that_is_not_there_once_is_refused(text, count):
    message = rf"a sum is a product: .* caco_jax/sums.py, found it {count} times; "
    with pytest.raises(ValueError, match=message):
        with_fault(text, FAULT)


def test_a_fault_is_there_for_a_block(tmp_path):
    file = tmp_path / "caco_jax" / "sums.py"
    file.parent.mkdir()
    file.write_text("a + b\n")
    with seeded(tmp_path, FAULT):
        assert file.read_text() == "a * b\n"
    assert file.read_text() == "a + b\n"


def test_a_fault_that_slipped_is_shown():
    caught = Run(passed=False, failed="tests/a.py::b", seconds=1.26, output="")
    slipped = caught._replace(passed=True, failed="")
    *_, first, second = table([FAULT, FAULT], [caught, slipped]).splitlines()
    assert first == "| a sum is a product | `caco_jax/sums.py` | `tests/a.py::b` | 1 |"
    assert second == "| a sum is a product | `caco_jax/sums.py` | **slipped** | 1 |"
    found = record([FAULT], [caught])["faults"]
    assert found == [
        {
            "fault": "a sum is a product",
            "room": "sums",
            "file": "caco_jax/sums.py",
            "caught_by": "tests/a.py::b",
            "seconds": 1.3,
        }
    ]
