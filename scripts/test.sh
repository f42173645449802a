#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Everything that must hold: the pure code on the host, the rest in the virtual machine. The
# kernel's own tests have a boot to themselves: what they leave behind cannot disturb the others.
# Ends with a line 'N passed, N failed'. All output is kept in the cache, log/test.log.
#
# LONG: with those of the kernel's own tests that take long

# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

log=$cache/log/test.log
mkdir -p "$cache/log"

on_host() (
	lock cargo
	fresh_target
	"$top/scripts/enter.sh" cargo test --locked --quiet --manifest-path selftests/Cargo.toml --workspace
)

in_vm() {
	"$top/scripts/in-vm.sh" selftests/run.sh module.sh conn_reuse.sh services.sh bad_input.sh p2c.sh
}

kernel_tests() {
	KERNEL_TESTS=$("$top/scripts/kernel-selftests.sh")
	VM_ENV="KERNEL_TESTS LONG"
	[ -z "${LONG:-}" ] || export VM_TIMEOUT=14400
	export KERNEL_TESTS LONG VM_ENV
	"$top/scripts/in-vm.sh" selftests/run.sh kernel_tests.sh
}

status=0
say "testing the pure code and the harness on the host"
on_host 2>&1 | tee "$log" | grep -E '^(test result|error|test .*FAILED)|panicked' || status=1
say "testing the module in the virtual machine (some minutes)"
in_vm 2>&1 | tee -a "$log" || status=1
say "running the kernel's own tests in the virtual machine, without the module and with it (some minutes)"
kernel_tests 2>&1 | tee -a "$log" || status=1

# cargo counts for itself, KTAP is counted here.
passed=$(awk '/^test result:/ { n += $4 } /^ok / && !/# SKIP/ { n++ } END { print n + 0 }' "$log")
failed=$(awk '/^test result:/ { n += $6 } /^not ok / || /^Bail out/ { n++ } END { print n + 0 }' "$log")
skipped=$(grep -c '^ok .*# SKIP' "$log" || true)

# A test that ended without a word has failed too.
((status == 0 || failed > 0)) || failed=1
echo
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
