// SPDX-License-Identifier: GPL-2.0
/*
 * Finds the packets that IPVS drops instead of opening a flow, those that conntrack drops after
 * IPVS has scheduled them, and the answers that IPVS translates by the wrong connection.
 *
 * ip_vs_in_hook() looks up the connection entry, decides, and returns a verdict. By then the entry
 * may be freed. So the lookup leaves a note, keyed by the packet's address in memory, and the note
 * is read when the verdict is NF_DROP. With any other verdict the packet may be freed already;
 * with NF_DROP it still exists, because netfilter frees it only after the hook has returned.
 *
 * A packet that is not dropped leaves its note behind. No other packet at the same address can
 * be taken for it: the lookup writes or deletes the note of each packet that opens a flow, and a
 * packet that opens none has another transport header.
 *
 * A packet that is replayed is never reported as dropped for the conntrack that it came with.
 * The hook that replays it returns NF_STOLEN, and the packet's second lookup overwrites the note.
 * If IPVS then drops the packet for another reason, that is a drop of its own.
 */

#include "kernel.h"
#include "record.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

/* Reads a field, whatever its size is in this kernel */
#define READ(from, field) BPF_CORE_READ_BITFIELD_PROBED(from, field)

/* The network namespace to watch; 0: all */
u32 only_netns SEC(".data") = 0;

/* Records that did not fit into the ring buffer */
u64 missed = 0;

/* The start of TCP, UDP, or SCTP with its first chunk's type: enough to tell what a packet opens */
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

	/* A UDP datagram may be shorter, but the memory behind it can be read */
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

static __always_inline struct nf_conn *conntrack_of(const struct sk_buff *skb)
{
	if (!bpf_core_field_exists(skb->_nfct))
		return NULL;
	return (struct nf_conn *)(skb->_nfct & NFCT_PTRMASK);
}

/* The packet's conntrack. IPVS has not changed anything of it that is read here. */
static __always_inline void read_conntrack(struct record *to, const struct sk_buff *skb)
{
	struct nf_conn *ct = conntrack_of(skb);

	if (!ct)
		return;
	to->known |= CONNTRACK;
	to->ct_status = READ(ct, status);
	if (to->protocol == IPPROTO_TCP)
		to->ct_state = READ(ct, proto.tcp.state);
	else if (to->protocol == IPPROTO_SCTP)
		to->ct_state = READ(ct, proto.sctp.state);
}

/* Returns room for a record, or NULL after counting a missed one */
static __always_inline struct record *reserve(void)
{
	struct record *record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);

	if (!record)
		__sync_fetch_and_add(&missed, 1);
	return record;
}

/*
 * IPVS calls the lookup for every packet, and for packets quoted in ICMP errors.
 *
 * On a stock kernel the hook of ip_vs_reuse calls it too, just before IPVS does, but only for
 * packets that may open a flow and carry a confirmed conntrack. If the hook lets the packet go on,
 * IPVS's own lookup overwrites the note.
 *
 * A replayed packet is looked up once more: when it comes from the receive queue, or, if this
 * machine sends it, before the first pass has returned.
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

	/* Any datagram may open a flow, but not while its entry has a server that is available */
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

/* Sends a record about an entry, unless that is not watched */
static __always_inline void report_entry(enum kind kind, struct ip_vs_conn *conn,
					 const struct sk_buff *skb, const char *reason)
{
	u32 netns = BPF_CORE_READ(conn, ipvs, net, ns.inum);
	struct record *record;

	if (!is_watched(netns))
		return;
	record = reserve();
	if (!record)
		return;
	__builtin_memset(record, 0, sizeof(*record));
	record->time = bpf_ktime_get_ns();
	record->netns = netns;
	record->kind = kind;
	record->protocol = READ(conn, protocol);
	record->af = READ(conn, af);
	BPF_CORE_READ_INTO(&record->client, conn, caddr);
	BPF_CORE_READ_INTO(&record->virtual, conn, vaddr);
	record->cport = BPF_CORE_READ(conn, cport);
	record->vport = BPF_CORE_READ(conn, vport);
	note_entry(record, conn);
	if (skb)
		read_conntrack(record, skb);
	if (reason)
		bpf_probe_read_kernel_str(&record->reason, sizeof(record->reason), reason);
	bpf_ringbuf_submit(record, 0);
}

/* The tracepoint ip_vs_reuse_replay, rust/trace/events.h */
SEC("raw_tp")
int BPF_PROG(replayed, struct ip_vs_conn *conn, const char *reason)
{
	report_entry(REPLAY, conn, NULL, reason);
	return 0;
}

/*
 * IPVS calls this for a packet that it could not schedule, and drops the packet then. While
 * ip_vs_edit_service() switches the scheduler, there is none.
 */
SEC("fentry/ip_vs_leave")
int BPF_PROG(not_scheduled, struct ip_vs_service *svc, struct sk_buff *skb)
{
	u64 key = (u64)skb;
	struct note *note;

	if (svc->scheduler)
		return 0;
	note = bpf_map_lookup_elem(&notes, &key);
	if (note)
		note->record.known |= UNSCHEDULED;
	return 0;
}

/*
 * Conntrack calls this for the first packet of each flow, when the packet leaves. It drops a TCP
 * or SCTP packet if another conntrack has the same addresses. IPVS has marked its packets.
 */
SEC("fexit/__nf_conntrack_confirm")
int BPF_PROG(confirmed, struct sk_buff *skb, int verdict)
{
	const struct nf_conntrack_tuple *original, *reply;
	struct record *record;
	struct nf_conn *ct;
	u32 netns;

	if ((verdict & NF_VERDICT_MASK) != NF_DROP || !READ(skb, ipvs_property))
		return 0;
	ct = conntrack_of(skb);
	if (!ct)
		return 0;
	netns = BPF_CORE_READ(ct, ct_net.net, ns.inum);
	if (!is_watched(netns))
		return 0;
	record = reserve();
	if (!record)
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->time = bpf_ktime_get_ns();
	record->netns = netns;
	record->kind = CLASH;
	original = &ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple;
	reply = &ct->tuplehash[IP_CT_DIR_REPLY].tuple;
	record->protocol = READ(original, dst.protonum);
	record->af = READ(original, src.l3num);
	record->daf = record->af;
	BPF_CORE_READ_INTO(&record->client, original, src.u3);
	BPF_CORE_READ_INTO(&record->virtual, original, dst.u3);
	BPF_CORE_READ_INTO(&record->server, reply, src.u3);
	record->cport = BPF_CORE_READ(original, src.u.all);
	record->vport = BPF_CORE_READ(original, dst.u.all);
	record->dport = BPF_CORE_READ(reply, src.u.all);
	read_conntrack(record, skb);
	bpf_ringbuf_submit(record, 0);
	return 0;
}

static __always_inline bool same_address(const union nf_inet_addr *a, const union nf_inet_addr *b)
{
	u64 left[2], right[2];

	bpf_probe_read_kernel(left, sizeof(left), a);
	bpf_probe_read_kernel(right, sizeof(right), b);
	return left[0] == right[0] && left[1] == right[1];
}

/*
 * IPVS calls this for each answer that it has translated by the entry `conn`, which it has found by
 * the addresses of server and client. Conntrack knows what the client has addressed: if that is not
 * the virtual service of the entry, the client does not take the answer. With DNAT in front of IPVS
 * it may be any address.
 */
SEC("fentry/ip_vs_update_conntrack")
int BPF_PROG(translated, struct sk_buff *skb, struct ip_vs_conn *conn, int outin)
{
	struct nf_conn *ct = conntrack_of(skb);
	const struct nf_conntrack_tuple *original;
	__be16 port;

	if (outin || !ct || (skb->_nfct & NFCT_INFOMASK) < IP_CT_IS_REPLY)
		return 0;
	original = &ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple;
	port = BPF_CORE_READ(original, dst.u.all);
	if (port == conn->vport && same_address(&original->dst.u3, &conn->vaddr))
		return 0;
	if ((READ(conn, flags) & IP_VS_CONN_F_FWD_MASK) != IP_VS_CONN_F_MASQ ||
	    READ(ct, status) & IPS_DST_NAT)
		return 0;
	if (port == conn->dport && same_address(&original->dst.u3, &conn->daddr))
		report_entry(DIRECT, conn, skb, NULL);
	else
		report_entry(OTHER_SERVICE, conn, skb, NULL);
	return 0;
}
