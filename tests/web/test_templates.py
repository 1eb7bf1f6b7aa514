"""Templates escape what they are given, and refuse what they are not."""

import jinja2
import pytest

from l3hpc.web import html


def made(template: str, **values: object) -> str:
    return html._environment().from_string(template).render(**values)


def test_values_are_escaped_and_control_characters_replaced():
    assert made('<p title="{{ text }}">{{ text }}</p>', text='"<b>\x1b\u202e') == (
        '<p title="&#34;&lt;b&gt;\ufffd\ufffd">&#34;&lt;b&gt;\ufffd\ufffd</p>')


def test_a_name_that_was_not_given_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="lead"):
        made("{{ lead }}")


def test_data_of_a_script_cannot_end_it_and_holds_only_what_json_has():
    text = made("<script>{{ data|tojson }}</script>", data={"b": "</script>\u2028", "a": None})
    assert text == '<script>{"b":"\\u003c/script\\u003e\\u2028","a":null}</script>'
    with pytest.raises(ValueError):
        made("{{ data|tojson }}", data=float("nan"))


def test_every_asset_is_packaged_and_written_into_a_page_as_it_is():
    files = sorted(html.ASSETS.iterdir())
    assert files and all(path.is_file() for path in files)  # package_data names no subfolder
    script = (html.ASSETS / "ledger.js").read_text(encoding="utf-8")
    assert html.asset("ledger.js") == script and "</script" not in script
