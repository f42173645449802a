# SPDX-License-Identifier: GPL-2.0
#
# The front door: 'make help'. Each target is a script in scripts/, which says what it does.
# Read by make only: the kernel's build reads Kbuild.

# A release (7.3.4+deb13-cloud-amd64) or a series (7.3: its newest cloud kernel)
KERNEL ?= 7.3

export KERNEL V
Q := $(if $(V),,@)
MAKEFLAGS += --no-print-directory --no-builtin-rules

.PHONY: help
help:
	@echo 'Use it:'
	@echo '  make demo       show the fault and the fix: a stock kernel in QEMU, real traffic (a minute'
	@echo '                  and a half; the first time about seven more, to build the machine)'
	@echo '  make module     build ip_vs_reuse.ko for KERNEL, and leave it here'
	@echo '  make module KDIR=~/linux   build it for a kernel tree of your own, with your compilers, in build/'
	@echo '  make watch      build ipvs-watch, which shows what IPVS drops and why, and leave it in build/'
	@echo '  make ipvs KERNEL=6.12   a fixed ip_vs.ko for a kernel without Rust (6.12, 6.1, 5.10): build it,'
	@echo '                  test it on that kernel, and leave it here'
	@echo '  make deb        Debian packages: the module by DKMS and as built for KERNEL, and ipvs-watch,'
	@echo '                  in build/deb'
	@echo '  make shell      a prompt in the machine, with the module loaded'
	@echo
	@echo 'Work on it:'
	@echo '  make lint       formatting, warnings, panics, style'
	@echo '  make test       the short set of tests, on the host and in the same machine (five minutes)'
	@echo '  make test-all   everything that must hold (forty minutes)'
	@echo '  make case TEST=reuse/basics.sh CASE=server_rst   one case of one script in selftests/, or, without'
	@echo '                  CASE, all of them'
	@echo '  make test-long  all tests, with those of the kernel'\''s own that take long (hours)'
	@echo '  make test-debug the tests on a debug kernel (KASAN, lockdep), and with allocation failures'
	@echo '                  (the first time half an hour more, to build it)'
	@echo '  make churn      everything changes at random under traffic, for MINUTES=30, with a SEED'
	@echo '  make million    a million flows reopened: nothing lost, counters exact (REOPENINGS=1000000)'
	@echo '  make test-deb   a pristine Debian 13 machine: install, use, a new kernel, purge'
	@echo '  make patches-check   the series in patches/: does each apply, build, and pass on a patched IPVS?'
	@echo '  make docs       the documentation of all Rust code, by rustdoc, in build/docs'
	@echo '  make clean      forget what was built from this tree'
	@echo '  make distclean  forget the build root and the kernels too'
	@echo
	@echo 'Measure it:'
	@echo '  make bench      how fast, against other versions of IPVS: measures (an hour), and writes a report'
	@echo '                  to build/bench'
	@echo '  make bench-quick   likewise, with less of everything, in ten minutes'
	@echo '  make compare    one table: IPVS as it was, is, and is with the module or the patches'
	@echo
	@echo 'KERNEL=$(KERNEL)    a release, or a series for its newest cloud kernel; your own: KERNEL=$$(uname -r)'
	@echo 'V=1           show the commands and their output'

.PHONY: root kernel module watch
root:
	$(Q)scripts/buildroot.sh
kernel: root
	$(Q)scripts/kernel.sh >/dev/null
ifdef KDIR
export KDIR
module:
	$(Q)scripts/own-kernel.sh
else
module: kernel
	$(Q)scripts/module.sh --here >/dev/null
endif
watch: root
	$(Q)scripts/harness.sh --here >/dev/null

.PHONY: demo test test-all case test-long test-debug churn million test-deb shell lint docs patches-check compare ipvs deb bench bench-quick
demo: kernel
	$(Q)scripts/in-vm.sh selftests/demo.sh
test: kernel
	$(Q)scripts/test.sh
case: kernel
	$(Q)scripts/in-vm.sh selftests/run.sh $(or $(TEST),$(error TEST is not set: make case TEST=reuse/basics.sh CASE=server_rst)) $(CASE)
test-all: kernel
	$(Q)scripts/test.sh --all
test-long: export LONG := yes
test-long: test-all
test-debug: kernel
	$(Q)scripts/test-debug.sh
churn: export MINUTES ?= 30
churn: export VM_TIMEOUT := 86400
churn: kernel
	$(Q)VM_ENV="MINUTES SEED ACTIONS" scripts/in-vm.sh selftests/run.sh robustness/churn.sh
million: export VM_TIMEOUT := 86400
million: kernel
	$(Q)VM_ENV=REOPENINGS scripts/in-vm.sh selftests/run.sh robustness/million.sh
shell: kernel
	$(Q)scripts/in-vm.sh --shell
lint: kernel
	$(Q)scripts/lint.sh
docs: kernel
	$(Q)scripts/docs.sh
patches-check: kernel
	$(Q)scripts/patches-check.sh
	$(Q)IPVS=patched VM_TIMEOUT=2700 scripts/in-vm.sh selftests/run.sh cases reuse/matrix.sh
compare: kernel
	$(Q)scripts/compare.sh
ipvs: root
	$(Q)scripts/fixed-ipvs.sh
deb: kernel
	$(Q)scripts/deb.sh
test-deb: kernel
	$(Q)scripts/deb-test.sh
bench: kernel
	$(Q)scripts/bench.sh
bench-quick: kernel
	$(Q)scripts/bench.sh --quick

.PHONY: clean distclean
clean:
	$(Q)scripts/clean.sh
distclean:
	$(Q)scripts/clean.sh --all
