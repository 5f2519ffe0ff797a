"""XML of strangers, read within bounds, and XML written by a serializer.

No DOCTYPE, no entity, no network: defusedxml refuses them. Profile: specs/hypervisors/xml.md.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, indent, tostring

from vmpack.binary import escape
from vmpack.errors import DamagedError, UnsafeError
from vmpack.hypervisors.base import MAX_CONFIG

MAX_DEPTH = 64
MAX_ELEMENTS = 200_000
MAX_ATTRIBUTES = 256
"""Of one element."""
XML = "http://www.w3.org/XML/1998/namespace"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARATION = re.compile(r"\A\s*<\?xml\s[^>]{0,200}\?>")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _Bounded(TreeBuilder):
    """A tree that is refused when it grows too deep or too large."""

    def __init__(self, path: str):
        super().__init__()
        self._path = path
        self._depth = self._count = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self._depth += 1
        self._count += 1
        if self._depth > MAX_DEPTH or self._count > MAX_ELEMENTS or len(attrs) > MAX_ATTRIBUTES:
            raise UnsafeError(
                f"its XML is nested more than {MAX_DEPTH} deep, has more than {MAX_ELEMENTS}"
                f" elements, or more than {MAX_ATTRIBUTES} attributes in one",
                path=self._path,
                clause="XML-READ-2",
                hint="no tool writes a machine's config like that",
            )
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag)


def parse(data: bytes, *, path: str) -> Element:
    """The root of an XML document; names of elements and attributes are ``{namespace}local``.

    UTF-8, UTF-16 (by byte-order mark), and any 8-bit encoding that is declared. Raises
    :class:`UnsafeError` for a DOCTYPE, entities, more than 16 MiB and too many or too deeply
    nested elements; :class:`DamagedError` for what is not well-formed.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    if len(data) > MAX_CONFIG:
        raise UnsafeError(
            f"XML of {len(data)} bytes, at most {MAX_CONFIG} are read",
            path=path,
            clause="XML-READ-2",
        )
    parser = DefusedXMLParser(target=_Bounded(path), forbid_dtd=True)
    try:
        parser.feed(_utf8(data))
        root = parser.close()
    except DefusedXmlException as exc:
        raise UnsafeError(
            "has a DOCTYPE or entities, which may stand for other files",
            path=path,
            clause="XML-READ-1",
            hint="no hypervisor writes them: take them out by hand if you trust the file",
        ) from exc
    except (ParseError, ValueError, LookupError) as exc:
        raise DamagedError(
            f"is not well-formed XML: {escape(str(exc)[:200])}",
            path=path,
            clause="XML-READ-3",
            hint="copy it again; xmllint says more",
        ) from exc
    assert isinstance(root, Element)
    return root


def _utf8(data: bytes) -> bytes:
    """The document without byte-order mark; UTF-16 as UTF-8, whatever its declaration says."""
    for mark, encoding in _BOMS:
        if not data.startswith(mark):
            continue
        body = data[len(mark) :]
        if encoding == "utf-8":
            return body
        text = body.decode(encoding)
        return _DECLARATION.sub("", text).encode()
    return data


def head_text(head: bytes) -> str:
    """The first bytes of a file as text, for recognising a config: never raises."""
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return head[len(mark) :].decode(encoding, "replace")
    return head.decode("utf-8", "replace")


def split(name: str) -> tuple[str, str]:
    """``(namespace, local name)`` of a tag or attribute; no namespace: an empty one."""
    if name.startswith("{"):
        space, _, local = name[1:].partition("}")
        return space, local
    return "", name


def local(name: str) -> str:
    """The name without its namespace."""
    return name.rpartition("}")[2]


def legal(text: str) -> str:
    """``text`` with what XML 1.0 cannot hold (section 2.2, Char) replaced by U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)


def element(
    tag: str,
    text: str | None = None,
    attributes: Mapping[str, str | None] | None = None,
    *children: Element,
) -> Element:
    """An element with its prefix in its name (``rasd:Parent``); attributes of ``None`` left out."""
    given = {key: legal(value) for key, value in (attributes or {}).items() if value is not None}
    made = Element(tag, given)
    made.text = None if text is None else legal(text)
    made.extend(children)
    return made


def document(root: Element) -> bytes:
    """The tree as an indented UTF-8 document."""
    indent(root)
    body = tostring(root, encoding="unicode", short_empty_elements=True)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'.encode()
