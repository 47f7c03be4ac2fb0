"""What is shown of the addresses of network sources: never a user, a password or a query."""

import logging

import pytest

from utils.addresses import without_secrets
from utils.command import OneLineParser, last_line, log_to_stderr
from utils.errors import DataError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.1:554/live", "rtsp://***@10.0.0.1:554/live"),
        ("RTSP://admin@cam/live", "RTSP://***@cam/live"),
        ("rtsp://admin:pa/ss@w@rd@cam/live", "rtsp://***@cam/live"),  # a password that was not escaped
        ("rtsp://admin:a secret@cam/live", "rtsp://***@cam/live"),
        ("http://cam/video.cgi?user=a&pwd=secret", "http://cam/video.cgi?***"),
        ("http://cam/live#token=secret", "http://cam/live?***"),
        ("http:/admin:secret@cam/x is absent", "http:/***@cam/x is absent"),  # as Path writes it
        (
            "--stream 'http://a:secret@cam/x?k=secret' --savedir 'a b'",
            "--stream 'http://***@cam/x?***' --savedir 'a b'",
        ),
        ("a of udp://u:secret@1.2.3.4:5 and b of tcp://x:secret@h", "a of udp://***@1.2.3.4:5 and b of tcp://***@h"),
    ],
)
def test_secrets_are_not_shown(text, shown):
    assert without_secrets(text) == shown


@pytest.mark.parametrize("text", ["rtsp://cam/live", "frames@2x/%06d.png?", "C:/a@b", "me@mail.org", "notes: a/b@c"])
def test_other_text_is_unchanged(text):
    assert without_secrets(text) == text


def test_no_message_shows_a_secret(capsys):
    address = "rtsp://admin:hunter2@cam/live?key=hunter2"
    log_to_stderr()
    try:
        raise OSError(5, "Input/output error", address)
    except OSError:
        logging.getLogger("a").exception("%s went away", address)
    print(last_line(DataError(f"{address} does not answer"), "main.py"))
    with pytest.raises(SystemExit):
        OneLineParser("main.py").parse_args([address])
    shown = capsys.readouterr()
    assert "hunter2" not in shown.out + shown.err
    assert (shown.out + shown.err).count("rtsp://***@cam/live") == 4
