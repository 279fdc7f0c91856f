"""Pages as folders: what is written, verified, served and kept."""

import base64
import hashlib
import http.client
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request

import pytest

from nvae_tf.core.errors import ExportError, UserError
from nvae_tf.core.reading import sha256
from nvae_tf.export.onnx_runner import OnnxRunner
from nvae_tf.export.verify import verify
from nvae_tf.web import kept, manifest, runtime
from nvae_tf.web.export import export_web
from nvae_tf.web.server import HEADERS, PageServer
from nvae_tf.web.verify import open_site
from tests.support.export_cases import source, write_run
from tests.support.in_process import run as nvae
from tests.support.running import running
from tests.support.web_engine import write_stand_in

_URL = re.compile(r"""["'(](https?:)?//[^"')\s]+""")


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def engine(tmp_path_factory, module_patch):
    """A folder of files that stand in for the engine."""
    return write_stand_in(tmp_path_factory.mktemp("engine"), module_patch)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The workdir of a run of the plain VAE."""
    return write_run(tmp_path_factory.mktemp("run"), "plain_vae")


@pytest.fixture(scope="module")
def site(tmp_path_factory, engine, workdir):
    """An exported page."""
    path = tmp_path_factory.mktemp("page") / "site"
    nvae(
        "export web",
        f"--workdir={workdir}",
        f"--output={path}",
        f"--runtime={engine}",
        "--temperature=0.9",
    )
    return path


@pytest.fixture
def copy(site, tmp_path):
    """A page that a test may change."""
    return shutil.copytree(site, tmp_path / "copy")


@pytest.fixture
def server(site):
    """Serves the page."""
    with running(PageServer(site)) as server:
        yield server


def test_page_tells_what_it_consists_of(site):
    content = manifest.read(site)
    model = content["model"]
    assert model["temperature"] == 0.9
    expected = source("plain_vae").model.config
    assert model["image_shape"] == [
        expected.image_size,
        expected.image_size,
        expected.image_channels,
    ]
    assert model["name"] == "plain_vae"
    listed = set(content["files"])
    there = {
        path.relative_to(site).as_posix()
        for path in site.rglob("*")
        if path.is_file()
    }
    assert there - listed == {manifest.FILE_NAME}
    assert listed - there == set()
    assert {"index.html", "js/app.js", "model/nvae.onnx"} <= listed
    assert {"runtime/LICENSE.txt", "runtime/ThirdPartyNotices.txt"} <= listed
    assert {f"runtime/{name}" for name in runtime.SHA256} <= listed
    assert "package.json" not in listed
    licence = (site / "runtime" / "LICENSE.txt").read_text()
    assert "MIT License" in licence
    assert "Microsoft" in licence
    for graph in content["graphs"].values():
        assert (site / graph["path"]).is_file()


def test_page_refers_to_its_own_files_alone(site):
    for name in manifest.read(site)["files"]:
        path = site / name
        if path.suffix not in (".html", ".css", ".js", ".svg"):
            continue
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not _URL.search(text), name


def test_page_has_nothing_inline(site):
    text = (site / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
    assert "script-src 'self' 'wasm-unsafe-eval';" in text
    assert "connect-src 'self';" in text


def test_policy_of_the_page_is_that_of_the_server(site):
    (policy,) = re.findall(
        r'Content-Security-Policy"\s+content="([^"]+)"',
        (site / "index.html").read_text(),
    )
    # A page cannot say itself what may frame it.
    served = HEADERS["Content-Security-Policy"]
    assert served == f"{policy}; frame-ancestors 'none'"
    assert (
        f"  Content-Security-Policy: {served}\n"
        in (site / "_headers").read_text()
    )


def test_sound_page_is_verified(site, workdir, capsys):
    assert nvae("verify", str(site), f"--workdir={workdir}") == 0
    report = capsys.readouterr().out
    assert "web page of plain_vae, step 9" in report
    rows = report.splitlines()[4:]
    assert [row.split()[0] for row in rows] == ["infer", "sample"]
    assert all(row.endswith(" ok") for row in rows)


def test_changed_and_missing_files_are_noticed(copy):
    content = manifest.read(copy)
    assert manifest.problems(copy, content) == []
    for name, change in (
        ("js/noise.js", lambda path: path.write_text("changed")),
        ("model/nvae.onnx", lambda path: path.unlink()),
    ):
        saved = (copy / name).read_bytes()
        change(copy / name)
        (problem,) = manifest.problems(copy, content)
        assert problem.startswith(name)
        with pytest.raises(ExportError, match=re.escape(name)):
            open_site(copy)
        (copy / name).write_bytes(saved)
    # What a host needs may be beside it.
    (copy / "CNAME").write_text("example.org")
    assert verify(open_site(copy))


def test_engine_of_another_version_is_noticed(copy):
    path = copy / "runtime" / "ort.wasm.min.mjs"
    path.write_text("another")
    content = manifest.read(copy)
    listed = content["files"]["runtime/ort.wasm.min.mjs"]
    listed["sha256"] = sha256(path)
    (problem,) = manifest.problems(copy, content)
    assert "is not that of onnxruntime-web" in problem


def test_folder_without_a_page_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"has no manifest\.json"):
        manifest.read(tmp_path)
    (tmp_path / manifest.FILE_NAME).write_text('{"kind": "something else"}')
    with pytest.raises(UserError, match="of a web export"):
        PageServer(tmp_path)


def _export(output, engine, **changes):
    return export_web(
        source("plain_vae"), output, runtime_place=str(engine), **changes
    )


def test_only_pages_are_replaced(copy, engine, tmp_path):
    with pytest.raises(ExportError, match="exists already"):
        _export(copy, engine)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "precious.jpg").write_text("precious")
    with pytest.raises(ExportError, match="is not a web export"):
        _export(other, engine, overwrite=True)
    assert (other / "precious.jpg").read_text() == "precious"
    before = manifest.read(copy)["model"]["step"]
    _export(copy, engine, overwrite=True, webgpu=False)
    after = manifest.read(copy)
    assert (before, after["model"]["step"]) == (9, 7)
    assert list(after["runtime"]["engines"]) == ["wasm"]
    assert not [n for n in after["files"] if "asyncify" in n or "webgpu" in n]


def test_failed_export_leaves_nothing(engine, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ExportError("differs")

    monkeypatch.setattr("nvae_tf.web.export.export_onnx", fail)
    with pytest.raises(ExportError, match="differs"):
        _export(tmp_path / "site", engine)
    assert not list(tmp_path.iterdir())


def test_temperature_that_is_none_is_refused(engine, tmp_path):
    with pytest.raises(ExportError, match="finite and not negative"):
        _export(tmp_path / "site", engine, temperature=-1.0)
    assert not list(tmp_path.iterdir())


def _tarball(folder, path):
    with tarfile.open(path, "w:gz") as archive:
        for file in folder.iterdir():
            archive.add(file, f"package/dist/{file.name}")
    return path


def _integrity(path):
    digest = hashlib.sha512(path.read_bytes()).digest()
    return f"sha512-{base64.b64encode(digest).decode()}"


def test_engine_comes_from_folders_tarballs_and_addresses(
    engine, tmp_path, monkeypatch
):
    name = "ort.wasm.min.mjs"
    expected = {name: (engine / name).read_bytes()}
    package = tmp_path / "node_modules" / "onnxruntime-web"
    shutil.copytree(engine, package / "dist")
    tarball = _tarball(engine, tmp_path / "engine.tgz")
    monkeypatch.setattr(runtime, "INTEGRITY", _integrity(tarball))
    opened = []

    def urlopen(address, timeout):
        opened.append(address)
        assert timeout
        path = tarball if address.endswith(".tgz") else engine / name
        return io.BytesIO(path.read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    for place in (
        str(engine),
        str(package),
        str(tarball),
        "https://example.org/dist/",
        "https://example.org/engine.tgz",
    ):
        assert runtime.fetch(place, [name]) == expected, place
    assert opened == [
        f"https://example.org/dist/{name}",
        "https://example.org/engine.tgz",
    ]


def test_engine_comes_from_npm(engine, tmp_path, monkeypatch):
    tarball = _tarball(engine, tmp_path / "engine.tgz")
    monkeypatch.setattr(runtime, "INTEGRITY", _integrity(tarball))
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1" = pack ] && cp {tarball} engine.tgz\n'
        f'echo "$@" > {tmp_path}/arguments\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    name = "ort-wasm-simd-threaded.wasm"
    assert runtime.fetch("", [name]) == {name: (engine / name).read_bytes()}
    arguments = (tmp_path / "arguments").read_text()
    assert f"onnxruntime-web@{runtime.VERSION}" in arguments


def _fake_npm(tmp_path, monkeypatch, script):
    program = tmp_path / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_failing_npm_is_explained(tmp_path, monkeypatch):
    _fake_npm(
        tmp_path,
        monkeypatch,
        "echo 'npm error code ENOTFOUND' >&2\n"
        "echo 'npm error network request to a registry failed.' >&2\n"
        "echo 'npm error A complete log of this run can be found in: x' >&2\n"
        "exit 1",
    )
    with pytest.raises(ExportError) as caught:
        runtime.fetch("", ["ort.wasm.min.mjs"])
    message = str(caught.value)
    assert "network request to a registry failed. --runtime=PLACE" in message
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ExportError, match=r"install Node\.js"):
        runtime.fetch("", ["ort.wasm.min.mjs"])


def test_another_engine_is_refused(engine, tmp_path, monkeypatch):
    name = "ort.wasm.min.mjs"
    changed = shutil.copytree(engine, tmp_path / "engine")
    (changed / name).write_text("another")
    with pytest.raises(ExportError, match="its SHA-256 differs"):
        runtime.fetch(str(changed), [name])
    with pytest.raises(ExportError, match="its SHA-512 differs"):
        runtime.fetch(str(_tarball(changed, tmp_path / "e.tgz")), [name])
    (changed / name).unlink()
    with pytest.raises(ExportError, match=f"has no {re.escape(name)}"):
        runtime.fetch(str(changed), [name])
    with pytest.raises(ExportError, match="neither a folder nor a tarball"):
        runtime.fetch(str(tmp_path / "absent"), [name])

    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(ExportError, match="cannot be had: no route"):
        runtime.fetch("https://example.org/", [name])


def _get(server, path, **headers):
    connection = http.client.HTTPConnection(
        "127.0.0.1", server.server_address[1], timeout=30
    )
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_server_sends_files_with_types_and_isolation(server, site):
    for path, name, kind in (
        ("/", "index.html", "text/html"),
        ("/js/app.js", "js/app.js", "text/javascript"),
        (
            "/runtime/ort.wasm.min.mjs?x=1",
            "runtime/ort.wasm.min.mjs",
            "text/javascript",
        ),
        (
            "/runtime/ort-wasm-simd-threaded.wasm",
            "runtime/ort-wasm-simd-threaded.wasm",
            "application/wasm",
        ),
        ("/manifest.json", "manifest.json", "application/json"),
    ):
        answer, body = _get(server, path)
        assert answer.status == 200, path
        assert body == (site / name).read_bytes()
        assert answer.headers["Content-Type"].startswith(kind)
        for header, value in HEADERS.items():
            assert answer.headers[header] == value
    answer, _ = _get(server, "/js/app.js")
    tag = answer.headers["ETag"]
    again, body = _get(server, "/js/app.js", **{"If-None-Match": tag})
    assert (again.status, body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/absent",
        "/js/",
        "/../secret",
        "/%2e%2e/secret",
        "//etc/passwd",
        "/js/../../secret",
        "/unlisted.txt",
        "/%00",
    ],
)
def test_server_sends_nothing_that_is_not_listed(server, site, path):
    (site.parent / "secret").write_text("secret")
    (site / "unlisted.txt").write_text("secret")
    try:
        answer, body = _get(server, path)
    finally:
        (site / "unlisted.txt").unlink()
    assert answer.status == 404
    assert b"secret" not in body


def test_taken_port_is_told(server, site):
    port = server.server_address[1]
    with pytest.raises(UserError, match=f"Cannot listen on port {port}"):
        PageServer(site, port)


def test_page_is_kept_while_nothing_changes(
    site, tmp_path, engine, monkeypatch
):
    def write_model(source, path, temperature):
        # Where the model's graphs come from is not the question.
        shutil.copytree(site / "model", path.parent)
        return OnnxRunner(path)

    monkeypatch.setattr("nvae_tf.web.export._write_model", write_model)
    workdir = write_run(tmp_path / "run", "plain_vae")
    made = []

    def make(folder, origin):
        made.append(folder)
        _export(folder, engine, overwrite=True, origin=origin)

    chosen = {"checkpoint": "latest", "temperature": 0.7}

    def keep():
        weights = kept.saved_state(workdir, "latest")
        return kept.kept_page(workdir / "web", weights, chosen, make)

    folder, was_there = keep()
    assert not was_there
    assert keep() == (folder, True)
    # Another temperature, a damaged file, a run that went on, another program.
    chosen = {**chosen, "temperature": 0.5}
    assert not keep()[1]
    (folder / "js" / "app.js").unlink()
    assert not keep()[1]
    assert (folder / "js" / "app.js").exists()
    time.sleep(0.01)
    write_run(workdir, "plain_vae")
    assert not keep()[1]
    assert keep()[1]
    monkeypatch.setattr(kept, "_program", lambda: "another")
    assert not keep()[1]
    assert made == [folder] * 5


def test_page_names_its_data_as_the_card_does(site):
    model = manifest.read(site)["model"]
    assert model["data"] == "mnist_5k, binarised"
    assert model["data"] in (site / "model" / "README.md").read_text()


def test_every_package_that_a_page_comes_from_counts():
    packages = pathlib.Path(kept.__file__).parents[1]
    pending, found = ["web"], set()
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        for path in (packages / name).rglob("*.py"):
            pending += re.findall(
                r"^\s*from nvae_tf\.(\w+)", path.read_text(), re.MULTILINE
            )
    assert "distributions" in found
    assert found == set(kept._PACKAGES)


def test_play_serves_until_it_is_interrupted(site, workdir):
    # The page is there already: nothing is exported, TensorFlow not imported.
    program = (
        "import pathlib\n"
        "from nvae_tf.web import kept\n"
        f"kept.kept_page = lambda *_: (pathlib.Path({str(site)!r}), True)\n"
        "from nvae_tf.commands.main import main\n"
        f"main(['play', '--workdir={workdir}', '--noopen'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    try:
        url = None
        while url is None:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            url = found and found[0]
        with urllib.request.urlopen(f"{url}manifest.json") as answer:
            assert json.loads(answer.read())["model"]["name"] == "plain_vae"
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Ended." in out
    assert not errors
