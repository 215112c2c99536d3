/* Prints everything of a process that can be seen: from outside, by duplicates of its descriptors, and (unless told "outside") by
 * system calls in each thread's name. One line a fact: area, scope, name, value, parted by tabs; the areas are those of
 * src/state/verdicts, the names those of its rows. What differs between two hosts by nature (numbers of pids and inodes) is printed
 * as the process itself knows it, or by the order in which it is met. snapshot PID [outside] */
#define _GNU_SOURCE 1
#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* `pid`: a thread by which the process is seen, its main one unless that has ended. */
static int pid, tids[4096], threads;
static char scope[64];

static void fact(const char *area, const char *name, const char *value, size_t len)
{
	printf("%s\t%s\t%s\t", area, scope, name);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)value[i];
		if (c < 32 || c > 126 || c == '\\')
			printf("\\%03o", c);
		else
			putchar(c);
	}
	putchar('\n');
}

static void text(const char *area, const char *name, const char *value)
{
	fact(area, name, value, strlen(value));
}

static void number(const char *area, const char *name, long value)
{
	char line[32];
	fact(area, name, line, (size_t)snprintf(line, sizeof line, "%ld", value));
}

static void hex(const char *area, const char *name, const void *bytes, size_t len)
{
	char line[2048];
	size_t at = 0;
	for (size_t i = 0; i < len && at + 3 < sizeof line; i++)
		at += (size_t)sprintf(line + at, "%02x", ((const unsigned char *)bytes)[i]);
	fact(area, name, line, at);
}

/* A file as text; empty if it cannot be read (a thread may end while we look). */
static char *slurp(const char *path, size_t *len)
{
	static char *buffer;
	static const size_t size = 16 << 20;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	*len = 0;
	if (!buffer)
		buffer = malloc(size + 1);
	for (ssize_t n; fd >= 0 && *len < size && (n = read(fd, buffer + *len, size - *len)) > 0;)
		*len += (size_t)n;
	if (fd >= 0)
		close(fd);
	buffer[*len] = 0;
	return buffer;
}

/* The ids of inodes as they are met: two facts that name the same object have the same number on both hosts. */
static unsigned long met[65536];
static int met_count;

static int order_of(unsigned long inode)
{
	for (int i = 0; i < met_count; i++)
		if (met[i] == inode)
			return i;
	met[met_count < 65535 ? met_count : 65535] = inode;
	return met_count++;
}

/* "socket:[123]" becomes "socket:[#0]". */
static void without_inode(char *link)
{
	char *open = strchr(link, '[');
	unsigned long inode;
	if (open && link[0] != '/' && sscanf(open, "[%lu]", &inode) == 1)
		sprintf(open, "[#%d]", order_of(inode));
}

static void innermost(const char *text_, const char *name, char *to)
{
	const char *found = strstr(text_, name), *stop = found ? strchr(found + 1, '\n') : NULL, *at = stop;
	while (at && at > found && !isspace((unsigned char)at[-1]))
		at--;
	if (at)
		snprintf(to, 32, "%.*s", (int)(stop - at), at);
}

static void status(const char *path)
{
	size_t len;
	char *line = slurp(path, &len), *end, *keep = NULL;
	/* as the process sees itself: the last of the numbers */
	char inner[32] = "", inner_group[32] = "";
	innermost(line, "\nNSpid:", inner);
	innermost(line, "\nNStgid:", inner_group);
	for (line = strtok_r(line, "\n", &keep); line; line = strtok_r(NULL, "\n", &keep)) {
		if (!(end = strchr(line, ':')))
			continue;
		*end = 0;
		char *value = end + 1 + strspn(end + 1, " \t");
		if (!strcmp(line, "Pid") || !strcmp(line, "NSpid"))
			value = inner;
		else if (!strcmp(line, "Tgid") || !strcmp(line, "NStgid"))
			value = inner_group;
		text("Status", line, value);
	}
}

static void stat_fields(const char *path)
{
	static const char *names[] = { "state", "ppid", "pgrp", "session", "tty_nr", "tpgid", "flags", "minflt", "cminflt", "majflt", "cmajflt", "utime", "stime",
		"cutime", "cstime", "priority", "nice", "num_threads", "itrealvalue", "starttime", "vsize", "rss", "rsslim", "startcode", "endcode", "startstack", "kstkesp",
		"kstkeip", "signal", "blocked", "sigignore", "sigcatch", "wchan", "nswap", "cnswap", "exit_signal", "processor", "rt_priority", "policy", "delayacct",
		"guest_time", "cguest_time", "start_data", "end_data", "start_brk", "arg_start", "arg_end", "env_start", "env_end", "exit_code" };
	size_t len;
	char *line = slurp(path, &len), *keep = NULL;
	if (!(line = strrchr(line, ')')))
		return;
	line = strtok_r(line + 2, " \n", &keep);
	for (size_t i = 0; line && i < sizeof names / sizeof *names; i++, line = strtok_r(NULL, " \n", &keep)) {
		text("Stat", names[i], line);
	}
}

static void plain_file(const char *where, const char *name)
{
	char path[300];
	size_t len;
	snprintf(path, sizeof path, "%s/%s", where, name);
	char *bytes = slurp(path, &len);
	/* of timers: whom they signal, by this host's numbers */
	for (char *at = bytes; !strcmp(name, "timers") && (at = strstr(at, "id."));) {
		size_t digits = strspn(at += 3, "0123456789");
		memmove(at, at + digits, strlen(at + digits) + 1);
		len -= digits;
	}
	if (!access(path, F_OK))
		fact("ProcFiles", name, bytes, len > 3000 ? 3000 : len);
}

static void link_file(const char *area, const char *where, const char *name)
{
	char path[300], link[4096];
	snprintf(path, sizeof path, "%s/%s", where, name);
	ssize_t n = readlink(path, link, sizeof link - 1);
	if (n >= 0)
		fact(area, strrchr(path, '/') + 1, link, (size_t)n);
}

static void limits(const char *where)
{
	char path[300];
	size_t len;
	snprintf(path, sizeof path, "%s/limits", where);
	char *line = slurp(path, &len), *keep = NULL;
	for (line = strtok_r(line, "\n", &keep); line; line = strtok_r(NULL, "\n", &keep)) {
		if (strlen(line) < 26 || !strncmp(line, "Limit", 5))
			continue;
		char name[27] = "";
		memcpy(name, line, 26);
		for (int i = 25; i >= 0 && name[i] == ' '; i--)
			name[i] = 0;
		text("Limits", name, line + 26);
	}
}

static void of_task(const char *where)
{
	static const char *plain[] = { "comm", "personality", "oom_score_adj", "cgroup", "loginuid", "sessionid", "cpuset", "timerslack_ns", "timers", "syscall", "wchan", "sched_group_id",
		"attr/current", "attr/exec", "attr/fscreate", "attr/keycreate", "attr/prev", "attr/sockcreate", "setgroups", "uid_map", "gid_map", "projid_map", "autogroup",
		"arch_status", "cmdline", "environ", "auxv", "coredump_filter", "io", "schedstat", "ksm_stat", "timens_offsets", "children", "patch_state", "cpu_resctrl_groups", "seccomp_cache" };
	static const char *links[] = { "cwd", "root", "exe" };
	static const char *spaces[] = { "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts" };
	char path[300];
	snprintf(path, sizeof path, "%s/status", where);
	status(path);
	snprintf(path, sizeof path, "%s/stat", where);
	stat_fields(path);
	for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
		plain_file(where, plain[i]);
	for (size_t i = 0; i < sizeof links / sizeof *links; i++)
		link_file("ProcFiles", where, links[i]);
	/* whether it is the leader's: which one differs from host to host */
	for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
		struct stat own, leader;
		char other[300];
		snprintf(path, sizeof path, "%s/ns/%s", where, spaces[i]);
		snprintf(other, sizeof other, "/proc/%d/ns/%s", pid, spaces[i]);
		if (!stat(path, &own) && !stat(other, &leader))
			text("Namespaces", spaces[i], own.st_ino == leader.st_ino ? "the leader's" : "its own");
	}
	limits(where);
}

/* One area, or several neighbours that are alike: the kernel keeps such apart for reasons of its own (a page that was copied). */
struct area {
	unsigned long start, end, offset, inode, page;
	char perms[8], name[4200], flags[128];
	int resident, locked;
};

static int continues(const struct area *a, const struct area *b)
{
	int backed = a->inode || a->name[0] == '/';
	return a->end == b->start && a->inode == b->inode && a->page == b->page && a->locked == b->locked && !strcmp(a->perms, b->perms) && !strcmp(a->name, b->name)
		&& !strcmp(a->flags, b->flags) && (!backed || a->offset + (a->end - a->start) == b->offset);
}

static void print_area(const struct area *a)
{
	char value[4400], flags[128], *rest = NULL;
	const char *n = a->name;
	int file = n[0] == '/' && strncmp(n, "/memfd:", 7) && strncmp(n, "/dev/zero", 9) && strncmp(n, "/SYSV", 5) && strncmp(n, "/anon_hugepage", 14);
	if (!a->end)
		return;
	snprintf(scope, sizeof scope, "area %lx", a->start);
	if (file)
		snprintf(value, sizeof value, "%lx %s %lx %s", a->end, a->perms, a->offset, n);
	else if (a->inode)
		snprintf(value, sizeof value, "%lx %s %lx #%d %s", a->end, a->perms, a->offset, order_of(a->inode), n);
	else
		snprintf(value, sizeof value, "%lx %s %s", a->end, a->perms, n);
	text("ProcFiles", "maps", value);
	strcpy(flags, a->flags);
	for (char *flag = strtok_r(flags, " ", &rest); flag; flag = strtok_r(NULL, " ", &rest))
		text("VmFlags", flag, "set");
	if (a->locked)
		text("ProcFiles", "smaps Locked", "some");
	number("ProcFiles", "smaps KernelPageSize", (long)a->page);
}

static void mappings(void)
{
	static struct area last, now;
	char path[64];
	size_t len;
	unsigned long size, pss = 0, swap = 0;
	snprintf(path, sizeof path, "/proc/%d/smaps", pid);
	char *line = slurp(path, &len), *keep = NULL;
	for (line = strtok_r(line, "\n", &keep); line; line = strtok_r(NULL, "\n", &keep)) {
		int at = 0;
		unsigned long start, end, offset, inode;
		char perms[8];
		if (sscanf(line, "%lx-%lx %7s %lx %*s %lu %n", &start, &end, perms, &offset, &inode, &at) >= 5) {
			now = (struct area){ .start = start, .end = end, .offset = offset, .inode = inode };
			strcpy(now.perms, perms);
			snprintf(now.name, sizeof now.name, "%s", line + at);
			/* private, it is anonymous memory by another name */
			if (perms[3] == 'p' && !strcmp(now.name, "/dev/zero"))
				now.name[0] = 0, now.inode = now.offset = 0;
		} else if (!strncmp(line, "VmFlags:", 8)) {
			/* the last line of an area */
			snprintf(now.flags, sizeof now.flags, "%s", line + 8);
			/* "Locked:" is a share of its pages as "Pss:" is, and rounded down: none at all of a library that many have mapped */
			now.locked = now.resident && strstr(now.flags, " lo");
			/* whether it counts as committed memory follows from what it could be once: what was made read-only still does */
			char *account = strstr(now.flags, " ac ");
			if (account && !strchr(now.perms, 'w'))
				memmove(account, account + 3, strlen(account + 3) + 1);
			if (continues(&last, &now)) {
				last.end = now.end;
			} else {
				print_area(&last);
				last = now;
			}
		} else if (sscanf(line, "Pss: %lu", &size) == 1) {
			pss += size;
		} else if (sscanf(line, "Swap: %lu", &size) == 1) {
			swap += size;
		} else if (sscanf(line, "Rss: %lu", &size) == 1) {
			now.resident = size > 0;
		} else if (sscanf(line, "KernelPageSize: %lu", &size) == 1) {
			now.page = size;
		}
	}
	print_area(&last);
	strcpy(scope, "process");
	number("ProcFiles", "smaps Pss", (long)(pss + swap));
}

static void socket_facts(int fd)
{
	static const struct { int level; const char *name; int last; } levels[] = { { SOL_SOCKET, "SOL_SOCKET", 100 }, { 0, "IPPROTO_IP", 60 }, { 41, "IPPROTO_IPV6", 90 }, { 6, "IPPROTO_TCP", 50 }, { 17, "IPPROTO_UDP", 110 } };
	for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
		for (int option = 1; option <= levels[l].last; option++) {
			unsigned char value[512];
			socklen_t len = sizeof value;
			/* reading it takes it; and TCP_ZEROCOPY_RECEIVE takes the error, too */
			if ((levels[l].level == SOL_SOCKET && option == SO_ERROR) || (levels[l].level == 6 && option == 35))
				continue;
			memset(value, 0, sizeof value);
			if (getsockopt(fd, levels[l].level, option, value, &len))
				continue;
			char name[64];
			snprintf(name, sizeof name, "%s %d", levels[l].name, option);
			hex("Sockets", name, value, len < sizeof value ? len : sizeof value);
		}
	}
	struct sockaddr_storage address;
	socklen_t len = sizeof address;
	memset(&address, 0, sizeof address);
	if (!getsockname(fd, (void *)&address, &len))
		hex("Sockets", "getsockname", &address, len);
	len = sizeof address;
	if (!getpeername(fd, (void *)&address, &len))
		hex("Sockets", "getpeername", &address, len);
}

static void descriptor(int pidfd, int number_, const char *link)
{
	static const struct { int command; const char *name; } getters[] = { { F_GETFL, "F_GETFL" }, { F_GETOWN, "F_GETOWN" }, { F_GETSIG, "F_GETSIG" }, { F_GETLEASE, "F_GETLEASE" },
		{ F_GETPIPE_SZ, "F_GETPIPE_SZ" }, { 1034, "F_GET_SEALS" } };
	char path[80];
	size_t len;
	snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", pid, number_);
	char *line = slurp(path, &len), *keep = NULL, name[80];
	for (line = strtok_r(line, "\n", &keep); line; line = strtok_r(NULL, "\n", &keep)) {
		char *end = strchr(line, ':');
		if (!end)
			continue;
		*end = 0;
		snprintf(name, sizeof name, "fdinfo %s", line);
		if (!strcmp(line, "ino") || !strcmp(line, "tfd")) {
			/* numbers of inodes and of the descriptors' own mounts */
			if (!strcmp(line, "tfd")) {
				char *cut = strstr(end + 1, " ino:");
				if (cut) *cut = 0;
				text("Descriptors", name, end + 1);
			}
			continue;
		}
		text("Descriptors", name, end + 1 + strspn(end + 1, " \t"));
	}
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number_, 0);
	if (fd < 0)
		return;
	for (size_t i = 0; i < sizeof getters / sizeof *getters; i++) {
		int value = fcntl(fd, getters[i].command);
		/* whom it signals is a pid of this host */
		if (value != -1 || errno == 0)
			number("Descriptors", getters[i].name, getters[i].command == F_GETOWN ? value != 0 : value);
	}
	struct stat info;
	if (!fstat(fd, &info)) {
		number("Descriptors", "st_mode", info.st_mode);
		number("Descriptors", "st_uid", info.st_uid);
		number("Descriptors", "st_gid", info.st_gid);
		if (S_ISREG(info.st_mode))
			number("Descriptors", "st_size", info.st_size);
		if (!strncmp(link, "/memfd:", 7))
			number("Descriptors", "st_mtime", info.st_mtim.tv_sec * 1000000000L + info.st_mtim.tv_nsec);
		if (S_ISSOCK(info.st_mode))
			socket_facts(fd);
	}
	close(fd);
}

static int ascending(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static int list(const char *path, int *all, int most)
{
	DIR *directory = opendir(path);
	int count = 0;
	for (struct dirent *entry; directory && (entry = readdir(directory));)
		if (isdigit((unsigned char)entry->d_name[0]) && count < most)
			all[count++] = atoi(entry->d_name);
	if (directory)
		closedir(directory);
	qsort(all, (size_t)count, sizeof *all, ascending);
	return count;
}

static void descriptors(void)
{
	static int all[65536];
	char path[80], link[4096];
	int pidfd = (int)syscall(SYS_pidfd_open, pid, O_EXCL /* PIDFD_THREAD */);
	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	int count = list(path, all, 65536);
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, all[i]);
		ssize_t n = readlink(path, link, sizeof link - 1);
		if (n < 0)
			continue;
		link[n] = 0;
		without_inode(link);
		snprintf(scope, sizeof scope, "fd %d", all[i]);
		text("Descriptors", "link", link);
		descriptor(pidfd, all[i], link);
	}
	close(pidfd);
}

/* --- by system calls in a thread's name --- */

static unsigned long gate; /* a `syscall` instruction of the process */

static void find_gate(void)
{
	char path[64], line[512];
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	FILE *maps = fopen(path, "r");
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	int mem = open(path, O_RDONLY | O_CLOEXEC);
	while (!gate && maps && fgets(line, sizeof line, maps)) {
		unsigned long start, end;
		char perms[8];
		if (sscanf(line, "%lx-%lx %7s", &start, &end, perms) != 3 || perms[2] != 'x' || strstr(line, "[vsyscall]") || end - start > (64 << 20))
			continue;
		unsigned char *code = malloc(end - start);
		ssize_t n = pread(mem, code, end - start, (off_t)start);
		unsigned char *found = n > 0 ? memmem(code, (size_t)n, "\x0f\x05", 2) : NULL;
		if (found)
			gate = start + (unsigned long)(found - code);
		free(code);
	}
	if (maps)
		fclose(maps);
	close(mem);
}

static struct user_regs_struct saved;

static long call_in(int tid, long nr, const unsigned long *args)
{
	struct user_regs_struct regs = saved;
	int state;
	regs.rip = gate;
	regs.rax = (unsigned long)nr;
	regs.orig_rax = ~0ul;
	regs.rdi = args[0]; regs.rsi = args[1]; regs.rdx = args[2]; regs.r10 = args[3]; regs.r8 = args[4]; regs.r9 = args[5];
	ptrace(PTRACE_SETREGS, tid, 0, &regs);
	ptrace(PTRACE_SINGLESTEP, tid, 0, 0);
	if (waitpid(tid, &state, __WALL) != tid || !WIFSTOPPED(state))
		exit(3);
	ptrace(PTRACE_GETREGS, tid, 0, &regs);
	return (long)regs.rax;
}

#define CALL(tid, nr, ...) call_in(tid, nr, (unsigned long[6]){ __VA_ARGS__ })

static void getters(int tid)
{
	static const struct { unsigned long option, arg, more; const char *name; int pointer; } prctls[] = {
		{ 2, 0, 0, "PR_GET_PDEATHSIG", 4 }, { 3, 0, 0, "PR_GET_DUMPABLE", 0 }, { 7, 0, 0, "PR_GET_KEEPCAPS", 0 }, { 13, 0, 0, "PR_GET_TIMING", 0 }, { 21, 0, 0, "PR_GET_SECCOMP", 0 },
		{ 25, 0, 0, "PR_GET_TSC", 4 }, { 27, 0, 0, "PR_GET_SECUREBITS", 0 }, { 30, 0, 0, "PR_GET_TIMERSLACK", 0 }, { 34, 0, 0, "PR_MCE_KILL_GET", 0 },
		{ 37, 0, 0, "PR_GET_CHILD_SUBREAPER", 4 }, { 39, 0, 0, "PR_GET_NO_NEW_PRIVS", 0 }, { 40, 0, 0, "PR_GET_TID_ADDRESS", 8 }, { 42, 0, 0, "PR_GET_THP_DISABLE", 0 },
		{ 52, 0, 0, "PR_GET_SPECULATION_CTRL", 0 }, { 52, 1, 0, "PR_GET_SPECULATION_CTRL", 0 }, { 52, 2, 0, "PR_GET_SPECULATION_CTRL", 0 }, { 58, 0, 0, "PR_GET_IO_FLUSHER", 0 },
		{ 66, 0, 0, "PR_GET_MDWE", 0 }, { 68, 0, 0, "PR_GET_MEMORY_MERGE", 0 } };
	unsigned long at = (saved.rsp - 1024) & ~15ul, kept[64];
	char path[64], name[80];
	snprintf(path, sizeof path, "/proc/%d/mem", tid);
	int mem = open(path, O_RDWR | O_CLOEXEC);
	unsigned long clear[64] = { 0 };
	if (pread(mem, kept, sizeof kept, (off_t)at) != sizeof kept) {
		close(mem);
		return;
	}
	for (size_t i = 0; i < sizeof prctls / sizeof *prctls; i++) {
		unsigned long value = 0;
		pwrite(mem, clear, 16, (off_t)at);
		long done = CALL(tid, SYS_prctl, prctls[i].option, prctls[i].pointer ? at : prctls[i].arg, prctls[i].more);
		pread(mem, &value, 8, (off_t)at);
		snprintf(name, sizeof name, prctls[i].arg ? "%s %lu" : "%s", prctls[i].name, prctls[i].arg);
		number("Prctl", name, done >= 0 && prctls[i].pointer ? (long)value : done);
	}
	pwrite(mem, clear, sizeof clear, (off_t)at);
	CALL(tid, SYS_sigaltstack, 0, at);
	unsigned long words[64];
	pread(mem, words, 24, (off_t)at);
	hex("Unseen", "sigaltstack", words, 24);
	number("ProcFiles", "personality", CALL(tid, SYS_personality, 0xffffffff));
	number("Unseen", "membarrier", CALL(tid, SYS_membarrier, 512 /* MEMBARRIER_CMD_GET_REGISTRATIONS */));
	number("Scheduling", "ioprio", CALL(tid, SYS_ioprio_get, 1, 0));
	pwrite(mem, clear, sizeof clear, (off_t)at);
	if (CALL(tid, SYS_get_mempolicy, at, at + 16, 64, 0, 0) >= 0) {
		pread(mem, words, 32, (off_t)at);
		hex("Scheduling", "get_mempolicy", words, 24);
	}
	for (int option = 0x1001; option <= 0x1030; option++) {
		/* arch_prctl getters: FS, GS, CPUID, XCOMP_SUPP/PERM/GUEST_PERM */
		if (option != 0x1011 && option != 0x1021 && option != 0x1022 && option != 0x1024)
			continue;
		pwrite(mem, clear, 16, (off_t)at);
		long done = CALL(tid, SYS_arch_prctl, (unsigned long)option, at);
		pread(mem, words, 8, (off_t)at);
		snprintf(name, sizeof name, "ARCH %#x", option);
		number("Prctl", name, done < 0 ? done : option == 0x1011 ? done : (long)words[0]);
	}
	if (tid == pid)
		for (unsigned long signal_ = 1; signal_ <= 64; signal_++) {
			pwrite(mem, clear, 32, (off_t)at);
			CALL(tid, SYS_rt_sigaction, signal_, 0, at, 8);
			pread(mem, words, 32, (off_t)at);
			char saved_scope[64];
			strcpy(saved_scope, scope);
			snprintf(scope, sizeof scope, "signal %lu", signal_);
			hex("Unseen", "rt_sigaction", words, 32);
			strcpy(scope, saved_scope);
		}
	pwrite(mem, kept, sizeof kept, (off_t)at);
	close(mem);
}

static void queued(int tid, unsigned flags, const char *name)
{
	struct __ptrace_peeksiginfo_args args = { 0, flags, 32 };
	siginfo_t all[32];
	long count = ptrace(PTRACE_PEEKSIGINFO, tid, &args, all);
	number("Ptrace", name, count < 0 ? 0 : count);
}

static void within(int index)
{
	int tid = tids[index], state;
	if (ptrace(PTRACE_SEIZE, tid, 0, 0) || ptrace(PTRACE_INTERRUPT, tid, 0, 0) || waitpid(tid, &state, __WALL) != tid)
		return;
	unsigned long mask = 0, head = 0, length = 0;
	snprintf(scope, sizeof scope, "thread %d", index);
	ptrace(PTRACE_GETSIGMASK, tid, 8, &mask);
	hex("Ptrace", "PTRACE_GETSIGMASK", &mask, 8);
	struct { uint64_t address; uint32_t size, signature, flags, pad; } rseq = { 0 };
	if (ptrace(0x420f, tid, sizeof rseq, &rseq) >= 0)
		hex("Ptrace", "PTRACE_GET_RSEQ_CONFIGURATION", &rseq, 16);
	struct { uint64_t mode, selector, offset, len; } dispatch = { 0 };
	if (ptrace(0x4211, tid, sizeof dispatch, &dispatch) >= 0)
		hex("Ptrace", "PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG", &dispatch, sizeof dispatch);
	queued(tid, 0, "PTRACE_PEEKSIGINFO");
	if (tid == pid)
		queued(tid, PTRACE_PEEKSIGINFO_SHARED, "PTRACE_PEEKSIGINFO_SHARED");
	syscall(SYS_get_robust_list, tid, &head, &length);
	hex("Unseen", "get_robust_list", &head, 8);
	if (gate && ptrace(PTRACE_GETREGS, tid, 0, &saved) >= 0 && saved.cs == 0x33) {
		/* no selector, no signal meanwhile */
		unsigned long all = ~0ul;
		ptrace(PTRACE_SETSIGMASK, tid, 8, &all);
		getters(tid);
		ptrace(PTRACE_SETREGS, tid, 0, &saved);
		ptrace(PTRACE_SETSIGMASK, tid, 8, &mask);
	}
	ptrace(PTRACE_DETACH, tid, 0, 0);
}

int main(int argc, char **argv)
{
	char path[80];
	if (argc < 2 || !(pid = atoi(argv[1])))
		return 2;
	int process = pid;
	snprintf(path, sizeof path, "/proc/%d/task", process);
	threads = list(path, tids, 4096);
	if (!threads)
		return 1;
	char exe[16];
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	for (int i = 0; readlink(path, exe, sizeof exe) < 0 && i < threads; i++)
		snprintf(path, sizeof path, "/proc/%d/exe", pid = tids[i]);
	for (int i = 0; i < threads; i++) {
		snprintf(scope, sizeof scope, "thread %d", i);
		snprintf(path, sizeof path, "/proc/%d/task/%d", process, tids[i]);
		of_task(path);
		unsigned char attributes[56] = { 0 };
		if (!syscall(SYS_sched_getattr, tids[i], attributes, 56, 0))
			hex("Scheduling", "sched_getattr", attributes + 4, 44);
		unsigned char mask[128] = { 0 };
		long n = syscall(SYS_sched_getaffinity, tids[i], sizeof mask, mask);
		if (n > 0)
			hex("Scheduling", "sched_getaffinity", mask, (size_t)n);
	}
	strcpy(scope, "process");
	snprintf(path, sizeof path, "/proc/%d", pid);
	plain_file(path, "timers");
	mappings();
	descriptors();
	if (argc < 3) {
		find_gate();
		for (int i = 0; i < threads; i++)
			within(i);
	}
	return 0;
}
