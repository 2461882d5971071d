"""Texts of the pages: what a language lacks is English, and counts take the language's own forms."""

from pathlib import Path

import pytest
import yaml

from flawscope.errors import FlawscopeError
from flawscope.pages.templates import LANGUAGES, PAGES, Pages


def pages_of(folder: Path, texts: dict[str, dict[str, str | None]]) -> Pages:
    """Pages with Polish, too, of which these texts are known."""
    (folder / "texts").mkdir()
    (folder / "texts/pl.yaml").write_text(yaml.safe_dump(texts), encoding="utf-8")
    return Pages(folder, languages={**LANGUAGES, "pl": "Polski"})


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_of_these_languages_is_missing(language):
    assert PAGES.texts[language].missing == set()
    assert PAGES.missing_texts == []


def test_what_a_language_lacks_is_english_and_counted(tmp_path):
    pages = pages_of(tmp_path, {"common": {"skip": "Do treści"}})
    total = len(pages.texts["en"].flat)
    assert pages.missing_texts == [f"Polski: {total - 1} of {total} texts missing, shown in English"]
    texts = pages.texts_for("pl")
    assert [texts("common.skip"), texts("common.menu")] == ["Do treści", "Menu"]
    script = {"texts": texts.sections("common", "nav", "review"), "product": "in", "person": "", "api": ""}
    shown = pages.render("review", texts, script, theme=None, page="review", product="", bar="", alone=True)
    assert '<html lang="pl"' in shown
    assert ">Do treści</a>" in shown
    assert f">{texts('review.found')} <kbd>" in shown


def test_a_key_without_a_text_is_missing(tmp_path):
    pages = pages_of(tmp_path, {"common": {"skip": None, "menu": "", "product": "Wyrób"}, "nav": None})
    texts = pages.texts["pl"]
    assert {"common.skip", "common.menu"} <= texts.missing
    assert [texts("common.skip"), texts("common.product")] == ["Skip to the content", "Wyrób"]


def test_a_key_that_english_has_not_is_told(tmp_path):
    with pytest.raises(FlawscopeError, match=r"common\.unheard is in pl and not in English"):
        assert pages_of(tmp_path, {"common": {"unheard": "Do treści"}}).texts


COUNTED = {  # of common.missing, whose forms differ from the first word on
    "en": ["0 texts are", "1 text is", "2 texts are"],
    "de": ["0 Texte fehlen", "1 Text fehlt", "2 Texte fehlen"],
    "fr": ["0 texte manque", "1 texte manque", "2 textes manquent"],
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_count_has_the_form_of_the_language(language):
    texts = PAGES.texts[language]
    for number, beginning in enumerate(COUNTED[language]):
        assert texts.count("common.missing", number).startswith(f"{beginning} ")


def test_a_count_that_is_shown_in_english_has_the_form_of_english(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/page.yaml").write_text(
        "en: {page: {left_one: '{n} part', left_many: '{n} parts'}}\n", encoding="utf-8"
    )
    texts = Pages(tmp_path).texts["fr"]
    assert [texts.count("page.left", number) for number in (0, 1, 2)] == ["0 parts", "1 part", "2 parts"]
