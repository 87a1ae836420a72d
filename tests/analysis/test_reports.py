"""What all tables share; each report's own text is in the test of its analysis."""

from softprompt_jax.analysis import reports


def test_tokens_in_few_letters():
    assert reports.shown(" cat\n") == "▁cat⏎"
    assert reports.shown(" " * 32) == "▁×32"  # noqa: RUF001
    assert reports.shown("   a") == "▁▁▁a"
    assert reports.shown("a\tb\u200b") == "a\\tb\\u200b"
    assert reports.shown("=" * 100) == "=" * 23 + "…"


def test_wide_characters_keep_columns_in_line():
    lines = reports.table([["映画", "1"], ["film", "22"], ["é", "3"]])
    assert lines == ["映画   1", "film  22", "é      3"]
