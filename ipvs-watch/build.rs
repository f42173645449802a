// SPDX-License-Identifier: GPL-2.0

//! Compiles the BPF programs with clang, against libbpf's headers and nothing of the kernel's, and
//! what libelf.a lacks. The version is that of the module, in Kbuild.

use std::env;
use std::fs;
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

    println!("cargo:rerun-if-changed=../Kbuild");
    let kbuild = fs::read_to_string("../Kbuild").expect("cannot read Kbuild");
    let version = kbuild
        .lines()
        .find_map(|line| line.strip_prefix("export IP_VS_REUSE_VERSION := "))
        .expect("Kbuild has no version");
    println!("cargo:rustc-env=IP_VS_REUSE_VERSION={version}");

    // For libelf.a, which comes later on the linker's command line.
    println!("cargo:rerun-if-changed=src/libelf.c");
    cc::Build::new()
        .file("src/libelf.c")
        .warnings_into_errors(true)
        .link_lib_modifier("+whole-archive")
        .compile("ipvs-watch-libelf");
    // For both, and libelf.so would need it, too.
    println!("cargo:rustc-link-arg=-l:libzstd.a");
}
