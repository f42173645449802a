/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What goes to user space. src/event.rs declares the same; its tests check the offsets.
 */
#ifndef _IPVS_WATCH_RECORD_H
#define _IPVS_WATCH_RECORD_H

enum kind {
	DROP = 1,	/* IPVS dropped a packet that opens a flow */
	REPLAY = 2,	/* ip_vs_reuse replayed one */
	CLASH = 3,	/* conntrack dropped one that IPVS had scheduled */
	DIRECT = 4,	/* IPVS translated an answer to a client that had addressed the server */
	OTHER_SERVICE = 5, /* or another service */
};

enum {
	ENTRY = 1,		/* IPVS has an entry for it: daf, server, dport, state, flags */
	CONTROLLED = 2,		/* the entry depends on another */
	CONTROLLING = 4,	/* others depend on the entry */
	SERVER = 8,		/* the entry has a real server: weight */
	AVAILABLE = 16,		/* the real server is part of its service */
	CONNTRACK = 32,		/* the packet has a conntrack: ct_status, ct_state */
	UNSCHEDULED = 64,	/* the service has no scheduler */
};

struct record {
	u64 time;	/* of CLOCK_MONOTONIC, ns */
	u32 netns;	/* inode number */
	u8 kind;
	u8 protocol;
	u8 af;		/* of client and virtual */
	u8 daf;		/* of server */
	u8 client[16];
	u8 virtual[16];
	u8 server[16];
	__be16 cport;
	__be16 vport;
	__be16 dport;
	u16 state;
	u32 flags;	/* of the entry: IP_VS_CONN_F_* */
	u32 known;	/* ENTRY, ... */
	s32 weight;
	s32 conn_reuse_mode;
	s32 expire_nodest_conn;
	u32 ct_status;	/* IPS_* */
	u32 ct_state;
	u32 unused;
	char reason[32];	/* of a replay: the name of ip_vs_reuse's counter */
};

static_assert(sizeof(struct record) == 136, "as in src/event.rs");

#endif /* _IPVS_WATCH_RECORD_H */
