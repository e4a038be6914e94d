"""A name server for the tests, over UDP at 127.0.0.1:53: says "ready", and answers until it is ended.

nameserver.py: n0.db.example to n9999.db.example have an address each, and a few names more are below. What is not there does not
exist.
"""
import re
import socket
import struct

A, CNAME, AAAA = 1, 5, 28
ZONE = {
    "one.example": [(A, "127.3.0.1")],
    "two.example": [(A, "127.3.0.1")],
    "other.net": [(A, "127.3.0.1")],
    "v6.example": [(AAAA, "::1")],
    "mapped.example": [(AAAA, "::ffff:127.3.0.6")],
    "several.example": [(A, "127.3.1.%d" % last) for last in range(1, 9)],
    "alias.example": [(CNAME, "lb.other.net"), (CNAME, "deep.lb.other.net"), (A, "127.3.0.2")],
    "lb.other.net": [(A, "127.3.0.3")],
    "a.b.suffix.example": [(A, "127.3.0.4")],
    "suffix.example": [(A, "127.3.0.5")],
    "full.search.example": [(A, "127.3.0.7")],
    "single": [(A, "127.3.0.8")],
}


def wire(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def records(name):
    number = re.fullmatch(r"n(\d{1,4})\.db\.example", name)
    if number:
        number = int(number[1])
        return [(A, "127.1.%d.%d" % (number // 250, 1 + number % 250))]
    return ZONE.get(name)


def answer(query):
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    name = ".".join(labels)
    (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
    found = records(name)
    told, owner = [], b"\xc0\x0c"
    for of, value in found or []:
        if of == CNAME:
            # Names in full, as some servers write them.
            told.append(owner + struct.pack("!HHIH", CNAME, 1, 60, len(wire(value))) + wire(value))
            owner = wire(value)
        elif of == kind:
            data = socket.inet_pton(socket.AF_INET if of == A else socket.AF_INET6, value)
            told.append(owner + struct.pack("!HHIH", of, 1, 60, len(data)) + data)
    flags = 0x8580 if found is not None else 0x8583
    head = query[:2] + struct.pack("!HHHHH", flags, 1, len(told), 0, 0)
    return head + query[12 : at + 5] + b"".join(told)


server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    query, peer = server.recvfrom(4096)
    server.sendto(answer(query), peer)
