"""Sphinx configuration: the guide, and the reference from the docstrings."""

project = "toponas_fx"
author = "The toponas_fx developers"
copyright = "2026, the toponas_fx developers"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
html_theme = "furo"
exclude_patterns = ["_build"]
