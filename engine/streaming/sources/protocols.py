"""The protocols of network streams. Imports no PyAV."""

import re

# The protocols that an address may be of, and those that a connection of it may use: a playlist or a description of a
# session names further addresses, and none of them may be a file of this machine.
MAY_USE = {
    "rtsp": "rtsp,rtp,rtcp,udp,tcp",
    "rtsps": "rtsps,rtsp,rtp,rtcp,udp,tcp,tls",
    "http": "http,https,tcp,tls,crypto,httpproxy",
    "https": "http,https,tcp,tls,crypto,httpproxy",
    "udp": "udp",
    "tcp": "tcp",
}
OPTIONS = {
    "rtsp": {"rtsp_transport": "tcp"},  # no picture is torn where a packet is lost
    "rtsps": {"rtsp_transport": "tcp"},
    "udp": {"overrun_nonfatal": "1"},
}


def protocol_of(address: str) -> str:
    """The protocol of an address, such as ``rtsp``; empty for what is none."""
    found = re.match(r"([a-z]+)://", address, re.IGNORECASE)
    return found[1].lower() if found else ""


def is_network_address(source: str) -> bool:
    """Whether a text is an address of a protocol that a stream can be read by."""
    return protocol_of(source) in MAY_USE
