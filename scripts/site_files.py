"""What the documentation site takes from outside docs/: `mkdocs.yml` names this file as a hook.

Pages link to the repository's files relatively, so that they work there. On the site, files that are pages of it get
a link to their page; the others one to the repository, if `repo_url` says where it is, else none.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
#: Files outside docs/ that are pages of the site, or pictures on them.
TAKEN = ("CHANGELOG.md", "SECURITY.md", "benchmarks/README.md", "benchmarks/results/*.md", "benchmarks/results/*.png")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds them."""
    for pattern in TAKEN:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            # A new file of results is a page at once; its place in the navigation may come later.
            files.append(File.generated(config, name, abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that lead out of docs/.

    Raises:
        PluginError: There is no such file.
    """
    if page.file.generated_by is not None:
        return markdown  # its links are relative to where it stands in the repository, as its place on the site is
    here = PurePosixPath(page.file.src_uri).parent
    if ".." not in markdown:
        return markdown

    def replaced(link: re.Match[str]) -> str:
        mark, text, target, anchor = link.groups(default="")
        path = normpath(f"docs/{here}/{target}")
        if path.startswith("docs/"):
            return link.group()  # from one of its folders to another
        if not (ROOT / path).exists():
            raise PluginError(f"{page.file.src_uri}: there is no {path}, to which it links")
        if files.get_file_from_path(path) is not None:
            return f"{mark}[{text}]({relpath(path, str(here))}{anchor})"
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})" if config.repo_url else text

    return _LINK.sub(replaced, markdown)
