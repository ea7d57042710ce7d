"""Reads pages and Markdown as a browser and a renderer do, and tells whether anything foreign acts in them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from markdown_it import MarkdownIt
from markdown_it.token import Token

VOID = {"meta", "line", "circle", "polyline"}  # elements without content; the last three are written <line/>
FETCHING = set("script img link iframe object embed video audio form base a image use".split())
OWN_HTML = re.compile(r"</?(details|summary|code)>")


class Page(HTMLParser):
    """Elements with their attributes and ancestors, and the text that is shown."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), list(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), list(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    @property
    def shown(self) -> str:
        return " ".join("".join(self.words).split())


def assert_inert_page(page: Page) -> None:
    """Nothing on it fetches or runs anything."""
    for tag, attributes, _ in page.elements:
        assert tag not in FETCHING
        assert not any(name.startswith("on") or name in ("src", "href", "style", "xlink:href") for name in attributes)


def tokens(text: str) -> list[Token]:
    """Markdown as a renderer reads it: blocks, each followed by what stands in it."""
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    return [token for block in blocks for token in [block, *(block.children or [])]]


def assert_inert_markdown(text: str) -> None:
    """Nothing in it is a link, an image, or HTML other than ours."""
    for token in tokens(text):
        assert token.type not in ("image", "link_open"), token
        if token.type in ("html_inline", "html_block"):
            assert "<" not in OWN_HTML.sub("", token.content), token.content


def assert_tables_keep_their_columns(text: str, at_least: int = 1) -> None:
    """Every row of every Markdown table has as many cells as its head."""
    rows = 0
    width = 0
    for row in text.splitlines():
        if not row.startswith("| "):
            width = 0
            continue
        cells = len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) - 1
        width = width or cells
        assert cells == width, row
        rows += 1
    assert rows >= at_least
