"""One call of the server service, NetrShareGetInfo at level 502, as bytes: the share's own security descriptor.

Pure: the named pipe is `connectors.smb.client`'s.
Source: [MS-SRVS] 3.1.4.10 and 2.2.4.26 (SHARE_INFO_502_I).
"""

from __future__ import annotations

import struct
from typing import Final

from connectors.smb import rpc
from connectors.smb.rpc import Interface, RpcError

SERVER_SERVICE: Final = Interface("srvsvc", "server service", "4b324fc8-1670-01d3-1278-5a47bf6ee188", (3, 0))

_MAX_REPLY: Final = 1 << 20
_SHARE_GET_INFO: Final = 16
_LEVEL: Final = 502


def share_info_request(server: str, share: str) -> bytes:
    """Ask for everything about a share."""
    parameters = struct.pack("<I", 0x20000) + rpc.text(f"\\\\{server}") + rpc.text(share) + struct.pack("<I", _LEVEL)
    return rpc.request(_SHARE_GET_INFO, parameters)


def share_descriptor(fragments: list[bytes]) -> bytes | None:
    """Return the share's descriptor out of the answer, None when the server holds none. Raises RpcError."""
    parameters = rpc.parameters(SERVER_SERVICE, fragments, _MAX_REPLY)
    try:
        return _descriptor(parameters)
    except struct.error as err:
        raise rpc.cut_short(SERVER_SERVICE) from err


def _descriptor(stub: bytes) -> bytes | None:
    (status,) = struct.unpack_from("<I", stub, len(stub) - 4)
    if status != 0:
        raise RpcError("the server service refuses", status)
    level, there = struct.unpack_from("<II", stub)
    if level != _LEVEL or not there:
        raise RpcError("the server service answered another level")
    name, _, remark, _, _, _, path, password, size, descriptor = struct.unpack_from("<10I", stub, 8)
    place = 48
    for pointer in (name, remark, path, password):
        if pointer:
            _, _, count = struct.unpack_from("<3I", stub, place)
            place = (place + 12 + 2 * count + 3) & ~3
    if not descriptor:
        return None
    (count,) = struct.unpack_from("<I", stub, place)
    found = stub[place + 4 : place + 4 + count]
    if count != size or len(found) != count:
        raise RpcError("the answer of the server service is damaged")
    return found
