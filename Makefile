# SPDX-License-Identifier: GPL-2.0
#
# The front door: 'make help'. Each target is a script in scripts/, which says what it does.
# Read by make only: the kernel's build reads Kbuild.

# A release (7.3.4+deb13-cloud-amd64) or a series (7.3: its newest cloud kernel)
KERNEL ?= 7.3

# What can be made for another architecture than this machine's: ARCH=arm64
any_arch := root kernel module watch demo test test-all case test-long churn million shell

export KERNEL V
Q := $(if $(V),,@)
MAKEFLAGS += --no-print-directory --no-builtin-rules

.PHONY: help
help:
	@echo 'Use it:'
	@echo '  make demo       show the fault and the fix: a stock kernel in QEMU, real traffic (a minute'
	@echo '                  and a half; the first time about seven more, to build the machine)'
	@echo '  make demo ARCH=arm64   the same on arm64, emulated (three minutes; the first time twenty more); likewise'
	@echo '                  module, watch, shell, case, test and test-all: docs/arm64.md'
	@echo '  make module     build ip_vs_reuse.ko for KERNEL, and leave it here'
	@echo '  make module KDIR=~/linux   build it for a kernel tree of your own, with your compilers, in build/'
	@echo '  make check KDIR=~/linux    boot that very kernel under virtme-ng, and run the short set of selftests, or'
	@echo '                  TESTS="reuse/basics.sh server_rst"; see docs/test-kernels.md'
	@echo '  make watch      build ipvs-watch, which shows what IPVS drops and why, and leave it in build/'
	@echo '  make ipvs KERNEL=6.12   a fixed ip_vs.ko for a kernel without Rust (6.12, 6.1, 5.10): build it,'
	@echo '                  test it on that kernel, and leave it here'
	@echo '  make deb        Debian packages: the module by DKMS and as built for KERNEL, and ipvs-watch,'
	@echo '                  in build/deb'
	@echo '  make dist       everything that a release has, in build/dist: source, packages, ipvs-watch, checksums'
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
	@echo '  make test-kubernetes   with kube-proxy itself, or one CASE of it (23 minutes; the first time four'
	@echo '                  more, to build kube-proxy)'
	@echo '  make test-swarm   with Docker Swarm itself, or one CASE of it (six minutes)'
	@echo '  make test-deb   a pristine Debian 13 machine: install, use, a new kernel, purge'
	@echo '  make patches-check   the patches in patches/: does each apply and build, the backports, too, and do'
	@echo '                  all cases pass on a patched IPVS?'
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
	$(Q)scripts/root/buildroot.sh
	$(Q)scripts/root/cross.sh $(filter-out $(any_arch),$(MAKECMDGOALS))
kernel: root
	$(Q)scripts/kernel/get-kernel.sh >/dev/null
ifdef KDIR
export KDIR TESTS
.DEFAULT_GOAL := module
module:
	$(Q)scripts/build/module-for-kdir.sh
else
module: kernel
	$(Q)scripts/build/module.sh --here >/dev/null
endif
watch: root
	$(Q)scripts/build/harness.sh --here >/dev/null

.PHONY: check demo test test-all case test-long test-debug churn million test-kubernetes test-swarm test-deb shell lint docs patches-check compare ipvs deb dist bench bench-quick
demo: kernel
	$(Q)scripts/vm/in-vm.sh selftests/demo.sh
check:
	$(if $(KDIR),,$(error KDIR is not set: make check KDIR=~/linux))
	$(Q)scripts/check/kdir.sh
test: kernel
	$(Q)scripts/check/test.sh
case: kernel
	$(Q)scripts/vm/in-vm.sh selftests/run.sh $(or $(TEST),$(error TEST is not set: make case TEST=reuse/basics.sh CASE=server_rst)) $(CASE)
test-all: kernel
	$(Q)scripts/check/test.sh --all
test-long: export LONG := yes
test-long: test-all
test-debug: kernel
	$(Q)scripts/check/test-debug.sh
churn: export MINUTES ?= 30
churn: export VM_TIMEOUT := 86400
churn: kernel
	$(Q)VM_ENV="MINUTES SEED ACTIONS" scripts/vm/in-vm.sh selftests/run.sh robustness/churn.sh
million: export VM_TIMEOUT := 86400
million: kernel
	$(Q)VM_ENV=REOPENINGS scripts/vm/in-vm.sh selftests/run.sh robustness/million.sh
test-kubernetes: kernel
	$(Q)scripts/check/test-kubernetes.sh $(CASE)
test-swarm: kernel
	$(Q)scripts/check/test-swarm.sh $(CASE)
shell: kernel
	$(Q)scripts/vm/in-vm.sh --shell
lint: kernel
	$(Q)scripts/check/lint.sh
docs: kernel
	$(Q)scripts/build/docs.sh
patches-check: kernel
	$(Q)scripts/check/patches.sh
	$(Q)for series in $$(awk -F '\t' '$$5 == "ip_vs" { print $$1 }' scripts/kernel/supported); do \
		KERNEL=$$series scripts/check/patches.sh || exit; done
	$(Q)scripts/check/patches-compilers.sh
	$(Q)IPVS=patched VM_TIMEOUT=2700 scripts/vm/in-vm.sh selftests/run.sh cases reuse/matrix.sh
compare: kernel
	$(Q)scripts/measure/compare.sh
ipvs: root
	$(Q)scripts/build/fixed-ipvs.sh
deb: kernel
	$(Q)scripts/package/deb.sh
dist: kernel
	$(Q)scripts/package/dist.sh
test-deb: kernel
	$(Q)scripts/package/deb-test.sh
bench: kernel
	$(Q)scripts/measure/bench.sh
bench-quick: kernel
	$(Q)scripts/measure/bench.sh --quick

.PHONY: clean distclean
clean:
	$(Q)scripts/clean.sh
distclean:
	$(Q)scripts/clean.sh --all
