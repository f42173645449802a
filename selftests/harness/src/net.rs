// SPDX-License-Identifier: GPL-2.0

//! Sockets as the tests need them: three protocols made alike, and what Linux tells and does
//! beyond the portable interface. All of the harness's `unsafe` is in the last eight functions.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write as _};
use std::mem;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Proto {
    Tcp,
    Udp,
    Sctp,
}

impl Proto {
    /// A socket for addresses like `addr` that may bind where an older one has just been.
    pub fn socket(self, addr: SocketAddr) -> io::Result<Socket> {
        let (kind, protocol) = match self {
            Proto::Tcp => (Type::STREAM, Protocol::TCP),
            Proto::Udp => (Type::DGRAM, Protocol::UDP),
            Proto::Sctp => (Type::STREAM, Protocol::SCTP),
        };
        let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    }
}

/// Whether binding or connecting failed only because an older socket still has the port.
pub fn port_is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}

/// Sends a SYN, and returns with `EINPROGRESS`.
pub fn begin_to_connect(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let begun = socket.connect(&to.into());
    socket.set_nonblocking(false)?;
    begun
}

pub fn is_in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS)
}

/// Connects a TCP socket. Unlike with [`Socket::connect_timeout`] no ICMP error goes unheard: one
/// that is here before `connect()` has returned TCP tells only if it is asked, or gives up.
pub fn connect(socket: &Socket, to: SocketAddr, timeout: Duration) -> io::Result<()> {
    match begin_to_connect(socket, to) {
        Err(error) if is_in_progress(&error) => {}
        done => return done,
    }
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1);
    poll.registry().register(
        &mut SourceFd(&socket.as_raw_fd()),
        Token(0),
        Interest::WRITABLE,
    )?;
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    poll.poll(&mut events, Some(timeout))?;
    match socket.take_error()? {
        Some(error) => Err(error),
        None if events.is_empty() => Err(io::ErrorKind::TimedOut.into()),
        None => Ok(()),
    }
}

/// INITs (and COOKIE ECHOs) that SCTP has sent again in this network namespace.
pub fn sctp_init_retransmits() -> io::Result<u32> {
    let counters = fs::read_to_string("/proc/net/sctp/snmp")?;
    Ok(counters
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .filter(|(name, _)| matches!(*name, "SctpT1InitExpireds" | "SctpT1CookieExpireds"))
        .filter_map(|(_, value)| value.trim().parse::<u32>().ok())
        .sum())
}

/// What is left until `deadline`, as socket timeouts want it: never zero.
pub fn until(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}

pub fn print_json(line: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    writeln!(out)
        .and_then(|()| out.flush())
        .context("nobody reads the report")
}

/// An Ethernet link to the machine that is behind an interface.
pub struct Link {
    socket: Socket,
    ipv4: SockAddr,
    ipv6: SockAddr,
}

impl Link {
    /// Takes `CAP_NET_RAW`.
    pub fn new(interface: &str, mac: [u8; 6]) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::new(Domain::PACKET, Type::DGRAM, None)?,
            ipv4: link_address(interface, mac, libc::ETH_P_IP)?,
            ipv6: link_address(interface, mac, libc::ETH_P_IPV6)?,
        })
    }

    /// Sends what calls itself an IP packet, past this machine's own stack.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let to = match packet.first().map(|byte| byte >> 4) {
            Some(6) => &self.ipv6,
            _ => &self.ipv4,
        };
        loop {
            match self.socket.send_to(packet, to) {
                // The device's queue is full.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => thread::yield_now(),
                sent => return sent.map(drop),
            }
        }
    }
}

fn link_address(interface: &str, mac: [u8; 6], protocol: libc::c_int) -> io::Result<SockAddr> {
    let name = CString::new(interface)?;
    // SAFETY: `name` is a string that ends in a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let mut address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: mac.len() as u8,
        sll_addr: [0; 8],
    };
    address.sll_addr[..mac.len()].copy_from_slice(&mac);
    // SAFETY: the storage is larger than any address, this one included, and the length is its.
    unsafe {
        SockAddr::try_init(|storage, length| {
            storage.cast::<libc::sockaddr_ll>().write(address);
            *length = mem::size_of_val(&address) as libc::socklen_t;
            Ok(())
        })
    }
    .map(|((), address)| address)
}

/// Lets the calling thread run on this processor only.
pub fn run_on_processor(number: usize) -> io::Result<()> {
    // SAFETY: a set of processors is an array of integers: zeroes are valid, and `number` is
    // checked against its size. The set outlives the call that reads it.
    let status = unsafe {
        let mut set = mem::zeroed::<libc::cpu_set_t>();
        libc::CPU_SET(number, &mut set);
        libc::sched_setaffinity(0, mem::size_of_val(&set), &set)
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `TCP_INFO` of the socket: its state and `tcpi_total_retrans` are what the tests look at.
pub fn tcp_info(socket: &Socket) -> io::Result<libc::tcp_info> {
    let mut info = mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is valid for `len` bytes, and `len` is valid for writes.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `tcp_info` holds integers only: zeroes, or what the kernel wrote, are valid.
    Ok(unsafe { info.assume_init() })
}

/// How many packets the socket has dropped.
pub fn dropped(socket: &Socket) -> io::Result<u32> {
    const SO_MEMINFO: libc::c_int = 55;
    const VARIABLES: usize = libc::SK_MEMINFO_DROPS as usize + 1;

    let mut values = [0u32; VARIABLES];
    let mut len = mem::size_of_val(&values) as libc::socklen_t;
    // SAFETY: `values` is valid for writes of `len` bytes, and `len` is valid for writes.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(values[VARIABLES - 1])
}

/// Closes a TCP socket without a packet, as a client does whose machine loses power. What it has
/// heard is acknowledged: the server would say it again otherwise, and get a RST for it.
pub fn vanish(socket: Socket) -> io::Result<()> {
    socket.set_tcp_quickack(true)?;
    let on: libc::c_int = 1;
    // SAFETY: the value is a live `c_int`, and its size is given.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            mem::size_of_val(&on) as libc::socklen_t,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// How far a TCP socket has come: the sequence number of what it sends next, and its clock, as it
/// tells the other side. Takes `CAP_NET_ADMIN`.
pub fn sequence_and_clock(socket: &Socket) -> io::Result<(u32, u32)> {
    const SEND_QUEUE: libc::c_int = 2;
    // Off, without a packet to the other side.
    const OFF: libc::c_int = -1;

    let set = |option, value: libc::c_int| {
        // SAFETY: the value is a live `c_int`, and its size is given.
        let status = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                option,
                (&raw const value).cast(),
                mem::size_of_val(&value) as libc::socklen_t,
            )
        };
        match status {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let get = |option| {
        let mut value = 0u32;
        let mut len = mem::size_of_val(&value) as libc::socklen_t;
        // SAFETY: `value` is valid for writes of `len` bytes, and `len` is valid for writes.
        let status = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                option,
                (&raw mut value).cast(),
                &mut len,
            )
        };
        match status {
            0 => Ok(value),
            _ => Err(io::Error::last_os_error()),
        }
    };
    set(libc::TCP_REPAIR, 1)?;
    set(libc::TCP_REPAIR_QUEUE, SEND_QUEUE)?;
    let reached = (get(libc::TCP_QUEUE_SEQ)?, get(libc::TCP_TIMESTAMP)?);
    set(libc::TCP_REPAIR, OFF)?;
    Ok(reached)
}

/// Has every packet of an IPv6 socket carry a destination options header, which says nothing.
/// Takes `CAP_NET_RAW`.
pub fn send_destination_options(socket: &Socket) -> io::Result<()> {
    // The next header is the kernel's to fill in; eight bytes in all, six of them padding.
    let header: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    // SAFETY: the value is a live array, and its size is given.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_DSTOPTS,
            header.as_ptr().cast(),
            mem::size_of_val(&header) as libc::socklen_t,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Allows as many open files as this process may have.
pub fn raise_file_limit() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid for reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
