// SPDX-License-Identifier: GPL-2.0
/*
 * Finds the packets that IPVS drops instead of opening a flow.
 *
 * ip_vs_in_hook() looks its entry up, decides, and returns a verdict. By then the entry may be
 * gone, so it is noted at the lookup, under the packet's address in memory, and read again
 * where the verdict is NF_DROP: only then does the packet surely still exist, for whoever asked
 * for the verdict has yet to free it.
 *
 * A note is left behind by every packet that is not dropped. It cannot be taken for another
 * packet's that comes to lie at the same address: a note is written or taken away for each
 * packet that opens a flow, and a packet that opens none has another transport header.
 */

#include "kernel.h"
#include "record.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

/* A field whatever its size is in this kernel */
#define READ(from, field) BPF_CORE_READ_BITFIELD_PROBED(from, field)

/* The one to watch; 0: all */
u32 only_netns SEC(".data") = 0;

/* Records that found no room */
u64 missed = 0;

/* As much of TCP, UDP, and SCTP with its first chunk's type, as tells what a packet opens */
union transport {
	u8 bytes[16];
	u64 words[2];
};

struct note {
	struct record record;
	union transport transport;
	u32 offset;
	u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, u64);
	__type(value, struct note);
} notes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} records SEC(".maps");

static __always_inline union transport transport_at(const struct sk_buff *skb, u32 offset)
{
	union transport transport = {};

	/* A UDP datagram may end before that, the memory behind it does not */
	bpf_probe_read_kernel(&transport, sizeof(transport), skb->data + offset);
	return transport;
}

static __always_inline bool opens_flow(int protocol, const union transport *transport)
{
	enum { FIN = 0x01, SYN = 0x02, RST = 0x04, ACK = 0x10, INIT = 1 };

	switch (protocol) {
	case IPPROTO_TCP:
		return (transport->bytes[13] & (FIN | SYN | RST | ACK)) == SYN;
	case IPPROTO_SCTP:
		return transport->bytes[12] == INIT;
	case IPPROTO_UDP:
		return true;
	default:
		return false;
	}
}

static __always_inline bool is_watched(u32 netns)
{
	return !only_netns || netns == only_netns;
}

static __always_inline bool is_available(const struct ip_vs_dest *dest)
{
	u64 flags;

	if (bpf_core_field_exists(dest->cflags))
		flags = READ(dest, cflags);
	else
		flags = READ(dest, flags);
	return flags & IP_VS_DEST_AVAILABLE;
}

static __always_inline void note_entry(struct record *to, struct ip_vs_conn *conn)
{
	struct netns_ipvs *ipvs = BPF_CORE_READ(conn, ipvs);
	struct ip_vs_dest *dest = BPF_CORE_READ(conn, dest);

	to->known = ENTRY;
	to->state = READ(conn, state);
	to->flags = READ(conn, flags);
	if (BPF_CORE_READ(conn, control))
		to->known |= CONTROLLED;
	if (READ(conn, n_control.counter))
		to->known |= CONTROLLING;

	to->daf = READ(conn, daf);
	to->dport = BPF_CORE_READ(conn, dport);
	BPF_CORE_READ_INTO(&to->server, conn, daddr);
	if (dest) {
		to->known |= SERVER;
		if (is_available(dest))
			to->known |= AVAILABLE;
		to->weight = READ(dest, weight.counter);
	}
	to->conn_reuse_mode = READ(ipvs, sysctl_conn_reuse_mode);
	to->expire_nodest_conn = READ(ipvs, sysctl_expire_nodest_conn);
}

/* The conntrack that the packet came on. IPVS has changed nothing of it that is read here. */
static __always_inline void read_conntrack(struct record *to, const struct sk_buff *skb)
{
	struct nf_conn *ct;

	if (!bpf_core_field_exists(skb->_nfct))
		return;
	ct = (struct nf_conn *)(skb->_nfct & NFCT_PTRMASK);
	if (!ct)
		return;
	to->known |= CONNTRACK;
	to->ct_status = READ(ct, status);
	if (to->protocol == IPPROTO_TCP)
		to->ct_state = READ(ct, proto.tcp.state);
	else if (to->protocol == IPPROTO_SCTP)
		to->ct_state = READ(ct, proto.sctp.state);
}

/* Room for a record, or its absence counted */
static __always_inline struct record *reserve(void)
{
	struct record *record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);

	if (!record)
		__sync_fetch_and_add(&missed, 1);
	return record;
}

/*
 * Called for every packet that comes to IPVS, and for the packets that ICMP errors quote.
 * ip_vs_reuse calls it too, before conntrack: what is noted then is overwritten when the
 * packet comes to IPVS itself.
 */
SEC("fexit/ip_vs_conn_in_get_proto")
int BPF_PROG(looked_up, struct netns_ipvs *ipvs, int af, const struct sk_buff *skb,
	     const struct ip_vs_iphdr *iph, struct ip_vs_conn *conn)
{
	u64 key = (u64)skb;
	u32 netns, offset = iph->len;
	union transport transport;

	if (iph->hdr_flags & IP_VS_HDR_ICMP || iph->fragoffs)
		return 0;
	transport = transport_at(skb, offset);
	if (!opens_flow(iph->protocol, &transport))
		return 0;
	netns = BPF_CORE_READ(ipvs, net, ns.inum);
	if (!is_watched(netns))
		return 0;

	/* Every datagram may open a flow; on an entry that is well it does not */
	if (iph->protocol == IPPROTO_UDP && conn) {
		struct ip_vs_dest *dest = BPF_CORE_READ(conn, dest);

		if (!dest || is_available(dest)) {
			bpf_map_delete_elem(&notes, &key);
			return 0;
		}
	}

	struct note note = {
		.record.netns = netns,
		.record.kind = DROP,
		.record.protocol = iph->protocol,
		.record.af = af,
		.transport = transport,
		.offset = offset,
	};

	BPF_CORE_READ_INTO(&note.record.client, iph, saddr);
	BPF_CORE_READ_INTO(&note.record.virtual, iph, daddr);
	__builtin_memcpy(&note.record.cport, transport.bytes, 2);
	__builtin_memcpy(&note.record.vport, transport.bytes + 2, 2);
	if (conn)
		note_entry(&note.record, conn);
	bpf_map_update_elem(&notes, &key, &note, BPF_ANY);
	return 0;
}

static __always_inline int decided(const struct sk_buff *skb, u32 verdict)
{
	u64 key = (u64)skb;
	union transport transport;
	struct record *record;
	struct note *note;

	if ((verdict & NF_VERDICT_MASK) != NF_DROP)
		return 0;
	note = bpf_map_lookup_elem(&notes, &key);
	if (!note)
		return 0;
	transport = transport_at(skb, note->offset);
	if (transport.words[0] == note->transport.words[0] &&
	    transport.words[1] == note->transport.words[1]) {
		record = reserve();
		if (record) {
			*record = note->record;
			record->time = bpf_ktime_get_ns();
			read_conntrack(record, skb);
			bpf_ringbuf_submit(record, 0);
		}
	}
	bpf_map_delete_elem(&notes, &key);
	return 0;
}

/* Since Linux 5.16 */
SEC("fexit/ip_vs_in_hook")
int BPF_PROG(hook_decided, void *priv, struct sk_buff *skb, const struct nf_hook_state *state,
	     u32 verdict)
{
	return decided(skb, verdict);
}

/* Before that */
SEC("fexit/ip_vs_in")
int BPF_PROG(in_decided, struct netns_ipvs *ipvs, u32 hooknum, struct sk_buff *skb, int af,
	     u32 verdict)
{
	return decided(skb, verdict);
}

/* The tracepoint of ip_vs_reuse, rust/trace/events.h */
SEC("raw_tp")
int BPF_PROG(evicted, struct ip_vs_conn *conn, const char *reason)
{
	u32 netns = BPF_CORE_READ(conn, ipvs, net, ns.inum);
	struct record *record;

	if (!is_watched(netns))
		return 0;
	record = reserve();
	if (!record)
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->time = bpf_ktime_get_ns();
	record->netns = netns;
	record->kind = EVICT;
	record->protocol = READ(conn, protocol);
	record->af = READ(conn, af);
	BPF_CORE_READ_INTO(&record->client, conn, caddr);
	BPF_CORE_READ_INTO(&record->virtual, conn, vaddr);
	record->cport = BPF_CORE_READ(conn, cport);
	record->vport = BPF_CORE_READ(conn, vport);
	note_entry(record, conn);
	bpf_probe_read_kernel_str(&record->reason, sizeof(record->reason), reason);
	bpf_ringbuf_submit(record, 0);
	return 0;
}
