// SPDX-License-Identifier: GPL-2.0

//! The text of `--report`: what somebody else needs to know of a director to understand a loss. It
//! has no addresses, unless they are asked for: the same number stands for the same address.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use crate::output::{self, Dated, Tally};

/// How many events it has at most, the newest.
const MOST_EVENTS: usize = 1000;

/// The modules that may have to do with it, by the start of their names.
const MODULES: [&str; 8] = [
    "ip_vs",
    "nf_",
    "nft_",
    "xt_",
    "ip_tables",
    "ip6_tables",
    "iptable_",
    "ip6table_",
];

/// Directories of settings, below /proc/sys. None has an address in it.
const SETTINGS: [&str; 2] = ["net/ipv4/vs", "net/netfilter"];

/// What stands for an address.
struct Addresses {
    are_shown: bool,
    known: HashMap<IpAddr, String>,
}

impl Addresses {
    fn ip(&mut self, ip: IpAddr) -> String {
        if self.are_shown {
            return match ip {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            };
        }
        let next = self.known.len() + 1;
        self.known
            .entry(ip)
            .or_insert_with(|| match ip {
                IpAddr::V4(_) => format!("ipv4-{next}"),
                IpAddr::V6(_) => format!("ipv6-{next}"),
            })
            .clone()
    }

    fn socket(&mut self, address: SocketAddr) -> String {
        format!("{}:{}", self.ip(address.ip()), address.port())
    }

    /// A line of /proc/net/ip_vs.
    fn line(&mut self, line: &str) -> String {
        line.split(' ')
            .map(|word| match hexadecimal(word) {
                Some(address) => self.socket(address),
                None => word.to_owned(),
            })
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// An address and port as /proc/net/ip_vs has them: 0A090001:0050, [fd00:0009:...:0001]:0050.
fn hexadecimal(word: &str) -> Option<SocketAddr> {
    let (ip, port) = word.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip: IpAddr = match ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
        Some(ip) => ip.parse::<Ipv6Addr>().ok()?.into(),
        None if ip.len() == 8 => Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?).into(),
        None => return None,
    };
    Some((ip, port).into())
}

pub struct Report {
    addresses: Addresses,
    events: VecDeque<String>,
    left_out: u64,
}

impl Report {
    pub fn new(with_addresses: bool) -> Self {
        Self {
            addresses: Addresses {
                are_shown: with_addresses,
                known: HashMap::new(),
            },
            events: VecDeque::new(),
            left_out: 0,
        }
    }

    pub fn add(&mut self, dated: &Dated) {
        if self.events.len() == MOST_EVENTS {
            self.events.pop_front();
            self.left_out += 1;
        }
        let event = dated.event;
        let server = match event.server {
            Some(server) => self.addresses.socket(server),
            None => "-".into(),
        };
        // The name of a namespace may be that of a customer: left out.
        self.events.push_back(format!(
            "{} netns {} {} {} {} -> {}, server {server}, IPVS {}, conntrack {}: {}",
            output::time_of_day(dated.time),
            event.netns,
            event.what.token(),
            event.protocol,
            self.addresses.socket(event.client),
            self.addresses.socket(event.virtual_service),
            event.ipvs_state.as_deref().unwrap_or("-"),
            event.conntrack_state.as_deref().unwrap_or("-"),
            event.reason,
        ));
    }

    /// The whole text. `watched` says how long events were watched, or why not. Reads what the kernel
    /// tells below `root` (`/`), in this network namespace.
    pub fn text(mut self, root: &Path, nat: &str, watched: &str, tally: &Tally) -> String {
        let proc = root.join("proc");
        let mut text = format!(
            "ipvs-watch {} --report, {}\n\n",
            env!("IP_VS_REUSE_VERSION"),
            output::timestamp(SystemTime::now())
        );
        text.push_str(match self.addresses.are_shown {
            true => "This report has real addresses.\n",
            false => {
                "Each address has been replaced, by ipv4-1, ipv6-2 and so on. What remains: the releases of kernel and\n\
                 distribution, modules, settings, counters, ports, weights, and when a packet was lost.\n"
            }
        });

        section(&mut text, "System");
        for (name, file) in [
            ("Linux", "proc/sys/kernel/osrelease"),
            ("built", "proc/sys/kernel/version"),
            ("machine", "proc/sys/kernel/arch"),
        ] {
            line(&mut text, name, &read(&root.join(file)));
        }
        line(&mut text, "distribution", &distribution(root));

        section(&mut text, "Modules");
        text.push_str(&modules(root));

        section(&mut text, "Settings (/proc/sys)");
        for directory in SETTINGS {
            text.push_str(&settings(&proc.join("sys"), directory));
        }

        section(&mut text, "Tables of NAT");
        text.push_str(nat);
        for file in ["ip_tables_names", "ip6_tables_names"] {
            let names = read(&proc.join("net").join(file));
            line(&mut text, file, &names.replace('\n', " "));
        }

        section(&mut text, "Services (/proc/net/ip_vs)");
        for service in read(&proc.join("net/ip_vs")).lines() {
            let _ = writeln!(text, "{}", self.addresses.line(service).trim_end());
        }

        section(&mut text, "Number of entries (/proc/net/ip_vs_conn)");
        text.push_str(&match entries(&proc.join("net/ip_vs_conn")) {
            Ok(entries) => entries,
            Err(error) => format!("({error})\n"),
        });

        section(&mut text, "The module's counters (/proc/net/ip_vs_reuse)");
        let _ = writeln!(text, "{}", read(&proc.join("net/ip_vs_reuse")));

        section(&mut text, &format!("Events, {watched}"));
        if self.left_out > 0 {
            let _ = writeln!(text, "({} before these are left out)", self.left_out);
        }
        for event in &self.events {
            let _ = writeln!(text, "{event}");
        }
        let _ = writeln!(text, "{}", output::summary(tally));
        text
    }
}

// Writing to a string does not fail.

fn section(text: &mut String, title: &str) {
    let _ = write!(text, "\n== {title}\n");
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name}: {value}");
}

/// The content of a file, or why there is none.
fn read(file: &Path) -> String {
    match fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "(there is none)".into(),
        Err(error) => format!("({error})"),
    }
}

fn distribution(root: &Path) -> String {
    // In a container that has the host's files there, the host's.
    let host = read(&root.join("host/etc/os-release"));
    let own = read(&root.join("etc/os-release"));
    [host, own]
        .iter()
        .flat_map(|text| text.lines())
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("unknown".into(), |name| name.trim_matches('"').to_owned())
}

/// Those that are loaded, and what tells which they are.
fn modules(root: &Path) -> String {
    let loaded = read(&root.join("proc/modules"));
    let mut names: Vec<_> = loaded
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| {
            *name == "br_netfilter" || MODULES.iter().any(|start| name.starts_with(start))
        })
        .collect();
    names.sort_unstable();
    let mut text = names.join(" ") + "\n";
    for module in ["ip_vs", "ip_vs_reuse"] {
        for fact in ["version", "srcversion", "taint"] {
            let file = root.join("sys/module").join(module).join(fact);
            if file.exists() {
                line(&mut text, &format!("{module} {fact}"), &read(&file));
            }
        }
    }
    text
}

/// All settings of a directory, but not those that cannot be read.
fn settings(sys: &Path, directory: &str) -> String {
    let values: BTreeMap<_, _> = fs::read_dir(sys.join(directory))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let value = fs::read_to_string(entry.path()).ok()?;
            Some((entry.file_name().into_string().ok()?, value))
        })
        .collect();
    if values.is_empty() {
        return format!("{directory}: (there are none)\n");
    }
    let mut text = String::new();
    for (name, value) in values {
        let words: Vec<_> = value.split_whitespace().collect();
        line(&mut text, &format!("{directory}/{name}"), &words.join(" "));
    }
    text
}

/// How many there are in each state. There may be millions.
fn entries(file: &Path) -> io::Result<String> {
    let mut counts = BTreeMap::new();
    for line in BufReader::new(File::open(file)?).lines().skip(1) {
        let line = line?;
        let words: Vec<_> = line.split_whitespace().collect();
        if let (Some(protocol), Some(state)) = (words.first(), words.get(7)) {
            *counts.entry(format!("{protocol} {state}")).or_insert(0_u64) += 1;
        }
    }
    let mut text = String::new();
    for (kind, count) in counts {
        line(&mut text, &kind, &count.to_string());
    }
    Ok(text)
}

/// The chains of nft that do NAT in this network namespace, without their names.
pub fn nft_chains() -> String {
    let said = match Command::new("nft").args(["list", "chains"]).output() {
        Ok(said) if said.status.success() => said.stdout,
        Ok(said) => {
            let error = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            return format!("nft: unknown: {error}\n");
        }
        Err(error) => return format!("nft: unknown: cannot run 'nft list chains': {error}\n"),
    };
    nat_chains(&String::from_utf8_lossy(&said))
}

fn nat_chains(chains: &str) -> String {
    let hooks: Vec<_> = chains
        .lines()
        .filter_map(|line| line.trim().strip_prefix("type nat hook "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    format!("nft: {} chains ({})\n", hooks.len(), hooks.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Reason};
    use std::path::PathBuf;
    use std::time::UNIX_EPOCH;

    /// A directory with these files, in place of `/`.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("ipvs-report-{}-{name}", std::process::id()));
            for (file, content) in [
                ("proc/sys/kernel/osrelease", "7.3.4+deb13-cloud-amd64\n"),
                ("proc/sys/net/ipv4/vs/conntrack", "1\n"),
                ("proc/sys/net/ipv4/vs/sync_threshold", "3\t50\n"),
                ("proc/sys/net/netfilter/nf_conntrack_max", "65536\n"),
                ("proc/modules", "ip_vs_rr 12288 3 - Live 0x0\nnft_chain_nat 1 0 - Live 0x0\nkvm 1 0 - Live 0x0\n"),
                ("sys/module/ip_vs_reuse/version", "1.0.0\n"),
                ("etc/os-release", "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n"),
                ("proc/net/ip_tables_names", "filter\nnat\n"),
                (
                    "proc/net/ip_vs",
                    "IP Virtual Server version 1.2.1 (size=4096)\n\
                     Prot LocalAddress:Port Scheduler Flags\n  \
                     -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n\
                     TCP  0A090001:0050 rr persistent 300 FFFFFFFF\n  \
                     -> 0A020102:0050      Masq    1      0          7\n\
                     UDP  [fd00:0009:0000:0000:0000:0000:0000:0001]:0035 p2c\n  \
                     -> [fd00:0002:0001:0000:0000:0000:0000:0002]:0035      Masq    1      0          0\n",
                ),
                (
                    "proc/net/ip_vs_conn",
                    "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n\
                     TCP 0A000002 4E21 0A090001 0050 0A020102 0050 CLOSE             9\n\
                     TCP 0A000002 4E22 0A090001 0050 0A020102 0050 CLOSE             9\n\
                     UDP 0A000002 4E22 0A090001 0050 0A020102 0050 UDP             299\n",
                ),
                ("proc/net/ip_vs_reuse", "replayed_tcp_closed 12\n"),
            ] {
                let file = dir.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, content).unwrap();
            }
            Self(dir)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn event(reason: Reason) -> Event {
        Event {
            reason,
            ..Event::closed()
        }
    }

    fn text(root: &Root, with_addresses: bool, events: usize) -> String {
        let mut report = Report::new(with_addresses);
        let mut tally = Tally::default();
        for _ in 0..events {
            let event = event(Reason::Closed);
            tally.count(&event);
            report.add(&Dated {
                event: &event,
                time: UNIX_EPOCH,
                netns_name: Some("customer"),
            });
        }
        report.text(
            &root.0,
            "nft: 1 chains (postrouting)\n",
            "watched for 1m",
            &tally,
        )
    }

    #[test]
    fn it_has_what_tells_a_loss() {
        let text = text(&Root::new("all"), false, 1);
        for expected in [
            "Linux: 7.3.4+deb13-cloud-amd64\n",
            "distribution: Debian GNU/Linux 13 (trixie)\n",
            "\nip_vs_rr nft_chain_nat\n",
            "ip_vs_reuse version: 1.0.0\n",
            "net/ipv4/vs/conntrack: 1\n",
            "net/ipv4/vs/sync_threshold: 3 50\n",
            "net/netfilter/nf_conntrack_max: 65536\n",
            "nft: 1 chains (postrouting)\nip_tables_names: filter nat\nip6_tables_names: (there is none)\n",
            "TCP CLOSE: 2\nUDP UDP: 1\n",
            "replayed_tcp_closed 12\n",
            "== Events, watched for 1m\n",
            "IPVS CLOSE, conntrack CLOSE: closed\n1 dropped (1 closed), 0 replayed\n",
        ] {
            assert!(text.contains(expected), "no {expected:?} in {text}");
        }
    }

    #[test]
    fn it_has_no_address() {
        let text = text(&Root::new("private"), false, 1);
        let lower = text.to_lowercase();
        for private in [
            "10.0.0.2", "10.9.0.1", "10.2.1.2", "0a090001", "0a020102", "0a000002", "fd00",
            "customer",
        ] {
            assert!(!lower.contains(private), "{private} in {text}");
        }
        // The same address has the same name everywhere, and its port.
        assert!(
            text.contains("drop TCP ipv4-2:20001 -> ipv4-3:80, server ipv4-1:80"),
            "{text}"
        );
        assert!(
            text.contains("TCP  ipv4-3:80 rr persistent 300 FFFFFFFF\n  -> ipv4-1:80      Masq"),
            "{text}"
        );
        assert!(
            text.contains("UDP  ipv6-4:53 p2c\n  -> ipv6-5:53 "),
            "{text}"
        );
        assert!(text.contains("Each address has been replaced"), "{text}");
    }

    #[test]
    fn it_has_addresses_if_asked_and_says_so() {
        let text = text(&Root::new("public"), true, 1);
        assert!(text.contains("This report has real addresses."), "{text}");
        assert!(
            text.contains("drop TCP 10.0.0.2:20001 -> 10.9.0.1:80, server 10.2.1.2:80"),
            "{text}"
        );
        assert!(
            text.contains("UDP  [fd00:9::1]:53 p2c\n  -> [fd00:2:1::2]:53 "),
            "{text}"
        );
    }

    #[test]
    fn it_has_the_newest_events_only() {
        let text = text(&Root::new("many"), false, MOST_EVENTS + 5);
        assert!(text.contains("(5 before these are left out)\n"), "{text}");
        assert_eq!(text.matches("drop TCP").count(), MOST_EVENTS);
    }

    #[test]
    fn chains_of_nat_are_counted_by_their_hook() {
        let chains = "table ip kube {\n\tchain a {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t}\n\
                      \tchain b {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n\tchain c {\n\t}\n}\n";
        assert_eq!(nat_chains(chains), "nft: 1 chains (postrouting)\n");
        assert_eq!(nat_chains(""), "nft: 0 chains ()\n");
    }
}
