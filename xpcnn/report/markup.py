"""HTML from Python: elements whose text is always escaped, tables, and the page around them."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Sequence

from ..training.files import write_atomically
from .style import STYLE

_VOID = {"img", "meta"}  # elements without a closing tag
_LONG = 60  # rows; tables with more of them scroll
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# No script, no network, whatever is in the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """HTML, made by `element`; any other text is escaped where it becomes part of one."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: such as `"p"`.
        children: `Html` is taken as it is, all else as text; None is left out.
        attributes: `class_` stands for `class` and `aria_label` for `aria-label`; those that are None are left out.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escaped(value)}"')
    inside = "".join(child if isinstance(child, Html) else escaped(child) for child in children if child is not None)
    return Html(f"<{' '.join(words)}>" + ("" if name in _VOID else f"{inside}</{name}>"))


def escaped(value: object) -> str:
    """Return text as HTML shows it: escaped, without control characters, and possible to encode."""
    text = str(value).encode("utf-8", "backslashreplace").decode()  # file names may hold bytes that are not UTF-8
    return html.escape(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text))


def joined(parts: Iterable[Html | None]) -> Html:
    """Return elements one after the other; None is left out."""
    return Html("".join(part for part in parts if part is not None))


def section(title: str, *children: object, class_: str | None = None) -> Html:
    """Return a part of the page under its heading."""
    return element("section", element("h2", title), *children, class_=class_)


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], *, foot: Sequence[object] = (), left: int = 1
) -> Html:
    """Return a table that scrolls within its box where it is too wide or too long for the page.

    Args:
        caption: what it shows, for those who cannot see it.
        head: the headings of the columns.
        rows: of cells; the first cell of each is the row's heading.
        foot: the cells of a last row, such as totals.
        left: how many columns are text, aligned to the left; those after them are numbers.
    """

    def row(cells: Sequence[object]) -> Html:
        return element(
            "tr",
            element("th", cells[0], scope="row"),
            *(element("td", cell, class_="text" if i < left else None) for i, cell in enumerate(cells[1:], 1)),
        )

    body = list(map(row, rows))
    headings = (element("th", text, scope="col", class_="text" if i < left else None) for i, text in enumerate(head))
    return scrolling(
        caption,
        element(
            "table",
            element("caption", caption, class_="hidden"),
            element("thead", element("tr", *headings)),
            element("tbody", *body),
            element("tfoot", row(foot)) if foot else None,
        ),
        long=len(body) > _LONG,
    )


def scrolling(label: str, content: Html, *, long: bool = False) -> Html:
    """Return a box in which wide content, and with `long` also long content, scrolls, by the keyboard too."""
    classes = "scroll long" if long else "scroll"
    return element("div", content, class_=classes, tabindex=0, role="region", aria_label=label)


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Return a list of names, each with its value; None is shown as a dash."""
    items = ((element("dt", name), element("dd", "-" if value is None else value)) for name, value in pairs)
    return element("dl", *(item for pair in items for item in pair), class_="facts")


def page(title: str, *parts: Html | None) -> str:
    """Return a whole page: one file without script, which refers to nothing outside."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Html(STYLE)),
    )
    main = element("main", element("h1", title), joined(parts))
    return "<!doctype html>\n" + element("html", head, element("body", main), lang="en") + "\n"


def write_page(path: str | os.PathLike[str], text: str) -> None:
    """Write a page to a file, atomically.

    Raises:
        OSError: if it cannot be written; then the old content stays.
    """
    write_atomically(path, text.encode())
