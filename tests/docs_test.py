"""What the documents name exists: files, commands, flags, keys, functions."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import pathlib
import re
import shlex
import sys
import tomllib

import pytest
from absl import flags

import nvae_tf
from nvae_tf._moved import explain
from nvae_tf.commands.main import COMMANDS
from nvae_tf.config import Config, presets

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "export/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
)
PRESETS = sorted(path.relative_to(ROOT) for path in ROOT.glob("configs/*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_MODULES = {c.words: c.module for group in COMMANDS.values() for c in group}

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=str)


def _read(document: pathlib.Path) -> str:
    return (ROOT / document).read_text("utf-8")


def _spans(text: str) -> list[str]:
    """What stands in backticks, outside of blocks."""
    return [" ".join(s.split()) for s in _SPAN.findall(_FENCE.sub("", text))]


def _anchors(path: pathlib.Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@each_document
def test_links_lead_to_files_and_headings(document):
    text = _FENCE.sub("", _read(document))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), link
        assert not anchor or anchor in _anchors(path), link


@each_document
def test_files_of_the_project_are_where_documents_say(document):
    named = re.compile(r"[a-z_0-9]+(/[a-z_0-9.-]+)*/([a-z_0-9]+\.(py|npz))?")
    places = (ROOT, ROOT / "nvae_tf")
    for span in _spans(_read(document)):
        top = span.partition("/")[0]
        if top == "runs" and not span.endswith(".py"):
            continue  # What programs write, in a folder of a package's name.
        known = any((place / top).is_dir() for place in places)
        if known and named.fullmatch(span):
            assert any((place / span).exists() for place in places), span


@functools.cache
def _flags_of(words: str) -> frozenset[str]:
    """The flags that a command defines."""
    own = vars(flags.FLAGS)["__flags"]
    before = set(own)
    name = f"nvae_tf.commands.{_MODULES[words]}"
    sys.modules.pop(name, None)
    importlib.import_module(name)
    defined = set(own) - before
    for flag in defined:
        delattr(flags.FLAGS, flag)
    sys.modules.pop(name, None)
    return frozenset(defined)


def _commands(document: pathlib.Path) -> list[list[str]]:
    """Every `nvae ...` of a document, in words."""
    text = _read(document)
    if document.suffix == ".py":
        lines = (ast.get_docstring(ast.parse(text)) or "").replace("\\\n", " ")
        lines = lines.splitlines()
    else:
        blocks = [block for _, block in _FENCE.findall(text)]
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        lines += _spans(text)
    found = (re.search(r"(?:^|\s|/)nvae (.+)", line) for line in lines)
    return [shlex.split(match[1], comments=True) for match in found if match]


def _has_key(path: list[str]) -> bool:
    values = dataclasses.asdict(Config())
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


@pytest.mark.parametrize("document", [*DOCUMENTS, *PRESETS], ids=str)
def test_commands_exist_and_have_the_flags_shown(document):
    for tokens in _commands(document):
        words = [t for t in tokens[:2] if re.fullmatch("[a-z]+", t)]
        if not words:
            continue  # nvae COMMAND --help
        command = next(
            (w for w in (" ".join(words), words[0]) if w in _MODULES), None
        )
        if command is None:
            group = f"{words[0]} "
            assert len(words) == 1, tokens
            assert any(known.startswith(group) for known in _MODULES), tokens
        for token in tokens:
            name, _, value = token.removeprefix("--").partition("=")
            if not token.startswith("--") or name == "help":
                continue
            if name.startswith("config."):
                assert _has_key(name.split(".")[1:]), tokens
                continue
            assert {name, name.removeprefix("no")} & _flags_of(command), tokens
            placeholder = re.search("[A-Z]|path/|^workdir:", value)
            if name == "config" and not placeholder:
                presets.read(value)


@each_document
def test_flags_in_sentences_are_of_some_command(document):
    known = frozenset({"help"}).union(*map(_flags_of, _MODULES))
    for span in _spans(_read(document)):
        if span.startswith("--"):
            for flag in re.findall(r"--([a-z_]+)(?=[ =]|$)", span):
                assert {flag, flag.removeprefix("no")} & known, span


@each_document
def test_python_in_documents_names_what_the_package_has(document):
    for language, block in _FENCE.findall(_read(document)):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module == "nvae_tf":
                names = [alias.name for alias in node.names]
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "nvae_tf"
            ):
                names = [node.attr]
            for name in names:
                assert getattr(nvae_tf, name) is not None


def test_names_of_before_say_what_replaced_them(capsys):
    text = _read(pathlib.Path("CHANGELOG.md"))
    names = re.findall(r"python -m (nvae_tf\.[a-z_]+)", text)
    assert names
    for name in names:
        with pytest.raises(SystemExit):
            explain(["python", "-m", name])
        words = re.search(r" is nvae ([a-z ]+) now", capsys.readouterr().err)
        assert words[1] in _MODULES


def test_every_public_name_is_on_the_page_of_the_api():
    text = _read(pathlib.Path("docs/api/index.md"))
    assert set(nvae_tf.__all__) <= set(re.findall(r"\w+", text))


@each_document
def test_targets_of_make_and_extras_exist(document):
    text = _read(document)
    makefile = _read(pathlib.Path("Makefile"))
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    blocks = "\n".join(block for _, block in _FENCE.findall(text))
    shown = re.findall(r"^make ([a-z-]+)", blocks, re.MULTILINE)
    shown += [s.split()[1] for s in _spans(text) if s.startswith("make ")]
    assert set(shown) <= targets
    extras = PROJECT["project"]["optional-dependencies"]
    for names in re.findall(r"(?:\"\.|\.whl|nvae_tf)\[([a-z,]+)\]", text):
        assert set(names.split(",")) <= set(extras)


@pytest.mark.parametrize("document", ["architecture.md", "packages.svg"])
def test_architecture_shows_every_package(document):
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layers = " ".join(contracts[0]["layers"])
    text = _read(pathlib.Path("docs") / document)
    for package in re.findall(r"\w+", layers):
        assert re.search(rf"\b{package}\b", text), package


def test_every_page_is_in_the_navigation():
    text = _read(pathlib.Path("mkdocs.yml"))
    pages = {
        path.relative_to("docs") for path in DOCUMENTS if "docs" in path.parts
    }
    for page in pages:
        assert f" {page.as_posix()}\n" in text, page
