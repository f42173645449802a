// SPDX-License-Identifier: GPL-2.0

//! Sockets as the tests need them: three protocols made alike, and what Linux tells and does
//! beyond the portable interface. All of the harness's `unsafe` is in the last three functions.

use std::fs;
use std::io::{self, Write as _};
use std::mem;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use anyhow::Context as _;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

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

pub fn print_json(line: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    writeln!(out)
        .and_then(|()| out.flush())
        .context("nobody reads the report")
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

/// Closes a TCP socket without a packet, as a client does whose machine loses power.
pub fn vanish(socket: Socket) -> io::Result<()> {
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
