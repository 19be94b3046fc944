package main

/*
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef __NR_lsm_get_self_attr // Linux 6.8, the same numbers everywhere
#define __NR_lsm_get_self_attr 459
#define __NR_lsm_set_self_attr 460
#endif
enum { ATTR_CURRENT = 100, ID_SELINUX = 101, MAX_CONTEXT = 4096 };

struct lsm {
	uint64_t id, flags, len, ctx_len;
	char ctx[MAX_CONTEXT];
};

static void fail(int status, const char *step, const char *msg) {
	char b[256];
	int n = snprintf(b, sizeof b, "{\"step\":\"%s\",\"msg\":\"%s\",\"errno\":%d}", step, msg, errno);
	_exit(write(status, b, n) == n ? 1 : 3);
}

// procfs opens /proc, a real one (CVE-2019-19921).
static int procfs(void) {
	struct statfs fs;
	int fd = open("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && (fstatfs(fd, &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC)) {
		errno = EXDEV;
		return -1;
	}
	return fd;
}

// attr opens self/attr/current in it, through no mount and no magic link
// (CVE-2025-52881).
static int attr(int proc, int flags) {
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS};
	return syscall(SYS_openat2, proc, "self/attr/current", &how, sizeof how);
}

static void setcon(int status, const char *want) {
	static struct lsm l;
	uint32_t size = sizeof l;
	size_t len = strlen(want);
	if (len == 0 || len >= MAX_CONTEXT) { errno = EINVAL; fail(status, "setcon", "context"); }
	l.id = ID_SELINUX;
	l.ctx_len = len + 1;
	l.len = (offsetof(struct lsm, ctx) + l.ctx_len + 7) & ~7ULL;
	memcpy(l.ctx, want, len + 1);
	if (syscall(__NR_lsm_set_self_attr, ATTR_CURRENT, &l, (uint32_t)l.len, 0) == 0) {
		memset(&l, 0, sizeof l);
		l.id = ID_SELINUX;
		if (syscall(__NR_lsm_get_self_attr, ATTR_CURRENT, &l, &size, 1) != 1) fail(status, "setcon", "read back");
	} else {
		if (errno != ENOSYS) fail(status, "setcon", "lsm_set_self_attr");
		int proc = procfs(), fd = proc < 0 ? -1 : attr(proc, O_WRONLY);
		if (fd < 0) fail(status, "setcon", "open /proc/self/attr/current");
		if (write(fd, want, len) != (ssize_t)len) fail(status, "setcon", "write");
		close(fd);
		// Anew: the file that was open is labelled as the domain that was left,
		// and the new one may not read that.
		if ((fd = attr(proc, O_RDONLY)) < 0) fail(status, "setcon", "open /proc/self/attr/current to read it back");
		ssize_t n = read(fd, l.ctx, MAX_CONTEXT - 1);
		if (n < 0) fail(status, "setcon", "read back");
		l.ctx[n] = 0;
		close(fd);
		close(proc);
	}
	l.ctx[strcspn(l.ctx, "\n")] = 0;
	if (strcmp(l.ctx, want) != 0) { errno = EPERM; fail(status, "setcon", "the kernel shows another context after it was set"); }
}

// become is the last step of the stage, before the Go runtime starts and so
// with one thread: --become CONTEXT STATUSFD -- PROGRAM ARGV0 ARG…
static void __attribute__((constructor)) become(int argc, char **argv, char **envp) {
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) _exit(3); // in every mode: the tenant must not trace it
	if (argc < 7 || strcmp(argv[1], "--become") != 0 || strcmp(argv[4], "--") != 0) return;
	int status = atoi(argv[3]);
	if (argv[2][0] != 0) setcon(status, argv[2]);
	if (fcntl(status, F_SETFD, FD_CLOEXEC) < 0) _exit(3);
	execve(argv[5], argv + 6, envp);
	fail(status, "exec", "");
}
*/
import "C"
