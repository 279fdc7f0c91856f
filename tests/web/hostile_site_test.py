"""An exported page from a stranger is no way to other files."""

import contextlib
import hashlib
import json
import os
import urllib.error
import urllib.request

import pytest

from nvae_tf.core.errors import ExportError
from nvae_tf.web import manifest
from nvae_tf.web.server import PageServer
from tests.support.running import running

_INDEX = b"<!doctype html>"


def _entry(content):
    digest = hashlib.sha256(content).hexdigest()
    return {"bytes": len(content), "sha256": digest}


@pytest.fixture
def page(tmp_path):
    """A folder that passes for a page, beside a file that is none of its."""
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "page"
    (folder / "model").mkdir(parents=True)
    (folder / "index.html").write_bytes(_INDEX)
    (folder / "model" / "nvae.onnx").write_bytes(b"model")
    _write(folder)
    return folder


def _write(folder, **changes):
    content = {
        "kind": "nvae_tf web export",
        "format": 1,
        "origin": {},
        "runtime": {"version": "1"},
        "graphs": {"sample": {"path": "model/nvae.onnx"}},
        "files": {
            "index.html": _entry(_INDEX),
            "model/nvae.onnx": _entry(b"model"),
        },
    }
    text = json.dumps({**content, **changes})
    (folder / manifest.FILE_NAME).write_text(text)


@contextlib.contextmanager
def _served(folder):
    with running(PageServer(folder)) as server:
        yield lambda name: _get(server.url + name)


def _get(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""


def test_page_is_served_and_whole(page):
    assert manifest.problems(page, manifest.read(page)) == []
    with _served(page) as get:
        assert get("") == (200, _INDEX)
        assert get("model/nvae.onnx") == (200, b"model")


@pytest.mark.parametrize(
    "name",
    ["../secret", "model/../../secret", "/etc/passwd", "a//b", "..", ".", ""]
    + ["a\\..\\b", "index.html\0"],
)
def test_names_that_lead_elsewhere_are_refused(page, name):
    _write(page, files={name: _entry(b"secret")})
    with pytest.raises(ExportError, match="has no 'files'"):
        manifest.read(page)
    with pytest.raises(ExportError):
        PageServer(page)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": 7},
        {"files": {"index.html": 7}},
        {"files": {"index.html": {"bytes": "7", "sha256": "0" * 64}}},
        {"files": {"index.html": {"bytes": 7, "sha256": "x"}}},
        {"graphs": {"sample": {"path": "../secret"}}},
        {"graphs": {"sample": {"path": 7}}},
        {"graphs": []},
        {"runtime": "1"},
        {"runtime": {"version": 1}},
        {"origin": None},
    ],
)
def test_manifest_of_other_kinds_is_refused(page, changes):
    _write(page, **changes)
    with pytest.raises(ExportError, match=r"manifest\.json has no"):
        manifest.read(page)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff", b"[1]"])
def test_what_is_no_json_is_no_page(page, content):
    (page / manifest.FILE_NAME).write_bytes(content)
    assert not manifest.is_site(page)


def _link(page):
    (page / "index.html").symlink_to("../secret")


def _pipe(page):
    os.mkfifo(page / "index.html")


@pytest.mark.parametrize("make", [_link, _pipe])
def test_links_and_pipes_are_not_served(page, make):
    (page / "index.html").unlink()
    make(page)
    (problem,) = manifest.problems(page, manifest.read(page))
    assert problem.startswith("index.html is missing")
    with _served(page) as get:
        assert get("index.html") == (404, b"")


def test_folder_that_is_a_link_is_not_followed(page):
    (page / "model" / "nvae.onnx").unlink()
    (page / "model").rmdir()
    (page.parent / "model").mkdir()
    (page.parent / "model" / "nvae.onnx").write_bytes(b"model")
    (page / "model").symlink_to("../model")
    with _served(page) as get:
        assert get("model/nvae.onnx") == (404, b"")


def test_page_behind_a_link_is_served(page):
    (page.parent / "link").symlink_to("page")
    with _served(page.parent / "link") as get:
        assert get("index.html") == (200, _INDEX)


def test_length_is_that_of_the_file(page):
    """Else what follows an answer on its connection would be misread."""
    entry = {**_entry(_INDEX), "bytes": 10**12}
    _write(
        page,
        files={"index.html": entry, "model/nvae.onnx": _entry(b"model")},
    )
    with _served(page) as get:
        assert get("index.html") == (200, _INDEX)
