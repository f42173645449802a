#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""usage: nfqueue.py NUMBER

Owns the nfqueue NUMBER of this network namespace, and says READY. Accepts each packet at once, from
process context, until standard input says otherwise, a word a line:

  hold    keep the packets that come from here on
  accept  accept those that were kept, and the later ones at once

Ends with its standard input. How many packets wait, and how many there were:
/proc/net/netfilter/nfnetlink_queue. For the tests, which need python3 and the kernel's modules
nfnetlink_queue and nft_queue.
"""

import select
import socket
import struct
import sys

NETLINK_NETFILTER = 12
SO_RCVBUFFORCE = 33
NETLINK_NO_ENOBUFS, SOL_NETLINK = 5, 270
QUEUE = 3 << 8          # NFNL_SUBSYS_QUEUE
PACKET, VERDICT, CONFIG = 0, 1, 2
CFG_CMD, CFG_PARAMS, CFG_QUEUE_MAXLEN = 1, 2, 3
VERDICT_HDR = 2
NF_ACCEPT = 1


class Queue:
    def __init__(self, number):
        self.number = number
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
        self.socket.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
        self.send(CONFIG, CFG_CMD, struct.pack(">BBH", 1, 0, 0))         # bind
        self.send(CONFIG, CFG_PARAMS, struct.pack(">IB", 0, 1))          # no data
        self.send(CONFIG, CFG_QUEUE_MAXLEN, struct.pack(">I", 1 << 16))

    def send(self, kind, attribute, data):
        data = struct.pack("=HH", 4 + len(data), attribute) + data + bytes(-len(data) % 4)
        data = struct.pack(">BBH", 0, 0, self.number) + data
        self.socket.send(struct.pack("=IHHII", 16 + len(data), QUEUE | kind, 1, 0, 0) + data)

    def accept(self, packet):
        self.send(VERDICT, VERDICT_HDR, struct.pack(">II", NF_ACCEPT, packet))

    def next(self):
        """The number of the packet that has come, if it is one."""
        message = self.socket.recv(65536)
        kind, = struct.unpack_from("=H", message, 4)
        # Its header is the first attribute, behind those of netlink and nfnetlink.
        return struct.unpack_from(">I", message, 24)[0] if kind == QUEUE | PACKET else None


def main():
    queue = Queue(int(sys.argv[1]))
    held, hold = [], False
    print("READY", flush=True)
    while True:
        ready = select.select([queue.socket, sys.stdin], [], [])[0]
        if sys.stdin in ready:
            word = sys.stdin.readline()
            if not word:
                return
            hold = word.strip() == "hold"
            while held and not hold:
                queue.accept(held.pop(0))
            print("OK", flush=True)
        if queue.socket in ready:
            packet = queue.next()
            if packet is not None:
                held.append(packet)
            while held and not hold:
                queue.accept(held.pop(0))


main()
