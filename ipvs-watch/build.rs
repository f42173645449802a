// SPDX-License-Identifier: GPL-2.0

//! Compiles the BPF programs with clang, against libbpf's headers and nothing of the kernel's.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-env-changed=CLANG");

    let variable = |name| PathBuf::from(env::var_os(name).unwrap_or_else(|| panic!("no {name}")));
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-std=gnu2x", "-O2", "-g"])
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
        .arg("-I")
        .arg(variable("DEP_BPF_INCLUDE"))
        .args(["-c", "src/bpf/watch.bpf.c", "-o"])
        .arg(variable("OUT_DIR").join("watch.bpf.o"))
        .status()
        .unwrap_or_else(|error| panic!("cannot run {clang} (CLANG names another): {error}"));
    assert!(status.success(), "{clang} failed");
}
