"""What README and docs say: commands parse, snippets run, links lead somewhere."""

import dataclasses
import functools
import importlib.util
import inspect
import itertools
import math
import pathlib
import pkgutil
import re
import shlex

import pytest

import caco_jax
from caco_jax.config.encoders import ViTOptions
from caco_jax.config.recipe import recipes
from caco_jax.config.sections import default_config
from caco_jax.data.view_kinds import DigitView, PhotoView
from caco_jax.data.views import VIEWS
from caco_jax.methods.registry import METHODS
from caco_jax.programs import cli, pretrain
from caco_jax.programs.command import read_config
from caco_jax.programs.flags import parser_of
from caco_jax.programs.parser import parse
from caco_jax.runs.alarms import find_alarms
from caco_jax.schema import flatten
from examples import sensors
from tests.experiments.commands import CONFIG, TINY, call, succeeded

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(
    r'^```(\w*)(?: title="([^"\n]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE
)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
REFERENCE = re.compile(r"\]\[(caco_jax[\w.]*)\]")
COMMAND = re.compile(r"(\w+=\S+ )*(\S*python|make|\S*caco|srun|gcloud|pip) ")
OTHERS = {
    "pip",
    "#SBATCH",
    "bash",
    "if",
    ".",
    "cd",
}  # that a page may show beside our own programs
FACES = {file.stem for file in (ROOT / "experiments").glob("[!_]*.py")}
pages = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)


@functools.cache
def hooks():
    """The script that makes the generated parts of the pages."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def prose(page):
    """A page without its blocks of code."""
    return BLOCK.sub("", page.read_text())


@functools.cache
def known_keys():
    """Every dotted key that some method's configuration has, and its default."""
    keys = {"data.view": {}, "encoder.options": {}}  # open: empty by default
    for name in METHODS:
        keys |= flatten(default_config(name).to_dict())
    return keys


# Commands.


def command_lines(page):
    """What a page shows to be typed, a command a line."""
    for language, _, body in BLOCK.findall(page.read_text()):
        for line in body.replace("\\\n", " ").splitlines():
            # A block that is no shell's may show a command among what it prints.
            if language == "sh" or (not language and COMMAND.match(line)):
                yield line
    for code in INLINE.findall(prose(page)):
        if COMMAND.match(code) and "experiments.NAME" not in code:
            yield code


def program_of(words):
    """The program that ``caco`` leads these words to, and the rest of them."""
    found, rest = cli.PROGRAMS, list(words)
    while isinstance(found, dict):
        found = found[rest.pop(0)]
    return found, rest


def check_command(line, written):
    """Fails unless every word of a command is understood.

    Args:
        line: the command.
        written: files that the page itself tells the reader to write.
    """
    words = [word for word in shlex.split(line) if word != "&"]
    while re.match(r"[A-Z_]+=", words[0]):
        del words[0]
    if words[0] == "srun":
        words = list(itertools.dropwhile(lambda word: word[0] == "-", words[1:]))
    if words[0] == "gcloud":
        (inner,) = [word for word in words if word.startswith("--command=")]
        for part in inner.partition("=")[2].split("&&"):
            check_command(part, written)
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[1:] in (["--help"], ["--version"]) and words[0] == "caco":
        pass
    elif pathlib.PurePath(words[0]).name == "caco":
        check_program(*program_of(words[1:]), written)
    elif "-m" in words:
        check_module(words[words.index("-m") + 1])
    else:
        assert words[0].rpartition("/")[2] in OTHERS, line


def check_module(module):
    assert module == "venv" or module.startswith("experiments.")
    assert importlib.util.find_spec(module), module
    # An installed wheel has no experiments: what caco offers is shown as caco.
    assert module.removeprefix("experiments.") not in FACES, "say caco"


def check_program(program, words, written):
    if words in ([], ["--help"]):
        return  # the program is there
    flags, changes = parse(parser_of(program), words)
    recipe = getattr(flags, "config", None)
    if recipe is None:
        assert not changes
    elif recipe.partition(":")[0] not in written:
        read_config(recipe, changes)


@pages
def test_every_command_is_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    written = {title for _, title, _ in BLOCK.findall(page.read_text()) if title}
    for line in command_lines(page):
        check_command(line, written)


def test_every_recipes_command_is_understood():
    for file in recipes().values():
        (said,) = re.findall(r"^Command: +((?:.*\\\n)*.*)", file.read_text(), re.M)
        check_command(said.replace("\\\n", " "), set())


@pytest.mark.parametrize(
    "line, error",
    [
        ("caco knn --workdir=a --neighbours 3", SystemExit),
        ("caco knn --k 20", SystemExit),
        ("python -m experiments.nothing --workdir=a", AssertionError),
        ("python -m experiments.pretrain --config=caco_digits", AssertionError),
        ("caco pretrain --config=caco --workdir=a", ValueError),
        (
            "caco pretrain --config=caco_digits --workdir=a --config.training.epoch=3",
            ValueError,
        ),
        ("make nothing", AssertionError),
        ("caco nothing", KeyError),
        ("rm -r runs", AssertionError),
    ],
)
def test_a_wrong_command_is_found(line, error):
    with pytest.raises(error):
        check_command(line, set())


def test_commands_are_found_where_they_are():
    found = {page: len(list(command_lines(page))) for page in PAGES}
    assert found[ROOT / "README.md"] > 10
    assert found[DOCS / "how-to" / "evaluate.md"] > 7
    assert found[DOCS / "how-to" / "pod.md"] >= 7


# Names in running text.


@pages
def test_every_key_is_one_of_the_configuration(page):
    sections = {key.partition(".")[0] for key in known_keys() if "." in key}
    for code in INLINE.findall(prose(page)):
        key = re.match(r"(?:--config\.)?([a-z_]+\.[a-z_]+)(=.*)?$", code)
        if key and key[1].partition(".")[0] in sections:
            assert key[1] in known_keys(), code


@pages
def test_every_file_is_there(page):
    written = {title for _, title, _ in BLOCK.findall(page.read_text()) if title}
    roots = "caco_jax|configs|docs|experiments|tests"
    for code in INLINE.findall(prose(page)):
        if re.match(rf"({roots})/[\w./-]*$", code) and code not in written:
            assert (ROOT / code).exists(), code


@pages
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        if anchor:
            built = hooks().on_page_markdown(target.read_text())
            assert anchor in anchors(built), link
    for name in REFERENCE.findall(prose(page)):
        pkgutil.resolve_name(name)


def anchors(text):
    """The anchors of a page: its headings', and those that it states."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.M)
    slugs = {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
        for title in titles
    }
    return slugs | set(re.findall(r'id="([^"]+)"', text))


def test_every_page_has_its_place_in_the_site():
    site = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r": (\S+\.md)$", site, re.M)
    assert sorted(listed) == sorted(
        str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")
    )


# Python.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A directory in which the pages' runs are one."""
    folder = tmp_path_factory.mktemp("docs")
    flags = [CONFIG, f"--workdir={folder / 'runs' / 'mine'}", *TINY]
    succeeded(call(pretrain.main, *flags))
    (folder / "runs" / "tutorial").symlink_to("mine")
    return folder


def snippets(text):
    """The Python blocks of a page that are no files: those have tests of their own."""
    return [
        body
        for language, title, body in BLOCK.findall(text)
        if language == "python" and not title
    ]


def test_a_snippet_beside_a_file_is_found():
    file = '```python title="a.py"\nfile\n```\n'
    page = f"{file}\n```python\nsnippet\n```\n\n{file}"
    assert snippets(page) == ["snippet\n"]
    assert snippets((DOCS / "how-to" / "own-parts.md").read_text())


@pages
def test_every_snippet_runs(page, request, monkeypatch):
    code = snippets(page.read_text())
    if any("runs/" in body for body in code):
        monkeypatch.chdir(request.getfixturevalue("run"))
    if any('"runs/sensors"' in body for body in code):
        sensors.main(smoke=True)
    names = {}  # a page says all that it needs
    for body in code:
        exec(body, names)


# What is generated.


def test_the_reference_has_every_field_of_every_configuration():
    reference = hooks().generated("configuration")
    rows = [line.split(" | ") for line in reference.splitlines() if "| <span" in line]
    found = {re.search(r"`(.+)`", row[0])[1]: row for row in rows}
    of_views = {
        f"data.view.{field.name}"
        for kind in (DigitView, PhotoView)
        for field in dataclasses.fields(kind)
    }
    of_vits = {f"encoder.options.{f.name}" for f in dataclasses.fields(ViTOptions)}
    known = known_keys().keys() | of_views | of_vits
    assert found.keys() == known - {"method.name"}
    arguments = {
        argument.name
        for make in VIEWS.values()
        for argument in inspect.signature(make).parameters.values()
        if argument.kind is argument.KEYWORD_ONLY
    }
    for name in {*VIEWS, *arguments} - {"size_pixels"}:
        assert f"`{name}`" in reference
    for name in METHODS:
        _, _, table = reference.partition(f"## method: {name}\n")
        table, _, _ = table.partition("\n## ")
        for key in default_config(name).method:
            assert key == "name" or f"`method.{key}`" in table


@pytest.mark.parametrize(
    "key, kind, allowed, default, meaning",
    [
        (
            "training.batch_size",
            "int",
            "`[2, inf)`",
            "`256`",
            "Images in one training step",
        ),
        (
            "optimizer.momentum",
            "float",
            "`[0, 1)`",
            "`0.9`",
            "Momentum of sgd and lars",
        ),
        ("bank_optimizer.learning_rate", "float", "`[0, inf)`", "`3.0`", "warm-up"),
        (
            *("method.bank_roles", "str", "`both`, `positives`, `negatives`"),
            *("`'both'`", "move an entry of the bank"),
        ),
        ("method.constant_weights", "bool", "", "`True`", "constants in the gradient"),
        (
            *("bank_optimizer.weight_decay", "float", "`[0, inf)`"),
            *("caco: `0.0`, adco: `0.0001`", "added to the gradient"),
        ),
        ("target.schedule", "str", "`cosine`, `constant`", "`'cosine'`", "grows to 1"),
        ("data.workers", "int or None", "`[0, inf)`", "`None`", "processes"),
        ("data.view.hue_turns", "float", "`[0, 0.5]`", "`0.1`", "colour circle"),
        ("encoder.options", "a section", "", "`{}`", "import path"),
        ("seed", "int", "`[0, 4294967295]`", "`0`", "Seed of all random numbers"),
    ],
)
def test_a_field_has_its_type_range_default_and_meaning(
    key, kind, allowed, default, meaning
):
    reference = hooks().generated("configuration")
    (row,) = [line for line in reference.splitlines() if f"`{key}`" in line]
    assert f" | {kind} | {allowed} | {default} | " in row
    assert meaning in row.rpartition(default)[2]


def test_the_reference_has_every_program():
    reference = hooks().generated("commands")
    for words, _ in hooks().programs(cli.PROGRAMS):
        assert f"usage: caco {' '.join(words)} " in reference
    assert "usage: caco convert export " in reference


def test_the_table_of_alarms_says_what_the_log_says():
    table = hooks().generated("alarms")
    said = find_alarms(10, {"cross_entropy": math.log(8)}, candidates=8)["at_chance"]
    (row,) = [line for line in table.splitlines() if "| `at_chance` |" in line]
    assert row.endswith(f"| {said.rpartition('; ')[2]} |")
    assert "raise `target.momentum`" in table


def test_the_reference_has_every_recipe():
    reference = hooks().generated("recipes")
    for name in recipes():
        assert f"| `{name}` |" in reference
    assert "bank. arXiv:2203.14370 | linear 71.3 % (200 epochs" in reference


def test_every_public_module_has_a_page_and_a_line():
    listed = dict(hooks().module_pages())
    names = [re.search(r"^::: (\S+)$", text, re.M)[1] for text in listed.values()]
    package = ROOT / "caco_jax"
    there = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in package.rglob("[!_]*.py")
        if file.parent.name not in ("programs", "assets")
    }
    assert sorted(names) == sorted(there)
    table = hooks().generated("modules of caco_jax.losses")
    assert "| [`losses.bank`](losses.bank.md) | The bank games: " in table


def test_every_key_is_described_by_a_whole_sentence():
    for section in hooks().sections():
        for field in dataclasses.fields(section.fields):
            text = field.metadata.get("doc", "A.")
            assert re.fullmatch(r"[A-Z].*\.", text), (field.name, text)


# How we write: the rules of CONTRIBUTING.md that a search can find broken.

SLIPS = {
    r"(?i)\blikewise\b": "write the text again",
    r"(: |[\"'(])want\b": "key: expected ..., got ...; what to do",
    r"-m experiments\.(?!benchmarks\b|notebooks\b|NAME\b)": "caco COMMAND",
}


def slips(text):
    """The rules that a text breaks."""
    return [rule for pattern, rule in SLIPS.items() if re.search(pattern, text)]


@pytest.mark.parametrize(
    "text, rule",
    [
        ("contrast: Likewise.", "write the text again"),
        ('f"epochs: want int, got {x}"', "key: expected"),
        ('r"want at least 1"', "key: expected"),
        ("python -m experiments.knn --workdir=runs/mine", "caco"),
    ],
)
def test_a_slip_is_found(text, rule):
    (found,) = slips(text)
    assert found.startswith(rule)


def test_all_texts_keep_the_rules():
    folders = ("caco_jax", "configs", "experiments", "examples", "docs")
    files = [f for name in folders for f in (ROOT / name).rglob("*.[pm][yd]")]
    assert len(files) > 300
    found = {file: slips(file.read_text()) for file in [*files, *PAGES[:2]]}
    assert not {file: rules for file, rules in found.items() if rules}


def test_modules_of_experiments_are_named_in_two_places():
    shown = {page for page in PAGES if "-m experiments." in page.read_text()}
    reference = DOCS / "reference"
    assert {p for p in shown if reference not in p.parents} == {
        ROOT / "CONTRIBUTING.md"
    }


def test_an_unknown_part_is_refused():
    with pytest.raises(KeyError, match="nothing"):
        hooks().on_page_markdown("<!-- generated: nothing -->")


# Citing.


def test_the_citation_names_the_version_and_the_papers():
    text = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {caco_jax.__version__}\n" in text
    for number in ("2203.14370", "2011.08435", "2010.12050", "2201.12680"):
        assert text.count(f"arXiv:{number}") == 1
