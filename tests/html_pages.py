"""Reading a page of `xpcnn.report` as a browser would, with what must hold of every one."""

import base64
import re
from html.parser import HTMLParser

_VOID = {"img", "meta"}


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        text: what is shown, with single spaces.
        tags: every element's name and attributes, in order.
        tables: by caption, lists of rows of cell texts.
        pictures: the embedded PNG files, with their alternative texts.
    """

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self._open, self._words = [], []
        self.tags, self.tables, self.pictures = [], {}, []
        self._rows = None
        self.feed(source)
        self.close()
        assert not self._open, f"not closed: {self._open}"
        assert source.startswith("<!doctype html>\n<html")
        self.text = " ".join("".join(self._words).split())
        self._check(source)

    def handle_starttag(self, tag, attributes):
        assert len({name for name, _ in attributes}) == len(attributes), (tag, attributes)
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self._rows, self._caption = [], []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        if tag == "img":
            kind, _, data = dict(attributes)["src"].partition(",")
            assert kind == "data:image/png;base64"
            self.pictures.append((base64.b64decode(data, validate=True), dict(attributes)["alt"]))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == "table":
            self.tables["".join(self._caption)] = self._rows
        if tag not in ("span", "strong", "a"):
            self._words.append(" ")

    def handle_data(self, data):
        if "style" in self._open or "title" in self._open:
            return
        self._words.append(data)
        if "caption" in self._open:
            self._caption.append(data)
        elif self._open and {"td", "th"} & {*self._open}:
            self._rows[-1][-1] += data

    def _check(self, source):
        names = [tag for tag, _ in self.tags]
        assert not {"script", "iframe", "link", "object", "embed", "base", "form"} & {*names}
        for tag, attributes in self.tags:
            assert not any(name.startswith("on") for name in attributes), (tag, attributes)
            for name in ("src", "href", "action", "xlink:href"):
                assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
            assert tag != "img" or attributes["alt"]
            assert tag != "svg" or attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        style = re.search(r"<style>(.*?)</style>", source, re.DOTALL).group(1)
        assert not re.search(r"url\(|@import|https?:", style)
        assert "@media (prefers-color-scheme: dark)" in style
        # All colours of drawings come from the style sheet.
        body = source.partition("</style>")[2]
        assert not re.search(r'(fill|stroke|color)="|(fill|stroke|color):', body)
        assert "default-src 'none'" in dict(self.tags)["meta"].get("content", "") or any(
            "default-src 'none'" in attributes.get("content", "") for _, attributes in self.tags
        )
        for caption, rows in self.tables.items():
            assert caption, "a table without a caption"
            assert len({len(row) for row in rows}) == 1, caption
        assert names.count("h1") == 1
