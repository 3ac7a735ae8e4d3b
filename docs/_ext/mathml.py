"""Formulas as MathML, which browsers draw themselves: no script, and no network."""

import html
import re

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

_APPLIED = re.compile(r"<mo>&ApplyFunction;</mo>(?=\s*<(?!mo))")
logger = logging.getLogger(__name__)


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}


def _converted(node, as_block):
    text = re.sub(r"\\dots\b", r"\\ldots", node.astext())  # unknown to docutils
    try:
        found = str(latex2mathml.tex2mathml(text, as_block=as_block))
    except MathError as error:
        logger.warning("no MathML for %r: %s", text, error, location=node)
        return f"<code>{html.escape(text)}</code>"
    # A little room between a function and its argument, if that has no bracket.
    return _APPLIED.sub('<mspace width="0.17em"/>', found)


def _inline(writer, node):
    writer.body.append(_converted(node, as_block=False))
    raise nodes.SkipNode


def _block(writer, node):
    label = node.get("ids") or [""]
    anchor = f' id="{label[0]}"' if label[0] else ""
    body = _converted(node, as_block=True)
    writer.body.append(f'<div class="math"{anchor}>{body}</div>\n')
    raise nodes.SkipNode
