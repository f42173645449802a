/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fields of the kernel's structures that are read, and no others. libbpf finds out where each
 * field is in the running kernel, so the order here means nothing. READ() in watch.bpf.c reads
 * fields whose size differs between kernels.
 */
#ifndef _IPVS_WATCH_KERNEL_H
#define _IPVS_WATCH_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;

enum bpf_map_type {
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};

#define BPF_ANY		0

#define AF_INET		2
#define AF_INET6	10

#define IPPROTO_TCP	6
#define IPPROTO_UDP	17
#define IPPROTO_SCTP	132

#define NF_VERDICT_MASK	0xff
#define NF_DROP		0

#define NFCT_PTRMASK	~7UL

#define IP_VS_HDR_ICMP		2
#define IP_VS_DEST_AVAILABLE	0x0001	/* in cflags, before Linux 7.3 in flags */

/* libbpf matches an enum only with an enum */
enum sctp_conntrack {
	SCTP_CONNTRACK_NONE,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

union nf_inet_addr {
	u8 all[16];
};

struct ns_common {
	u32 inum;
};

struct net {
	struct ns_common ns;
};

struct sk_buff {
	unsigned long _nfct;
	unsigned char *data;
};

struct nf_hook_state;

struct ip_ct_tcp {
	u8 state;
};

struct ip_ct_sctp {
	enum sctp_conntrack state;
};

union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
	struct ip_ct_sctp sctp;
};

struct nf_conn {
	unsigned long status;
	union nf_conntrack_proto proto;
};

struct ip_vs_iphdr {
	int hdr_flags;
	u32 len;
	u16 fragoffs;
	__s16 protocol;
	union nf_inet_addr saddr;
	union nf_inet_addr daddr;
};

struct netns_ipvs {
	struct net *net;
	int sysctl_conn_reuse_mode;
	int sysctl_expire_nodest_conn;
};

struct atomic {
	int counter;
};

struct ip_vs_dest {
	u32 flags;
	unsigned long cflags;
	struct atomic weight;
};

struct ip_vs_conn {
	u8 af;
	u8 daf;
	__be16 cport;
	__be16 vport;
	__be16 dport;
	u16 protocol;
	u16 state;
	u32 flags;
	union nf_inet_addr caddr;
	union nf_inet_addr vaddr;
	union nf_inet_addr daddr;
	struct atomic n_control;
	struct ip_vs_conn *control;
	struct ip_vs_dest *dest;
	struct netns_ipvs *ipvs;
};

#pragma clang attribute pop

#endif /* _IPVS_WATCH_KERNEL_H */
