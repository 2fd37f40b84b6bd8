"""Pieces of one self-contained page: HTML with all text escaped, pictures inline, nothing fetched
and nothing run."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# a browser then loads and runs nothing, whatever stands in the page
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
body {
  font: 16px/1.5 sans-serif; color: #1a1a1a; background: #fff;
  max-width: 60rem; margin: 0 auto; padding: 1rem 1.5rem
}
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin-top: 2.2rem; padding-bottom: 0.2rem; border-bottom: 1px solid #bbb }
p, li, td, figcaption { overflow-wrap: anywhere }
.headline { font-size: 1.3rem; margin: 0.6rem 0 }
.warning { background: #fff3cd; border-left: 0.4rem solid #d55e00; padding: 0.5rem 0.8rem }
table { border-collapse: collapse; margin: 0.8rem 0; width: 100% }
th, td {
  text-align: left; vertical-align: top;
  padding: 0.25rem 0.8rem 0.25rem 0; border-bottom: 1px solid #ddd
}
td { font-variant-numeric: tabular-nums }
figure { margin: 1rem 0 }
figure svg { max-width: 100%; height: auto }
figcaption { color: #555; font-size: 0.9rem }
pre {
  background: #f4f4f4; padding: 0.6rem 0.8rem;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85rem
}
"""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is "headline", "warning" or nothing."""
    return f"<p{_class(kind)}>{escape(text)}</p>\n"


def bullets(lines: Iterable[str]) -> str:
    """A list of one line each."""
    return "<ul>\n" + "".join(f"<li>{escape(line)}</li>\n" for line in lines) + "</ul>\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose rows start with a heading of their own."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{_row(first, rest)}</tr>\n" for first, *rest in rows)
    return f"<table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"


def _row(first: str, rest: Sequence[str]) -> str:
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
    return f"<th>{escape(first)}</th>{cells}"


def code(text: str) -> str:
    """A block of text that is to be typed as it stands."""
    return f"<pre>{escape(text)}</pre>\n"


def picture(figure: "Figure", name: str, caption: str) -> str:
    """A figure as inline SVG whose letters are text; `name` (letters, hyphens) keeps its
    identifiers apart."""
    import matplotlib as mpl

    file = StringIO()
    silent = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=silent)
    drawn = re.sub(r' xmlns(:xlink)?="[^"]*"', "", file.getvalue())
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawn[drawn.index("<svg") :])
    drawn = drawn.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)
    return f"<figure>\n{drawn}<figcaption>{escape(caption)}</figcaption>\n</figure>\n"


def section(title: str, *parts: str) -> str:
    """A section with a heading."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n"


def document(title: str, *parts: str) -> bytes:
    """The whole page, in ASCII: what is not becomes a character reference."""
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{''.join(parts)}</body>\n</html>\n"
    )
    return text.encode("ascii", "xmlcharrefreplace")


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
