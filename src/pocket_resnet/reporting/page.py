"""HTML without a template engine: text becomes Html by being escaped, and nothing else gets into a page.

A page is one file: style inside, pictures as data URIs, no script. A policy in its head forbids everything else.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STYLE = """
:root { color-scheme: light dark; --page: #fafafa; --card: #fff; --ink: #1b1b1b; --soft: #5c5c5c; --line: #dcdcdc;
  --accent: #0072b2; --warn: #fff4e5; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --card: #1f2226; --ink: #e8e8e8; --soft: #a9adb3;
  --line: #383c42; --accent: #6cb8e6; --warn: #3a2c14; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { margin: .35rem 0 .9rem; max-width: 46rem; }
.soft, figcaption, .facts dt { color: var(--soft); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 12.5rem), 1fr)); gap: .75rem;
  margin: 1.25rem 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.facts dt { font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.3rem; font-weight: 600; line-height: 1.35; font-variant-numeric: tabular-nums; }
.facts small { display: block; font-size: .85rem; font-weight: 400; color: var(--soft); }
.figures, .beside { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1rem;
  align-items: start; }
.beside > * { min-width: 0; }
.beside .figures { grid-template-columns: minmax(0, 1fr); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; }
figure div { background: #fff; padding: .75rem; text-align: center; }
figure img { display: block; width: 100%; max-width: 32rem; height: auto; margin: 0 auto; }
figcaption { padding: .6rem .9rem .7rem; font-size: .92rem; }
figcaption b { color: var(--ink); }
.scroll { overflow-x: auto; max-height: 34rem; overflow-y: auto; background: var(--card);
  border: 1px solid var(--line); border-radius: .5rem; margin: 1rem 0; }
.beside > .scroll { margin: 0; }
.figures + .beside { margin-top: 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
.text { text-align: left; }
td.text { white-space: normal; overflow-wrap: break-word; }
th { font-weight: 600; color: var(--soft); position: sticky; top: 0; background: var(--card); }
tr:last-child td { border-bottom: 0; }
pre { margin: .5rem 0; padding: .7rem .9rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; overflow-x: auto;
  font: .88rem/1.45 ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; }
summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
.remark { background: var(--warn); border-radius: .5rem; padding: .5rem .9rem; }
@media (max-width: 30rem) { figure div { padding: .4rem; } table { font-size: .8rem; }
  th, td { padding: .3rem .35rem; } th { white-space: normal; vertical-align: bottom; } }
@media print { .scroll { max-height: none; } }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that may stand in a page as it is."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Any text as it may stand in a page, in attributes too; Html stays what it is."""
    return text if isinstance(text, Html) else Html(html.escape(text))


def together(pieces: Iterable[str]) -> Html:
    """The pieces one after the other, escaped where they are not Html."""
    return Html("".join(map(escaped, pieces)))


def element(tag: str, *pieces: str, **attributes: str) -> Html:
    """`<tag attribute="...">pieces</tag>`; `class_` is the attribute class."""
    told = "".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{told}>{together(pieces)}</{tag}>")


def page(title: str, *pieces: str) -> str:
    """A whole document."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{escaped(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{together(pieces)}
</main>
</body>
</html>
"""


def section(heading: str, lead: str, *pieces: str) -> Html:
    """A heading, a sentence or two on what is to be seen, and the pieces."""
    return element("section", element("h2", heading), element("p", lead, class_="soft"), *pieces)


@dataclass(frozen=True)
class Picture:
    """A PNG; `name` is its file's without the ending, `alt` tells it to who cannot see it."""

    name: str
    png: bytes
    alt: str
    caption: str


class Album:
    """The pictures of a page, in the order in which they were put there."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []

    def show(self, *pictures: Picture) -> Html:
        """The pictures side by side where there is room, each on white in either colour scheme."""
        self.pictures += pictures
        return element("div", *map(_figure, pictures), class_="figures")


def _figure(picture: Picture) -> Html:
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
    width, height = (int.from_bytes(picture.png[start : start + 4]) for start in (16, 20))  # of the PNG's header
    told = f'width="{width}" height="{height}" alt="{html.escape(picture.alt)}"'
    image = Html(f'<div><img src="{source}" {told}></div>')
    return element("figure", image, element("figcaption", picture.caption), id=picture.name)


def facts(rows: Iterable[tuple[str, str, str]]) -> Html:
    """Cards with a name, a large value and a small explanation."""
    cards = [
        element("div", element("dt", name), element("dd", value, element("small", more))) for name, value, more in rows
    ]
    return element("dl", *cards, class_="facts")


def side_by_side(*pieces: str) -> Html:
    """The pieces in two columns where there is room."""
    return element("div", *pieces, class_="beside")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], name: str, num_texts: int = 1) -> Html:
    """A table whose first columns are text and whose others are numbers; it scrolls by itself where it is too wide.

    Without rows, nothing.
    """

    def line(tag: str, cells: Sequence[str]) -> Html:
        kinds = [{"class_": "text"}] * num_texts + [{}] * len(cells)
        return element("tr", *(element(tag, cell, **kind) for cell, kind in zip(cells, kinds, strict=False)))

    body = [line("td", row) for row in rows]
    drawn = element("table", element("thead", line("th", headers)), element("tbody", *body), id=name)
    return element("div", drawn, class_="scroll", tabindex="0") if body else Html("")


def folded(title: str, *pieces: str) -> Html:
    """What is shown on request."""
    return element("details", element("summary", title), *pieces)


def code(text: str) -> Html:
    """Text as it is typed."""
    return element("pre", element("code", text))


def remark(text: str) -> Html:
    """Something that must not be overlooked."""
    return element("p", text, class_="remark")
