"""Text that a terminal shows as it is: names of files may hold characters that move the cursor or begin a line."""

import copy
import logging
import re

from utils.addresses import SecretsHidden, without_secrets

# Control characters, separators of lines and paragraphs, marks and overrides of direction, halves of characters (which
# stand for bytes of names that are no UTF-8).
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keeps: str = "") -> str:
    """The text with control characters, but for those in ``keeps``, as escapes such as ``\\n`` and ``\\x1b``."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keeps else ascii(found[0])[1:-1], text)


def shown(text: str) -> str:
    """The text as one line for people: without the secrets of addresses, and with control characters as escapes."""
    return printable(without_secrets(text))


class LogFormatter(SecretsHidden):
    """Formats log messages without secrets; control characters in what is filled in are escaped, line breaks too."""

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)
        if isinstance(record.args, tuple):
            record.args = tuple(
                each if isinstance(each, (int, float)) else printable(str(each)) for each in record.args
            )
        return printable(super().format(record), keeps="\n\t")
