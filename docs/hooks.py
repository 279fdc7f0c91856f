"""Pages of the site that lie outside of `docs/`, and links as GitHub has them.

MkDocs knows one folder.  README.md and its kin are pages of the site all the
same, each in one copy, and links between all of them are written as they work
in the repository.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

ROOT = pathlib.Path(__file__).parents[1]
# File of the repository -> page of the site.
PAGES = {
    "README.md": "index.md",
    "export/README.md": "exporting.md",
    "BUILD.md": "developers/building.md",
    "CONTRIBUTING.md": "developers/contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
# [text](target#anchor); not to elsewhere, nor within the page.
_LINK = re.compile(r"\[([^][]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    """Adds the pages that lie elsewhere."""
    for source, page in PAGES.items():
        files.append(
            File.generated(config, page, abs_src_path=str(ROOT / source))
        )
    return files


def on_page_markdown(markdown, page, config, files):
    """Points links at the site's pages instead of the repository's files.

    Of a link to a file that is no page, the text stays.  MkDocs tells of links
    to what does not exist.
    """
    here = page.file.src_uri
    folder = posixpath.dirname(_SOURCES.get(here, f"docs/{here}"))

    def redirect(match):
        text, link, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(folder, link))
        if path in PAGES or path.startswith("docs/"):
            target = PAGES.get(path, path.removeprefix("docs/"))
            return f"[{text}]({get_relative_url(target, here)}{anchor})"
        return text if (ROOT / path).exists() else match[0]

    return _LINK.sub(redirect, markdown)
