"""Settings of the documentation site; `bash ci/docs` builds it."""

import re
from typing import Any

from nsxr import __version__

project = "nsxr"
author = "the nsxr developers"
version = release = __version__

extensions = [
    "myst_nb",  # Markdown pages and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
root_doc = "index"
exclude_patterns = ["notebooks/.ipynb_checkpoints"]

nb_execution_mode = "off"  # ci/docs has executed the notebooks already
nb_merge_streams = True
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # docstrings give dims, types and units
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = "nsxr"
html_copy_source = html_show_sourcelink = False
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "show_prev_next": True}

_LINKS = (  # pages link to each other as in the repository; the site has notebooks and CONTRIBUTING.md elsewhere
    (r"\]\(\.\./notebooks/", "](notebooks/"),
    (r"\]\(\.\./docs/", "](../"),
    (r"\]\(\.\./CONTRIBUTING\.md", "](contributing.md"),
    (r"\]\(\.\./CHANGES\.md", "](changes.md"),
    (r"\]\(\.\./README\.md", "](index.md"),
)


def _follow_links(app: Any, name: str, source: list[str]) -> None:
    """Turn links between files of the repository into links between pages of the site."""
    for pattern, replacement in _LINKS:
        source[0] = re.sub(pattern, replacement, source[0])


def setup(app: Any) -> None:
    """Register what Sphinx calls for each page."""
    app.connect("source-read", _follow_links)
