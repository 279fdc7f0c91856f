"""The engine of exported pages: ONNX Runtime Web, one version of it.

Wherever its files come from, they are compared with the checksums below, so a
page holds what was tested with it and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence

from nvae_tf.core.errors import ExportError

__all__ = ["ENGINES", "NAME", "SHA256", "VERSION", "fetch", "license_files"]

NAME = "onnxruntime-web"
VERSION = "1.30.0"
# Of the package's tarball, as `npm view onnxruntime-web@VERSION
# dist.integrity` prints it.
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02V"
    "b7QmRMDs1SigqR4CXAfKYQ=="
)
# Engine -> the script to import, the module it loads, the program of that.
ENGINES: Mapping[str, Mapping[str, str]] = {
    "wasm": {
        "script": "ort.wasm.min.mjs",
        "module": "ort-wasm-simd-threaded.mjs",
        "binary": "ort-wasm-simd-threaded.wasm",
    },
    "webgpu": {
        "script": "ort.webgpu.min.mjs",
        "module": "ort-wasm-simd-threaded.asyncify.mjs",
        "binary": "ort-wasm-simd-threaded.asyncify.wasm",
    },
}
SHA256: Mapping[str, str] = {
    "ort.wasm.min.mjs": (
        "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b"
    ),
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
    "ort.webgpu.min.mjs": (
        "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0"
    ),
    "ort-wasm-simd-threaded.asyncify.mjs": (
        "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28"
    ),
    "ort-wasm-simd-threaded.asyncify.wasm": (
        "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da"
    ),
}

_NPM_SECONDS = 600
_URL_SECONDS = 60
_ELSEWHERE = (
    f"--runtime=PLACE takes the files from a folder, a {NAME}-{VERSION}.tgz or "
    "an address"
)


def fetch(runtime: str, names: Sequence[str]) -> dict[str, bytes]:
    """Files of the engine.

    Args:
      runtime: a folder that has them, the package's tarball, or the http(s)
        address of either; empty to ask npm for the package.
      names: of the files, some of `SHA256`.

    Returns:
      The content by name.

    Raises:
      ExportError: if one cannot be had, or is not of this version.
    """
    if not runtime:
        read = _from_npm()
        place = f"npm's {NAME}"
    elif runtime.startswith(("http://", "https://")):
        read = _from_address(runtime)
        place = runtime
    else:
        read = _from_path(pathlib.Path(runtime).expanduser())
        place = runtime
    files = {}
    for name in names:
        content = read(name)
        if hashlib.sha256(content).hexdigest() != SHA256[name]:
            raise ExportError(
                f"{name} from {place} is not that of {NAME} {VERSION}: its "
                f"SHA-256 differs. {_ELSEWHERE}."
            )
        files[name] = content
    return files


def license_files() -> dict[str, bytes]:
    """The licence of the engine, and the notices of what it is built from.

    npm's package has neither; ONNX Runtime's own for Python, of the same
    source, has both.

    Raises:
      ExportError: if that is not installed as it should be.
    """
    from nvae_tf.core.extras import require

    module = require("onnxruntime", "onnx", "A web export", ExportError)
    folder = pathlib.Path(module.__file__).parent
    try:
        return {
            "LICENSE.txt": (folder / "LICENSE").read_bytes(),
            "ThirdPartyNotices.txt": (
                folder / "ThirdPartyNotices.txt"
            ).read_bytes(),
        }
    except OSError as error:
        raise ExportError(
            f"The installed onnxruntime lacks its licence ({error}): install "
            "it anew with pip."
        ) from error


def _from_npm() -> Callable[[str], bytes]:
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            f"The page's engine, {NAME} {VERSION}, comes from npm, which is "
            f"not installed: install Node.js, which brings it. Or {_ELSEWHERE}."
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [npm, "pack", "--loglevel=error", f"{NAME}@{VERSION}"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=_NPM_SECONDS,
                check=False,
            )
            reason = _longest_line(done.stderr)
        except subprocess.TimeoutExpired:
            reason = f"no answer within {_NPM_SECONDS} s"
        tarballs = [*pathlib.Path(folder).glob("*.tgz")]
        if not tarballs:
            raise ExportError(
                f"npm pack {NAME}@{VERSION} failed: {reason}. {_ELSEWHERE}."
            )
        return _from_tarball(tarballs[0])


def _from_path(path: pathlib.Path) -> Callable[[str], bytes]:
    if path.is_file():
        return _from_tarball(path)
    if not path.is_dir():
        raise ExportError(
            f"--runtime={path} is neither a folder nor a tarball of {NAME} "
            f"{VERSION}."
        )

    def read(name: str) -> bytes:
        for folder in (path, path / "dist", path / "package" / "dist"):
            if (folder / name).is_file():
                return (folder / name).read_bytes()
        raise ExportError(
            f"--runtime={path} has no {name}: name the folder dist of the "
            f"package {NAME} {VERSION}."
        )

    return read


def _from_tarball(path: pathlib.Path) -> Callable[[str], bytes]:
    digest = hashlib.sha512(path.read_bytes()).digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != INTEGRITY:
        raise ExportError(
            f"{path.name} is not the package {NAME} {VERSION}: its SHA-512 "
            f"differs. {_ELSEWHERE}."
        )
    members = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = pathlib.PurePosixPath(member.name)
            if name.parent.name == "dist" and name.name in SHA256:
                file = archive.extractfile(member)
                assert file is not None
                members[name.name] = file.read()
    return members.__getitem__


def _from_address(address: str) -> Callable[[str], bytes]:
    if address.endswith(".tgz"):
        with tempfile.NamedTemporaryFile(suffix=".tgz") as file:
            file.write(_download(address))
            file.flush()
            return _from_tarball(pathlib.Path(file.name))
    return lambda name: _download(f"{address.rstrip('/')}/{name}")


def _download(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=_URL_SECONDS) as answer:
            return answer.read()
    except (OSError, urllib.error.URLError, http.client.HTTPException) as error:
        raise ExportError(f"{address} cannot be had: {error}.") from error


def _longest_line(text: str) -> str:
    """Of npm's errors, which is the one that tells."""
    lines = [
        line.partition("error")[2].strip()
        for line in text.splitlines()
        if "complete log" not in line
    ]
    return max(lines, key=len, default="").rstrip(".") or "it says nothing"
