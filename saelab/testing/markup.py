"""What a page of HTML is made of, to check that no text became markup."""

from __future__ import annotations

from html.parser import HTMLParser


class Elements(HTMLParser):
    """The tags of a page, all their attributes, and its text.

    Attributes:
        tags: of elements as they begin; attributes: (name, value); text: what stands between tags.
    """

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data
