"""Names of arguments, what functions are called, and texts of the docstring task."""

from __future__ import annotations

ARGUMENTS = (
    "load", "size", "file", "last", "test", "port", "name", "data", "path", "key", "value", "line",
    "text", "list", "index", "mode", "user", "time", "group", "field", "table", "event", "order", "type",
    "state", "result", "code", "item", "model", "shape", "node", "color", "width", "height", "length", "count",
    "label", "title", "source", "target", "level", "option", "image", "message", "number", "format", "filter", "limit",
    "page", "query", "root", "scale", "score", "status", "step", "task", "version", "window", "world", "view",
)  # fmt: skip

FUNCTIONS = (
    "run", "set", "get", "make", "send", "read", "write", "open", "close", "move", "find", "draw",
    "build", "check", "start", "stop", "show", "add", "push", "call",
)  # fmt: skip

_DEFINED = "def {function}(self, {before}, {other}, {first}, {second}, {asked}, {after}):\n"
_DESCRIBED = "\n\n    :param {said}: the {place}\n    :param {told}: the {object}\n    :param"

DOCSTRINGS = (
    (
        _DEFINED + '    """Use the {thing} of the house.' + _DESCRIBED,
        _DEFINED + '    """This is for a {thing}.' + _DESCRIBED,
        "Here is the code.\n\n" + _DEFINED + '    """Take a {thing} home.' + _DESCRIBED,
    ),
    (
        "The class has one more method.\n\n" + _DEFINED + '    """Bring the {thing} back.' + _DESCRIBED,
        _DEFINED + '    """Put the {thing} into its place.' + _DESCRIBED,
    ),
)
