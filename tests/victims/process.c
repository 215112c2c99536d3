/* What a process is beside its memory and files: identity, limits, priorities, names, places. */
#include "victim.h"
#include <grp.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define ROOM 16384

struct snapshot { const char *path; const char *only; char text[ROOM]; };

/* Lines of /proc that must not change; of /proc/self/status only those that begin with one of these words. */
static struct snapshot files[] = {
	{ .path = "/proc/self/status",
	  .only = "Name: Umask: Uid: Gid: Groups: CapInh: CapPrm: CapEff: CapBnd: CapAmb: NoNewPrivs: Cpus_allowed: "
		  "SigBlk: SigIgn: SigCgt: Tgid: Pid: " },
	{ .path = "/proc/self/limits" },    { .path = "/proc/self/cmdline" }, { .path = "/proc/self/environ" },
	{ .path = "/proc/self/comm" },      { .path = "/proc/self/auxv" },    { .path = "/proc/self/oom_score_adj" },
	{ .path = "/proc/self/personality" }, { .path = "/proc/self/coredump_filter" },
	{ .path = "/proc/self/timerslack_ns" },
};

static const char *links[] = { "/proc/self/exe", "/proc/self/cwd", "/proc/self/root" };
static char link_texts[COUNT(links)][600];

static const int options[] = { PR_GET_DUMPABLE, PR_GET_KEEPCAPS, PR_GET_TIMERSLACK, PR_GET_NO_NEW_PRIVS,
			       PR_GET_SECUREBITS, PR_GET_THP_DISABLE };
static int option_values[COUNT(options)];
static void *end_of_heap;

static void keep_lines(char *text, const char *only)
{
	char *out = text;
	for (char *line = text, *next; *line; line = next) {
		next = strchr(line, '\n');
		next = next ? next + 1 : line + strlen(line);
		char *colon = strchr(line, ':'), word[40];
		if (!colon || colon - line > 30)
			continue;
		snprintf(word, sizeof word, "%.*s ", (int)(colon - line + 1), line);
		const char *found = strstr(only, word);
		if (found && (found == only || found[-1] == ' ')) {
			memmove(out, line, next - line);
			out += next - line;
		}
	}
	memset(out, 0, text + ROOM - out);
}

static void read_file(const struct snapshot *s, char *text)
{
	int fd = open(s->path, O_RDONLY | O_CLOEXEC);
	ssize_t length = 0, more;
	memset(text, 0, ROOM);
	if (fd < 0)
		return; /* not on every kernel */
	while ((more = read(fd, text + length, ROOM - 1 - length)) > 0)
		length += more;
	close(fd);
	if (s->only)
		keep_lines(text, s->only);
}

static void check_same(void)
{
	static char text[ROOM];
	for (unsigned i = 0; i < COUNT(files); i++) {
		read_file(&files[i], text);
		for (unsigned at = 0; at < ROOM; at++)
			CHECK(text[at] == files[i].text[at], "%s changed at byte %u: %.60s", files[i].path, at,
			      text + (at > 20 ? at - 20 : 0));
	}
	for (unsigned i = 0; i < COUNT(links); i++) {
		char path[600] = { 0 };
		MUST(readlink(links[i], path, sizeof path - 1));
		CHECK(strcmp(path, link_texts[i]) == 0, "%s changed to %s", links[i], path);
	}
	for (unsigned i = 0; i < COUNT(options); i++)
		CHECK(prctl(options[i], 0, 0, 0, 0) == option_values[i], "prctl option %d changed", options[i]);
	int subreaper = 0;
	prctl(PR_GET_CHILD_SUBREAPER, &subreaper, 0, 0, 0);
	CHECK(subreaper == 1, "child subreaper changed");
	CHECK(sbrk(0) == end_of_heap, "the end of the heap changed");
	CHECK(getpriority(PRIO_PROCESS, 0) == 3, "nice value changed to %d", getpriority(PRIO_PROCESS, 0));
	CHECK(sched_getscheduler(0) == SCHED_BATCH, "scheduling policy changed to %d", sched_getscheduler(0));
	CHECK(syscall(SYS_ioprio_get, 1, 0) == (2 << 13 | 6), "I/O priority changed");
	CHECK(getsid(0) == getpid() && getpgid(0) == getpid(), "session or process group changed");
	CHECK(syscall(SYS_gettid) == getpid(), "thread id changed");
	struct rlimit limit;
	MUST(getrlimit(RLIMIT_NOFILE, &limit));
	CHECK(limit.rlim_cur == 123, "limit of descriptors changed to %lu", (unsigned long)limit.rlim_cur);
	CHECK(strcmp(getenv("VICTIM_WORD"), "kept") == 0, "the environment changed");
}

static void prepare(void)
{
	struct rlimit limit;
	char path[300];
	cpu_set_t cpus;
	MUST(mkdir(beside(path, sizeof path, "place"), 0777));
	MUST(chmod(path, 0777));
	MUST(chdir(path));
	umask(027);
	MUST(setpriority(PRIO_PROCESS, 0, 3));
	MUST(sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){ 0 }));
	MUST(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6));
	MUST(sched_getaffinity(0, sizeof cpus, &cpus));
	for (int cpu = 0, kept = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &cpus) && kept++)
			CPU_CLR(cpu, &cpus);
	MUST(sched_setaffinity(0, sizeof cpus, &cpus));
	MUST(getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = 123;
	MUST(setrlimit(RLIMIT_NOFILE, &limit));
	MUST(getrlimit(RLIMIT_CORE, &limit));
	limit.rlim_cur = 0;
	MUST(setrlimit(RLIMIT_CORE, &limit));
	MUST(prctl(PR_SET_NAME, "a name (odd) x", 0, 0, 0));
	MUST(prctl(PR_SET_TIMERSLACK, 123456, 0, 0, 0));
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	MUST(personality(ADDR_NO_RANDOMIZE));
	signal(SIGPIPE, SIG_IGN);
	/* Give up being root where there are other users to be; the rights to a few things stay. */
	MUST(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
	if (setgroups(2, (gid_t[]){ 7777, 8888 }) == 0 && setresgid(4321, 4321, 4322) == 0)
		MUST(setresuid(1234, 1234, 1235));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
	end_of_heap = sbrk(8192) + 8192;
}

int main(int argc, char **argv)
{
	if (!getenv("VICTIM_WORD")) {
		setenv("VICTIM_WORD", "kept", 1);
		execv("/proc/self/exe", argv);
		fail("execv");
	}
	victim_begin(argc, argv);
	prepare();
	for (unsigned i = 0; i < COUNT(files); i++)
		read_file(&files[i], files[i].text);
	for (unsigned i = 0; i < COUNT(links); i++)
		MUST(readlink(links[i], link_texts[i], sizeof link_texts[i] - 1));
	for (unsigned i = 0; i < COUNT(options); i++)
		option_values[i] = prctl(options[i], 0, 0, 0, 0);
	ready();
	for (;;) {
		int last = stopped();
		check_same();
		if (last)
			pass();
		pause_ms(5);
	}
}
