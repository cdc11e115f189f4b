"""How the documentation site is built: `make docs`, or sphinx-build docs build/docs."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments.reference_pages import commands_page, settings_page  # noqa: E402

project = "cnnimretrieval"
author = "the cnnimretrieval contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# Links to files of the repository are links of the repository's host; the site holds its own pages only.
suppress_warnings = ["myst.xref_missing"]
html_theme = "furo"
html_title = "cnnimretrieval"
# Blocks without a language are commands and what they print.
highlight_language = "none"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

listed = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").split()
others = sorted({path.stem for path in (ROOT / "docs").glob("*.md")} - {"index", *listed})
more = "\n".join(["# More", "", "```{toctree}", *(f"/{name}" for name in others), "```", ""])

for name, page in (("commands", commands_page()), ("settings", settings_page()), ("more", more)):
    path = ROOT / "docs" / "generated" / f"{name}.md"
    path.parent.mkdir(exist_ok=True)
    # Rewritten only when it changes: the build takes what is older for done.
    if not path.exists() or path.read_text(encoding="utf-8") != page:
        path.write_text(page, encoding="utf-8")
