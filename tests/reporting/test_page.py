"""HTML from text: nothing gets out of it."""

from pocket_resnet.reporting import page


def test_text_becomes_html_by_being_escaped() -> None:
    assert page.element("p", "a < b", page.element("b", "&")) == "<p>a &lt; b<b>&amp;</b></p>"
    assert page.element("p", class_='x" onload="y') == '<p class="x&quot; onload=&quot;y"></p>'
    assert page.table(("a",), [["<td>"]], "t").count("<td") == 1
    assert page.table(("a",), [], "t") == ""
