"""Parses the pages of reports."""

from html.parser import HTMLParser
from pathlib import Path

NEVER_CLOSED = ("img", "link", "meta")


class Reader(HTMLParser):
    """Parses a page: its tags, the cells of its tables, its pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open_tags: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.pictures: dict[str, dict[str, str]] = {}
        self.text = ""
        self.is_cell = False
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open_tags == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.open_tags += [] if tag in NEVER_CLOSED else [tag]
        if tag == "table":
            self.rows = self.tables.setdefault(attributes["id"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag == "figure":
            self.figure = attributes["id"]
        elif tag == "img":
            self.pictures[self.figure] = attributes
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.is_cell = True

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag
        self.is_cell = self.is_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.is_cell:
            self.rows[-1][-1] += data
