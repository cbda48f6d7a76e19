"""Markup: HTML and JATS tags and character references, which publishers leave in titles and abstracts."""

import html
import re

# Tags whose text is in a separate line: a space replaces them
BLOCKS = "p|br|hr|div|h[1-6]|title|sec|section|label|abstract|ul|ol|li|list|list-item|table|tr|td|th|disp-formula"
INLINE = (
    "i|b|u|a|em|strong|sub|sup|small|big|tt|code|span|font|center|italic|bold|sc|monospace|underline|roman|"
    "sans-serif|named-content|styled-content|ext-link|xref|inline-formula|tex-math|math|math-inline"
)
ATTRIBUTES = r"""(?:\s+[\w:-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))*"""
TAG = re.compile(rf"<!--.*?-->|</?(jats:|mml:)?(?:({BLOCKS})|({INLINE})|[a-z][\w-]*){ATTRIBUTES}\s*/?>", re.I | re.S)
EXPONENT = re.compile(r"(?<=\d)<sup>(?=[-+\u2212]?\d)", re.IGNORECASE)  # 10<sup>3</sup> is not 103
REFERENCE = re.compile(r"&(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z][a-z\d]{1,31});", re.IGNORECASE)


def strip(text: str) -> str:
    """A text without tags, and with references such as ``&lt;`` as characters.

    Only tags of HTML, JATS and MathML are removed, so that ``a < b``, ``p<0.05`` and ``<unk>`` stay. One letter in
    angle brackets, as in ``<p>`` for a mean, is a tag only where another tag closes it. Doing it again changes nothing.
    """
    while ("<" in text or "&" in text) and (new := _strip_once(text)) != text:
        text = new
    return text


def _strip_once(text: str) -> str:
    text = EXPONENT.sub("^", REFERENCE.sub(lambda match: html.unescape(match[0]), text))
    closed = {name.lower() for name in re.findall(r"</([A-Za-z])\s*>", text)}

    def replace(tag: re.Match) -> str:
        namespace, block, inline = tag.groups()
        name = (block or inline or "").lower()
        is_letter = len(name) == 1 and not namespace and name not in closed
        is_letter &= name != "p" or bool(tag.start())  # a text that begins with <p> is a paragraph
        if is_letter or not (namespace or name or tag[0].startswith("<!--")):
            return tag[0]
        return " " if block else ""

    return TAG.sub(replace, text)
