"""Settings of the site: `make docs`. What is made from other files is in _ext/."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.insert(0, str(ROOT))

import backends
import made

import pyro_concrete

project = "concrete-ppl"
author = "The concrete-ppl developers"
version = release = pyro_concrete.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "backends",
    "mathml",
    "counterparts",
]
exclude_patterns = ["_build", "_made", "_ext", "_static"]

# Pages of other files, and notebooks that lie beside their scripts, are written anew.
made.write(ROOT, HERE)
made.draw(HERE / "_made")

# --- pages
# Notebooks are shown as they were executed; the docs run nothing.
nb_execution_mode = "off"
nb_output_stderr = "remove"  # progress bars
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
bibtex_default_style = "plain"
bibtex_bibfiles = ["../concrete_core/references.bib"]

# --- the API
# `name` in a docstring is a link where there is something of that name to link to.
default_role = "py:obj"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Shapes", "params_style")]
napoleon_use_ivar = True
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
maximum_signature_line_length = 72
python_use_unqualified_type_names = True
# Our own names must lead somewhere (-n, with warnings as errors). The types and names
# of others do where their inventories have them.
nitpick_ignore_regex = [
    ("py:.*", r"(?!(num)?pyro_concrete\b).*"),
    # Types of arguments and results that users do not name.
    ("py:class", r".*\.(AbstractEstimator|CountingOptim)"),
]

# --- links to the backends
# The build needs no network: backends.txt lists the few names that we link to. With
# CONCRETE_DOCS_ONLINE=1 the backends' own inventories are read instead, in full.
intersphinx_mapping = backends.mapping(
    HERE / "backends.txt",
    HERE / "_made",
    online=os.environ.get("CONCRETE_DOCS_ONLINE") == "1",
)

# --- looks
html_theme = "furo"
pygments_dark_style = "github-dark"  # Furo's own underlines module names
html_title = "concrete-ppl"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["full_size.js"]
html_math_renderer = "mathml"
html_copy_source = html_show_copyright = html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
