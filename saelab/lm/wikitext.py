"""Encyclopaedia articles as plain text: a MediaWiki dump in, one parquet row per article out.

Imported only where a dump is converted: it needs mwparserfromhell and pyarrow.
"""

from __future__ import annotations

import bz2
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import mwparserfromhell
import pyarrow as pa
import pyarrow.parquet as pq
from mwparserfromhell import nodes
from mwparserfromhell.wikicode import Wikicode

from saelab.errors import SaelabError

Section = tuple[int, str, str]  # level of the heading, heading, text below it

_DROPPED_TAGS = frozenset(
    [
        "gallery",
        "hiero",
        "imagemap",
        "math",
        "ref",
        "references",
        "score",
        "table",
        "td",
        "th",
        "timeline",
        "tr",
    ]
)
_BLOCK_TAGS = frozenset(["blockquote", "br", "center", "div", "hr", "p", "poem", "pre", "source", "syntaxhighlight"])
_DROPPED_LINK = re.compile(r"\s*:?\s*(file|image|media|category|special|talk)\s*:", re.IGNORECASE)
_INTERLANGUAGE = re.compile(r"\s*(simple|be-x-old|zh-[a-z-]+|[a-z]{2,3})\s*:(?!\s)")
_APPARATUS = re.compile(
    r"(external links?|(additional |notes and )?references|(foot|end)?notes|citations|sources|bibliography"
    r"|(reference )?literature|see also|further reading)$",
    re.IGNORECASE,
)

# Templates that belong to the sentence are these and _WORDS below; every other one is furniture and goes.
_SYMBOLS = {
    **dict.fromkeys(("nbsp", "spaces", "thinsp", "space", "nnbsp"), " "),
    **dict.fromkeys(("snd", "spaced ndash", "ndash", "–"), " – "),
    **dict.fromkeys(("mdash", "mdashb", "—"), "—"),
    **{"'": "'", "'s": "'s", "' \"": "' \"", "\" '": "\" '", '-"': '"', "eqm": "⇌", "·": "·", "dot": " · "},
}
_UNITS = {
    "C": "°C",
    "F": "°F",
    "km2": "km²",
    "m2": "m²",
    "m3": "m³",
    "sqmi": "square miles",
    "e6acre": "million acres",
    "oilbbl": "barrels",
    "koilbbl": "thousand barrels",
    "Moilbbl": "million barrels",
    "Goilbbl": "billion barrels",
    "oilbbl/d": "barrels per day",
    "koilbbl/d": "thousand barrels per day",
    "Moilbbl/d": "million barrels per day",
}
_RANGES = frozenset(["to", "to(-)", "and", "and(-)", "or", "by", "x", "×", "-", "–", "+/-"])

_COMMENT_OR_REFERENCE = re.compile(r"<!--.*?-->|<ref\b[^<>]*/>|<ref\b[^<>]*>.*?</ref\s*>", re.DOTALL | re.IGNORECASE)
_INNERMOST_TABLE = re.compile(r"^[ :*]*\{\|(?:(?!^[ :*]*\{\|).)*?^\s*\|\}(?!\})", re.MULTILINE | re.DOTALL)
_TIDYING = [
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in [
        (r"'''(?=s\b)", "'"),
        (r"'{2,}", ""),
        (r"[^\S\n]+", " "),
        (r"\((?:[\s,;:–-]|or|and)*\)", ""),  # what only held a pronunciation or a formula
        (r"\((?:\s*[,;:])+\s*", "("),
        (r"[\s,;:]+\)", ")"),
        (r"\(\s+", "("),
        (r" +([,.;:!?])(?=\s|$)", r"\1"),
        (r"([,;:])(?:\s*[,;])+(?=\s)", r"\1"),
        (r" {2,}", " "),
        (r"__[A-Z]+__", ""),
        (r"\[\[(?:File|Image):[^\[\]]*\]\]", ""),
        (r"</?(?:big|blockquote|br|center|code|div|li|ol|p|poem|ref|small|span|su[bp]|ul)\b[^<>\n]*>", ""),
        (r"\[\[|\]\]", ""),
        (r"^(?:[|!]|\{\|).*$", ""),  # rows of a table that was never opened or closed
        (r"^[ *#:;•·,)]+|^[.–-] ", ""),  # list items whose first words were a citation
        (r"^[\W_]+$", ""),
        (r" +$", ""),
        (r"\n{3,}", "\n\n"),
    ]
]


def articles(dump: Path) -> Iterator[tuple[str, str]]:
    """Title and wikitext of every page of a `.xml.bz2` dump that is not a redirect.

    Raises:
        SaelabError: not such a dump, or one that brings a DTD (and with it entities to expand).
    """
    try:
        with bz2.open(dump) as file:
            root = ET.parse(file, ET.XMLParser(target=_WithoutDtd())).getroot()
    except (ET.ParseError, OSError, EOFError) as error:
        raise SaelabError(f"not a readable MediaWiki dump: {error}", where=str(dump)) from error
    for page in root.iterfind("{*}page"):
        if page.find("{*}redirect") is None:
            yield page.findtext("{*}title", ""), page.findtext("{*}revision/{*}text", "")


class _WithoutDtd(ET.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise SaelabError(f"this dump declares a document type ('{name}'), which is not read for safety")


def clean(wikitext: str) -> str:
    """Plain text of one article: paragraphs, list items and headings, each on a line of its own."""
    text = _plain(mwparserfromhell.parse(_without_tables_and_references(wikitext)))
    intro, *rest = re.split(r"\0(\d)(.*)\n", text)  # _node marks headings with that 0
    sections = [
        (int(level), _tidy(title), _tidy(body))
        for level, title, body in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
    ]
    kept = _without_empty(_without_apparatus(sections))
    return _tidy("\n\n".join([intro, *(f"{title}\n\n{body}" for _, title, body in kept)]))


def convert(sources: Sequence[Path], target: Path) -> None:
    """Write `wikipedia.parquet` (title, text) of the first source, a dump, and copy the others beside it."""
    rows = [{"title": title, "text": clean(wikitext)} for title, wikitext in articles(sources[0])]
    pq.write_table(pa.Table.from_pylist(rows), target / "wikipedia.parquet")
    for source in sources[1:]:
        shutil.copyfile(source, target / source.name)


def _without_tables_and_references(wikitext: str) -> str:
    """By pattern, because the parser hands back the source of whatever is not quite balanced."""
    wikitext, found = _COMMENT_OR_REFERENCE.sub("", wikitext), 1
    while found:
        wikitext, found = _INNERMOST_TABLE.subn("", wikitext)
    return wikitext


def _without_apparatus(sections: Iterable[Section]) -> Iterator[Section]:
    """Leave out reference lists and the like, with everything under them."""
    inside: int | None = None
    for section in sections:
        level, title, _ = section
        if inside is not None and level > inside:
            continue
        inside = level if _APPARATUS.match(title) else None
        if inside is None:
            yield section


def _without_empty(sections: Iterable[Section]) -> list[Section]:
    """Leave out headings that are followed by nothing, or only by one of the same or a higher level."""
    kept: list[Section] = []
    for section in reversed(list(sections)):
        if section[2] or (kept and kept[-1][0] > section[0]):
            kept.append(section)
    return kept[::-1]


def _tidy(text: str) -> str:
    for pattern, replacement in _TIDYING:
        text = pattern.sub(replacement, text)
    return text.strip()


def _plain(code: Wikicode | None) -> str:
    return "".join(map(_node, code.nodes)) if code is not None else ""


def _node(node: nodes.Node) -> str:
    match node:
        case nodes.Text():
            return str(node)
        case nodes.HTMLEntity():
            return node.normalize() or ""
        case nodes.Heading():
            return f"\n\0{node.level}{_plain(node.title)}\n"
        case nodes.Wikilink():
            title = str(node.title)
            dropped = _DROPPED_LINK.match(title) or (node.text is None and _INTERLANGUAGE.match(title))
            return "" if dropped else _plain(node.text or node.title)
        case nodes.ExternalLink():
            return _plain(node.title)
        case nodes.Tag():
            return _tag(node)
        case nodes.Template():
            return _template(node)
        case _:  # comments, arguments
            return ""


def _tag(tag: nodes.Tag) -> str:
    name = str(tag.tag).strip().lower()
    if name in _DROPPED_TAGS:
        return ""
    text = _plain(tag.contents)
    if name in _BLOCK_TAGS:
        return f"\n{text}\n"
    if name == "sup" and re.fullmatch(r"[−–-]?[\dn]+", text):
        return f"^{text}"
    return text


def _template(template: nodes.Template) -> str:
    name = str(template.name).strip().lower()
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    words = [_plain(parameter.value).strip() for parameter in template.params if not parameter.showkey]
    keep = _WORDS.get("lang-" if name.startswith("lang-") else name)
    if keep is None or not words:
        return ""
    if name == "as of" and template.has("lc"):
        return f"as of {words[0]}"
    if name == "val" and template.has("e"):
        return f"{words[0]}×10^{template.get('e').value}"
    return keep(words)


def _quantity(words: list[str]) -> str:
    *quantity, unit = words[: 4 if len(words) > 3 and words[1] in _RANGES else 2]
    return " ".join([*quantity, _UNITS.get(unit, unit)])


def _fraction(words: list[str]) -> str:
    return {1: "1/{0}", 2: "{0}/{1}"}.get(len(words), "{0} {1}/{2}").format(*words)


_FIRST = (
    *("abbr", "angbr", "big", "em", "ipa", "lang-", "large", "midsize", "nihongo", "nobr", "nowrap"),
    *("sc", "small", "smaller", "uss", "val", "vanchor", "vr"),
)
_WORDS: dict[str, Callable[[list[str]], str]] = {
    **dict.fromkeys(_FIRST, lambda words: words[0]),
    **dict.fromkeys(("lang", "linktext", "rtl-lang", "script", "transl"), lambda words: words[-1]),
    **dict.fromkeys(("blockquote", "cquote", "quotation", "quote"), lambda words: f"\n{words[0]}\n"),
    "as of": lambda words: f"As of {words[0]}",
    "chem": "".join,
    "convert": _quantity,
    "e": lambda words: f"×10^{words[0]}",
    "frac": _fraction,
    "oldstyledate": lambda words: ", ".join(words[:2]),
    "sfrac": _fraction,
}
