"""Runs under Debian's own Python with python3-samba: says what Samba's access check says.

Reads one JSON line, a list of tokens (lists of SIDs), then records: token, wanted bits and length as three 32-bit
numbers, and a descriptor. Answers one byte each: 1 granted, 0 denied, 2 not a descriptor.
"""

# mypy: disable-error-code="import-not-found"
import json
import struct
import sys

from samba import NTSTATUSError
from samba.dcerpc import security
from samba.ndr import ndr_unpack
from samba.security import access_check

tokens = []
for sids in json.loads(sys.stdin.buffer.readline()):
    token = security.token()
    token.num_sids = len(sids)
    token.sids = [security.dom_sid(sid) for sid in sids]
    tokens.append(token)

answers = bytearray()
while head := sys.stdin.buffer.read(12):
    number, wanted, length = struct.unpack("<III", head)
    data = sys.stdin.buffer.read(length)
    try:
        parsed = ndr_unpack(security.descriptor, data, allow_remaining=True)
    except (RuntimeError, NTSTATUSError):
        answers.append(2)
        continue
    try:
        access_check(parsed, tokens[number], wanted)
        answers.append(1)
    except NTSTATUSError:
        answers.append(0)
sys.stdout.buffer.write(answers)
