"""A report of a run that was built in Python, on signals: there are no pictures."""

import json
import re

import pytest

from caco_jax.report import write_report
from caco_jax.report.collect import collect
from caco_jax.report.settings import setting_rows
from caco_jax.schema import UserError

pytestmark = pytest.mark.xdist_group("report")


@pytest.fixture(scope="module")
def found(signals):
    return collect(signals)


def test_all_but_the_pictures_is_there(found):
    assert not found["pictures"]
    assert found["classes"] == ["calm", "odd", "wild"]
    assert len(found["map"]["points"]) == len(found["map"]["labels"]) == 12
    assert found["map"]["sheet"] is found["train"]["sheet"] is found["views"] is None
    assert len(found["train"]["labels"]) == len(found["pairs"]["images"]) == 108
    assert sum(entry["uses"] for entry in found["bank"]["entries"]) == 108
    assert found["run"]["images"] == "arrays"
    assert found["verdicts"][0]["value"] == "4 of 6"
    assert {curve["name"] for curve in found["curves"]} >= {"loss", "knn"}
    assert found["missing"] == []  # no command can evaluate it


def test_the_page_is_written_beside_the_run_or_elsewhere(signals, found, tmp_path):
    path = write_report(signals)
    assert path == signals.files.path / "report.html"
    page = path.read_text()
    (data,) = re.findall(r'id="data">(.*?)</script>', page)
    assert json.loads(data) == found
    assert "data:image/webp" not in page
    elsewhere = write_report(signals, tmp_path / "b.html", compare=[signals.files.path])
    assert elsewhere == tmp_path / "b.html"
    assert elsewhere.read_text() == page  # a run beside itself is one run
    with pytest.raises(
        UserError, match=r"^--out: expected a file in a directory that ex"
    ):
        write_report(signals, tmp_path / "no" / "page.html")
    with pytest.raises(UserError, match="which was built in Python"):
        write_report(signals.files.path)


def test_settings_that_are_known_have_their_default_and_meaning(signals, found):
    rows = {row["key"]: row for row in found["settings"]}
    assert rows["training.epochs"]["values"] == ["6"]
    assert rows["training.epochs"]["default"] == "100"
    assert rows["method.bank_size"]["default"] == "65536"
    assert rows["encoder.name"]["default"] is None
    for key in ("training.epochs", "method.bank_size", "optimizers.bank.learning_rate"):
        assert rows[key]["doc"], key
    changed = {key for key, row in rows.items() if row["changed"] == [True]}
    assert changed == {
        *("training.batch_size", "training.epochs"),
        *(
            f"method.{name}"
            for name in ("bank_size", "temperature", "bank_temperature")
        ),
    }
    values = json.loads(json.dumps(signals.pretraining.description.values))
    values["method"] = {"name": "caco", "class": "SomebodyElses", "temperature": 3.0}
    rows = {row["key"]: row for row in setting_rows({"own": values})}
    assert rows["method.temperature"]["default"] is None
    assert rows["optimizers.bank.learning_rate"]["default"] is None
    assert rows["training.epochs"]["default"] == "100"


def test_a_method_without_settings_shows_what_needs_no_temperature(signals):
    own = signals.pretraining.method._replace(settings=None)
    parts = signals.pretraining.replace(method=own)
    found = collect(signals._replace(pretraining=parts))
    assert found["pairs"] is None
    assert {tuple(entry["repels"]) for entry in found["bank"]["entries"]} == {()}
    assert sum(entry["uses"] for entry in found["bank"]["entries"]) == 108
