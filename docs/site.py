"""The site's own part: pages that are kept elsewhere in the repository, and links that leave this folder.

README, CONTRIBUTING and CHANGELOG are pages of the site. Files that pages link to (figures of a benchmark) are copied
into it. Links in the sources are those that work where the repository is read as it is; here they are turned.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = {
    "index.md": ROOT / "README.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "changelog.md": ROOT / "CHANGELOG.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def source_of(page: str) -> Path:
    """The file that a page of the site is written in."""
    return PAGES.get(page, DOCS / page)


def place_of(file: Path) -> str:
    """Where a file of the repository is on the site."""
    for page, source in PAGES.items():
        if file == source:
            return page
    return file.relative_to(DOCS if file.is_relative_to(DOCS) else ROOT).as_posix()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and the files outside this folder that any page links to."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(source)))
    for page in files.documentation_pages():
        source = source_of(page.src_uri)
        for link in LINK.findall(source.read_text(encoding="utf-8")):
            target = (source.parent / link).resolve()
            if target.is_file() and target.is_relative_to(ROOT) and place_of(target) not in files.src_uris:
                files.append(File.generated(config, place_of(target), abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files into links to their places on the site; what is no file is left for mkdocs to warn of."""
    source, place = source_of(page.file.src_uri), Path(page.file.src_uri).parent

    def turned(link: re.Match[str]) -> str:
        target = (source.parent / link[1]).resolve()
        return os.path.relpath(place_of(target), place) if target.is_file() else link[1]

    return LINK.sub(turned, markdown)
