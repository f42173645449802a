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

#define NFCT_INFOMASK	7UL
#define NFCT_PTRMASK	~NFCT_INFOMASK
#define IP_CT_IS_REPLY	3

#define IP_CT_DIR_ORIGINAL	0
#define IP_CT_DIR_REPLY		1

#define IPS_DST_NAT	0x20

#define IP_VS_HDR_ICMP		2
#define IP_VS_CONN_F_FWD_MASK	0x0007
#define IP_VS_CONN_F_MASQ	0x0000
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
	u8 ipvs_property : 1;
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

union nf_conntrack_man_proto {
	__be16 all;
};

struct nf_conntrack_man {
	union nf_inet_addr u3;
	union nf_conntrack_man_proto u;
	u16 l3num;
};

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__be16 all;
		} u;
		u8 protonum;
	} dst;
};

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
};

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
	struct {
		struct net *net;
	} ct_net;
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

struct ip_vs_service {
	void *scheduler;
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
