// SPDX-License-Identifier: GPL-2.0

//! Loads the BPF programs, if this kernel has what they need, and reads their records. They are
//! removed when [`Watch`] is dropped or this process ends: nothing is pinned.

use std::cell::RefCell;
use std::fmt;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use anyhow::{ensure, Context as _};
use libbpf_rs::{
    ErrorKind, Link, MapCore as _, MapFlags, Object, ObjectBuilder, PrintLevel, ProgramMut,
    RingBuffer, RingBufferBuilder,
};

use crate::event::Event;

/// The BPF object, aligned as libbpf requires.
#[repr(C, align(8))]
struct Aligned<B: ?Sized>(B);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/watch.bpf.o")));

/// Our program for the tracepoint of ip_vs_reuse.
const REPLAYS: &str = "replayed";

/// The function that looks up a packet's entry, and our program for it.
const LOOKUP: (&str, &str) = ("ip_vs_conn_in_get_proto", "looked_up");

/// The names that the function deciding about a packet has had, and our program for each.
const DECIDERS: [(&str, &str); 2] = [
    ("ip_vs_in_hook", "hook_decided"),
    ("ip_vs_in", "in_decided"),
];

/// What else is watched if this kernel has it: a function, its module, and our program for it.
const OPTIONAL: [(&str, &str, &str); 3] = [
    ("ip_vs_leave", "ip_vs", "not_scheduled"),
    ("ip_vs_update_conntrack", "ip_vs", "translated"),
    ("__nf_conntrack_confirm", "nf_conntrack", "confirmed"),
];

/// Why nothing can be watched here. Each reason has its own exit status.
#[derive(Debug)]
pub enum Refusal {
    NotPermitted,
    NoBtf(String),
    NoIpvs,
}

impl Refusal {
    pub fn status(&self) -> u8 {
        match self {
            Self::NotPermitted => 3,
            Self::NoBtf(_) => 4,
            Self::NoIpvs => 5,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted => f.write_str("needs root (CAP_SYS_ADMIN): run it with sudo"),
            Self::NoBtf(what) => write!(
                f,
                "{what}: needs Linux 5.11 or later with CONFIG_DEBUG_INFO_BTF_MODULES"
            ),
            Self::NoIpvs => f.write_str("IPVS is not loaded: run 'modprobe ip_vs' first"),
        }
    }
}

impl std::error::Error for Refusal {}

/// libbpf's messages, shown with an unexpected error.
static COMPLAINTS: Mutex<String> = Mutex::new(String::new());

fn complain(_: PrintLevel, message: String) {
    COMPLAINTS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push_str(&message);
}

/// The last lines of the messages: the verifier's log of a refused program is long.
pub fn complaints() -> String {
    let all = mem::take(&mut *COMPLAINTS.lock().unwrap_or_else(PoisonError::into_inner));
    let lines: Vec<_> = all.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

pub struct Watch {
    // Dropped in this order: the programs are detached before the maps that they write to go.
    module: Option<Link>,
    _links: Vec<Link>,
    ring: RingBuffer<'static>,
    events: Rc<RefCell<Vec<Option<Event>>>>,
    object: Object,
}

impl Watch {
    /// Starts watching one network namespace, or all. Fails with a [`Refusal`] if the kernel or
    /// this user's rights do not allow it.
    pub fn start(only_netns: Option<u32>) -> anyhow::Result<Self> {
        let wanted = what_to_load(Path::new("/sys"))?;
        if !is_privileged()? {
            return Err(Refusal::NotPermitted.into());
        }
        Self::load(&wanted, only_netns).map_err(|error| {
            // Root in a container, or a locked-down kernel.
            let refused = error
                .downcast_ref::<libbpf_rs::Error>()
                .is_some_and(|error| error.kind() == ErrorKind::PermissionDenied);
            if refused {
                Refusal::NotPermitted.into()
            } else {
                error
            }
        })
    }

    fn load(wanted: &[&str], only_netns: Option<u32>) -> anyhow::Result<Self> {
        libbpf_rs::set_print(Some((PrintLevel::Warn, complain)));
        let mut object = ObjectBuilder::default()
            .name("ipvs_watch")?
            .open_memory(&OBJECT.0)?;
        for mut program in object.progs_mut() {
            let name = program.name().to_owned();
            program.set_autoload(name == REPLAYS || wanted.iter().any(|&wanted| name == wanted));
        }
        if let Some(netns) = only_netns {
            object
                .maps_mut()
                .find(|map| map.name().as_encoded_bytes().ends_with(b".data"))
                .context("no .data")?
                .set_initial_value(&netns.to_ne_bytes())?;
        }
        let object = object.load().context("cannot load the BPF programs")?;

        let events = Rc::new(RefCell::new(Vec::new()));
        let into = Rc::clone(&events);
        let mut ring = RingBufferBuilder::new();
        let records = object
            .maps()
            .find(|map| map.name() == "records")
            .context("no ring buffer")?;
        ring.add(&records, move |bytes| {
            into.borrow_mut().push(Event::from_bytes(bytes));
            0
        })?;
        let ring = ring.build()?;

        let links = wanted
            .iter()
            .map(|name| program(&object, name)?.attach().context("cannot attach"))
            .collect::<anyhow::Result<_>>()?;
        let mut watch = Self {
            module: None,
            _links: links,
            ring,
            events,
            object,
        };
        watch.look_for_module();
        Ok(watch)
    }

    /// Also watches the replays of ip_vs_reuse if it has been loaded. Cheap.
    pub fn look_for_module(&mut self) {
        if self.module.is_none() && Path::new("/sys/module/ip_vs_reuse").exists() {
            // The module may just be loading or unloading. The next call tries again.
            self.module = program(&self.object, REPLAYS)
                .and_then(|program| Ok(program.attach_raw_tracepoint("ip_vs_reuse_replay")?))
                .ok();
        }
    }

    /// Returns the next events, oldest first: not all of them at once if there are many.
    pub fn next_events(&mut self) -> anyhow::Result<Vec<Event>> {
        const AT_ONCE: usize = 256;

        let result = self.ring.consume_raw_n(AT_ONCE);
        ensure!(
            result >= 0,
            "cannot read the ring buffer: {}",
            io::Error::from_raw_os_error(-result)
        );
        self.events
            .take()
            .into_iter()
            .map(|event| event.context("a record that cannot be read"))
            .collect()
    }

    /// How many records did not fit into the ring buffer.
    pub fn missed(&self) -> anyhow::Result<u64> {
        let bss = self
            .object
            .maps()
            .find(|map| map.name().as_encoded_bytes().ends_with(b".bss"))
            .context("no .bss")?;
        bss.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)?
            .as_deref()
            .and_then(<[u8]>::first_chunk)
            .map(|bytes| u64::from_ne_bytes(*bytes))
            .context("nothing in .bss")
    }
}

impl AsFd for Watch {
    /// Readable when there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: The descriptor is open as long as the ring buffer lives, and the borrow does not
        // outlive that.
        unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) }
    }
}

fn program<'a>(object: &'a Object, name: &str) -> anyhow::Result<ProgramMut<'a>> {
    object
        .progs_mut()
        .find(|program| program.name() == name)
        .with_context(|| format!("no program {name}"))
}

/// The names of our programs for this kernel's IPVS, found under `sys` (`/sys`), in the order in which
/// they are to be attached: the lookup first, so that each decision finds the note of its lookup.
fn what_to_load(sys: &Path) -> Result<Vec<&'static str>, Refusal> {
    if !sys.join("kernel/btf/vmlinux").exists() {
        return Err(Refusal::NoBtf("this kernel has no BTF".into()));
    }
    if !sys.join("module/ip_vs").exists() {
        return Err(Refusal::NoIpvs);
    }
    let btf = btf_of(sys, "ip_vs")
        .ok_or_else(|| Refusal::NoBtf("this kernel has no BTF of the module ip_vs".into()))?;
    let (function, lookup) = LOOKUP;
    if !has_name(&btf, function) {
        return Err(Refusal::NoBtf(format!("IPVS has no {function}() here")));
    }
    let (_, decider) = DECIDERS
        .into_iter()
        .find(|(function, _)| has_name(&btf, function))
        .ok_or_else(|| Refusal::NoBtf(format!("IPVS has no {}() here", DECIDERS[0].0)))?;
    let optional = OPTIONAL
        .into_iter()
        .filter(|(function, module, _)| {
            btf_of(sys, module).is_some_and(|btf| has_name(&btf, function))
        })
        .map(|(_, _, program)| program);
    Ok([lookup, decider].into_iter().chain(optional).collect())
}

/// The BTF that describes a module, which may be built in.
fn btf_of(sys: &Path, module: &str) -> Option<Vec<u8>> {
    // Only a loaded module has a state.
    let is_loaded = sys.join("module").join(module).join("initstate").exists();
    let name = if is_loaded { module } else { "vmlinux" };
    fs::read(sys.join("kernel/btf").join(name)).ok()
}

/// Whether BTF contains this name: it stores names as C strings.
fn has_name(btf: &[u8], name: &str) -> bool {
    let string = [b"\0", name.as_bytes(), b"\0"].concat();
    btf.windows(string.len()).any(|window| window == string)
}

/// libbpf can read the BTF of modules only with CAP_SYS_ADMIN.
fn is_privileged() -> anyhow::Result<bool> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    effective_capabilities(&status)
        .map(|capabilities| capabilities & (1 << 21) != 0)
        .context("no capabilities in /proc/self/status")
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let hex = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A directory with these files, in place of /sys.
    struct Sys(PathBuf);

    impl Sys {
        fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
            let dir =
                std::env::temp_dir().join(format!("ipvs-watch-{}-{name}", std::process::id()));
            for (file, content) in files {
                let file = dir.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, content).unwrap();
            }
            Self(dir)
        }

        fn answer(&self) -> Result<Vec<&'static str>, u8> {
            what_to_load(&self.0).map_err(|refusal| refusal.status())
        }
    }

    impl Drop for Sys {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const VMLINUX: (&str, &[u8]) = ("kernel/btf/vmlinux", b"\0sk_buff\0");
    const LOADED: (&str, &[u8]) = ("module/ip_vs/initstate", b"live\n");

    fn with_module(name: &str, btf: &[u8]) -> Result<Vec<&'static str>, u8> {
        Sys::new(name, &[VMLINUX, LOADED, ("kernel/btf/ip_vs", btf)]).answer()
    }

    #[test]
    fn the_programs_are_those_for_this_kernel() {
        assert_eq!(
            with_module("new", b"\0ip_vs_conn_in_get_proto\0ip_vs_in_hook\0"),
            Ok(vec!["looked_up", "hook_decided"])
        );
        assert_eq!(
            with_module("old", b"\0ip_vs_in\0ip_vs_conn_in_get_proto\0"),
            Ok(vec!["looked_up", "in_decided"])
        );
        assert_eq!(
            with_module("other", b"\0ip_vs_in_icmp\0ip_vs_conn_in_get_proto\0"),
            Err(4)
        );
        assert_eq!(with_module("none", b"\0ip_vs_in_hook\0"), Err(4));
    }

    #[test]
    fn what_is_missing_has_its_status() {
        assert_eq!(Sys::new("no-btf", &[LOADED]).answer(), Err(4));
        assert_eq!(Sys::new("no-ipvs", &[VMLINUX]).answer(), Err(5));
        assert_eq!(
            Sys::new("no-module-btf", &[VMLINUX, LOADED]).answer(),
            Err(4)
        );
    }

    #[test]
    fn ipvs_may_be_built_in() {
        let vmlinux: &[u8] = b"\0ip_vs_conn_in_get_proto\0ip_vs_in_hook\0";
        let files = [
            ("kernel/btf/vmlinux", vmlinux),
            ("module/ip_vs/parameters/conn_tab_bits", b"12\n"),
        ];
        assert_eq!(
            Sys::new("built-in", &files).answer(),
            Ok(vec!["looked_up", "hook_decided"])
        );
    }

    #[test]
    fn what_a_kernel_lacks_is_not_watched() {
        let ipvs: &[u8] = b"\0ip_vs_conn_in_get_proto\0ip_vs_in_hook\0ip_vs_leave\0";
        let mut files = vec![
            VMLINUX,
            LOADED,
            ("kernel/btf/ip_vs", ipvs),
            ("kernel/btf/nf_conntrack", b"\0__nf_conntrack_confirm\0"),
        ];
        let expected = vec!["looked_up", "hook_decided", "not_scheduled"];
        // It is not loaded, so vmlinux would have to describe it.
        assert_eq!(
            Sys::new("conntrack-built-in", &files).answer(),
            Ok(expected.clone())
        );
        files.push(("module/nf_conntrack/initstate", b"live\n"));
        assert_eq!(
            Sys::new("conntrack", &files).answer(),
            Ok([expected, vec!["confirmed"]].concat())
        );
    }

    #[test]
    fn capabilities_are_those_in_effect() {
        let status = "CapPrm:\t0000000000000001\nCapEff:\t0000000000200000\nCapBnd:\t0\n";
        assert_eq!(effective_capabilities(status), Some(1 << 21));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
