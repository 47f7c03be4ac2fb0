"""Addresses of network sources, such as ``rtsp://user:password@host/stream``: what may be shown of them."""

import logging
import re

HIDDEN = "***"
_SCHEME = r"\b([a-z][a-z0-9+.-]+:/{1,2})"
# Up to the last @ of the word, since a password may hold a / or another @, and where the whole text is an address also
# a blank; a query may hold a password or a token.
_USER = re.compile(rf"\A{_SCHEME}.*@|{_SCHEME}\S*@", re.IGNORECASE)
_QUERY = re.compile(_SCHEME + r"([^\s?#'\"]*)[?#][^\s'\"]*", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """The text in which user, password, query and fragment of each address are ``***``; other text is unchanged."""
    return _QUERY.sub(rf"\1\2?{HIDDEN}", _USER.sub(lambda found: f"{found[1] or found[2]}{HIDDEN}@", text))


class SecretsHidden(logging.Formatter):
    """Formats log messages, and the tracebacks that come with them, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))
