#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the tests of paths need beside the harness: sockets with options that it does not set.

usage: sockets.py console       as `harness console`, for `reconnect` of TCP with --end server-rst.
                                SOCKET names what its sockets are to have: options, fast-open,
                                mark=N, device=NAME
       sockets.py sniff DEVICE  for each line `PORT` from standard input, prints how many SYNs from
                                that port a packet socket on DEVICE has seen
       sockets.py icmp-errors CLIENT SERVER:PORT
                                for each line `PORT` from standard input, sends SERVER an ICMP error
                                about a TCP packet of its own to that port of CLIENT
"""

import json
import os
import select
import socket
import struct
import sys
import time

MSG_FASTOPEN = 0x20000000
SO_BINDTODEVICE = 25
SO_MARK = 36
IPV6_HOPOPTS = 54
TCP_COMMAND_RST = b"r"
TCP_COMMAND_GREET = b"g"

# Record route, with room for two addresses, and its like: padding.
RECORD_ROUTE = bytes([7, 11, 4]) + bytes(8) + bytes([1])
HOP_BY_HOP = bytes([0, 0, 1, 4, 0, 0, 0, 0])


def address(text):
    """ADDR:PORT, or [ADDR]:PORT."""
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def syns_sent_again():
    """By all sockets of this network namespace."""
    with open("/proc/thread-self/net/netstat", encoding="ascii") as file:
        lines = [line.split() for line in file if line.startswith("TcpExt:")]
    return int(lines[1][lines[0].index("TCPSynRetrans")])


def new_socket(family):
    kind, _, value = os.environ["SOCKET"].partition("=")
    sock = socket.socket(family, socket.SOCK_STREAM)
    if kind == "options" and family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, RECORD_ROUTE)
    elif kind == "options":
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_HOPOPTS, HOP_BY_HOP)
    elif kind == "mark":
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, int(value))
    elif kind == "device":
        sock.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, value.encode() + b"\0")
    return sock, kind == "fast-open"


def connect(source, to, timeout):
    """Connects and is greeted: the socket, the server's name, and the address it has seen."""
    sock, fast_open = new_socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
    sock.bind(source)
    if fast_open:
        # Python cannot wait for what this begins.
        limit = struct.pack("ll", int(timeout), 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        sock.sendto(TCP_COMMAND_GREET, MSG_FASTOPEN, to)
    sock.settimeout(timeout)
    if not fast_open:
        sock.connect(to)
    name, seen_as = sock.makefile().readline().split()
    return sock, name, seen_as


def reconnect(words):
    options = dict(zip(words[::2], words[1::2]))
    source, to = address(options["--from"]), address(options["--to"])
    timeout = float(options.get("--timeout", "5s").rstrip("s"))
    assert options["--end"] == "server-rst"
    sock, first, _ = connect(source, to, timeout)
    sock.sendall(TCP_COMMAND_RST)
    try:
        while sock.recv(4096):
            pass
    except ConnectionResetError:
        pass
    sock.close()
    say({"first": first})
    sys.stdin.readline()

    report = {"first": first, "second": None, "seen_as": None}
    before, start = syns_sent_again(), time.monotonic()
    try:
        sock, report["second"], report["seen_as"] = connect(source, to, timeout)
        error = None
    except OSError as err:
        error = err
    report["ms"] = (time.monotonic() - start) * 1000
    report["syn_retransmits"] = syns_sent_again() - before
    report["connected"] = error is None
    report["timed_out"] = isinstance(error, TimeoutError)
    report["refused"] = isinstance(error, ConnectionRefusedError)
    say(report)
    sock.close()


def say(report):
    print(json.dumps(report, separators=(",", ":")), flush=True)


def console():
    for line in iter(sys.stdin.readline, ""):
        words = line.split()
        assert words[:2] == ["reconnect", "--pause"], line
        try:
            reconnect(words[2:])
        except OSError as error:
            say({"error": f"no first connection: {error}"})


def sniff(device):
    """Counts the SYNs that come in, by their source ports."""
    eth_p_ip = 0x0800
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(eth_p_ip))
    sock.bind((device, eth_p_ip))
    seen = {}
    print("READY", flush=True)
    while True:
        ready, _, _ = select.select([sock, sys.stdin], [], [])
        while select.select([sock], [], [], 0)[0]:
            packet, (_, _, kind, _, _) = sock.recvfrom(2048)
            header = (packet[0] & 0xF) * 4
            if kind == socket.PACKET_HOST and packet[9] == 6 and packet[header + 13] & 0x17 == 2:
                port = int.from_bytes(packet[header : header + 2], "big")
                seen[port] = seen.get(port, 0) + 1
        if sys.stdin in ready:
            line = os.read(sys.stdin.fileno(), 64)
            if not line:
                return
            print(seen.get(int(line), 0), flush=True)


def icmp_errors(client, server):
    server, server_port = address(server)
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.bind((client, 0))
    print("READY", flush=True)
    for line in iter(sys.stdin.readline, ""):
        quoted = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, socket.IPPROTO_TCP, 0)
        quoted += socket.inet_aton(server) + socket.inet_aton(client)
        quoted = quoted[:10] + checksum(quoted) + quoted[12:]
        quoted += struct.pack("!HHI", server_port, int(line), 0)
        error = struct.pack("!BBHI", 3, 3, 0, 0) + quoted
        sock.sendto(error[:2] + checksum(error) + error[4:], (server, 0))


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def main():
    role, *arguments = sys.argv[1:]
    if role == "console":
        console()
    elif role == "sniff":
        sniff(*arguments)
    elif role == "icmp-errors":
        icmp_errors(*arguments)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
