"""MkDocs hook: add README.md, CONTRIBUTING.md and the model card to the site.

The first two lie outside of docs/. The model card is docs/README.md, where the Model Zoo looks for it;
MkDocs would take it for the start page. So it gets a name of its own on the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PLACES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "docs/README.md": "model_card.md",
}
"""Path in the repository to path on the site."""
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of ``PLACES`` to the site."""
    for source, place in PLACES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between files of the repository as links between pages of the site."""
    del config, files
    sources = {place: source for source, place in PLACES.items()}
    source = sources.get(page.file.src_uri, "docs/" + page.file.src_uri)
    return LINK.sub(lambda link: _relocate(link, source, page.file.src_uri), markdown)


def _relocate(link: re.Match[str], source: str, place: str) -> str:
    before, target, after = link.groups()
    if re.match(r"\w+:", target):
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    path = PLACES.get(path, path.removeprefix("docs/"))
    return f"{before}{posixpath.relpath(path, posixpath.dirname(place) or '.')}{after}"
