"""A report's page of drawn results."""

import html.parser

import pytest


class Page(html.parser.HTMLParser):
    """Elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.words.append(data)

    def handle_endtag(self, tag):
        self.inside = ""


@pytest.fixture(name="text", scope="module")
def text_fixture(report_path):
    return report_path.read_text(encoding="utf-8")


@pytest.fixture(name="page", scope="module")
def page_fixture(text):
    return Page(text)
