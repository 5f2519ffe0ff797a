"""Whether a PowerShell script is one, by a grammar that is not vmpack's; and its strings."""

from __future__ import annotations

from collections.abc import Iterator

import tree_sitter_powershell
from tree_sitter import Language, Node, Parser


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _nodes(child)


def _root(script: bytes) -> Node:
    plain = script.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    return Parser(Language(tree_sitter_powershell.language())).parse(plain).root_node


def require_sound(script: bytes) -> None:
    """The script parses without an error."""
    for node in _nodes(_root(script)):
        assert not node.is_missing, f"missing at {node.start_point}"
        assert node.type != "ERROR", f"error at {node.start_point}: {node.text!r}"


def strings(script: bytes) -> list[str]:
    """What the single-quoted strings of the script say."""
    found = []
    for node in _nodes(_root(script)):
        if node.type == "verbatim_string_characters":
            text = (node.text or b"").decode()[1:-1]
            found.append(text.replace("''", "'"))
    return found
