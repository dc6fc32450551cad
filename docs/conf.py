"""Sphinx configuration: the guide, a page a pass, and the reference from the docstrings."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pass_pages import write_pages

project = "toponas_fx"
author = "The toponas_fx developers"
copyright = "2026, the toponas_fx developers"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx.ext.mathjax", "myst_parser"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "toponas_fx"
html_static_path = ["_static"]
exclude_patterns = ["_build"]

write_pages(Path(__file__).parent / "generated")
