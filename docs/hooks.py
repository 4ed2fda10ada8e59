"""What the site adds to the pages: the files of the repository that they link to, and equations as MathML.

The same links work on GitHub. README.md is the site's first page; a source file becomes a page that shows it.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md", "benchmarks/LOG.md")
LANGUAGES = {".py": "python", ".json": "json", ".ipynb": "json", ".yaml": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's own pages, and a page for each file that a page links to."""
    texts = {name: (ROOT / name).read_text("utf-8") for name in PAGES}
    texts |= {f"docs/{page.src_uri}": page.content_string for page in files.documentation_pages()}
    linked = {target for name, text in texts.items() for target in _targets(name, text)}
    for name in sorted({*PAGES, *(name for name in linked if not name.startswith("docs/"))}):
        text = texts.get(name) or _shown(name)
        files.append(File.generated(config, _uri(name), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_others: object) -> str:
    """Let the links of a page lead to where the files are in the site."""
    here = page.file.src_uri
    name = next((name for name in PAGES if _uri(name) == here), f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link[1]))
        return posixpath.relpath(_uri(target), posixpath.dirname(here) or ".")

    return markdown if here.startswith("source/") else LINK.sub(moved, markdown)


def on_page_content(text: str, **_others: object) -> str:
    """Write equations as MathML, which browsers draw without JavaScript."""
    return EQUATION.sub(_equation, text)


def _targets(name: str, text: str) -> set[str]:
    return {posixpath.normpath(posixpath.join(posixpath.dirname(name), link)) for link in LINK.findall(text)}


def _uri(name: str) -> str:
    """Where a file of the repository is among the site's pages."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    if name in PAGES:
        return "index.md" if name == "README.md" else name.lower()
    return f"source/{name}.md"


def _shown(name: str) -> str:
    language = LANGUAGES.get(posixpath.splitext(name)[1], "text")
    text = (ROOT / name).read_text("utf-8")
    return f"---\nsearch: {{exclude: true}}\n---\n\n# {name}\n\n~~~~{language}\n{text}\n~~~~\n"


def _equation(found: re.Match[str]) -> str:
    return convert(html.unescape(found[3]), display="block" if found[2] == "[" else "inline")
