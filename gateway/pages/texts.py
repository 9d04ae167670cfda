"""Texts from elsewhere, as a page can show them. Pure."""

import json
import re
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_FIRST_PICTURE, _DELETE, _PICTURE_OF_DELETE, _NO_PICTURE = 0x2400, 0x7F, "\u2421", "\ufffd"


def plain(text: object) -> str:
    """The text, with pictures of the control characters that a browser would leave out, or read as another's end."""
    return _CONTROL.sub(_picture, str(text).replace("\r\n", "\n"))


def written(value: Any) -> str:
    """The value of an attribute: a text as it is, anything else as JSON writes it."""
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(_FIRST_PICTURE + code)
    return _PICTURE_OF_DELETE if code == _DELETE else _NO_PICTURE
