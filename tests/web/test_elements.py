from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from l3hpc.web.html import element, join


def test_text_and_attributes_are_escaped():
    assert element("p", 'a<b & "c"', title='"><script>') == (
        '<p title="&#34;&gt;&lt;script&gt;">a&lt;b &amp; &#34;c&#34;</p>')


def test_attribute_names_and_values():
    drawn = element("rect", class_="bar", stroke_width=2, x=1.239, y=2.0, rx=None, hidden=True,
                    open=False)
    assert drawn == '<rect class="bar" stroke-width="2" x="1.24" y="2" hidden></rect>'


def test_markup_is_not_escaped_twice():
    assert element("p", element("b", "<"), [" & ", None, ("x",)]) == "<p><b>&lt;</b> &amp; x</p>"


def test_direction_and_control_characters_are_made_visible():
    assert join(["a\u202eb\x00c\x1bd"]) == "a\ufffdb\ufffdc\ufffdd"


@given(st.text())
def test_no_text_can_open_or_close_an_element(words):
    inside = element("p", words, title=words)
    assert isinstance(inside, Markup)
    assert inside.count("<") == 2 and inside.count(">") == 2 and inside.count('"') == 2
