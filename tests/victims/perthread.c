/* What each thread has of its own and only itself can say, other than in its main thread; what a process registers once; a deadline. */
#include "victim.h"
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>

#define REGISTRATIONS (1 << 9) /* MEMBARRIER_CMD_GET_REGISTRATIONS, Linux 6.3 */

struct attr { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; uint32_t min, max; };
struct state { long personality, mce, slack, speculation[3], no_new_privs, ioprio; struct attr attr; };

static int settled;

static struct state look(void)
{
	struct state now = { 0 };
	now.personality = MUST(personality(0xffffffff));
	now.mce = MUST(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
	now.slack = MUST(prctl(PR_GET_TIMERSLACK));
	for (int i = 0; i < 3; i++)
		now.speculation[i] = prctl(PR_GET_SPECULATION_CTRL, i, 0, 0, 0);
	now.no_new_privs = MUST(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	now.ioprio = MUST(syscall(SYS_ioprio_get, 1, 0));
	MUST(syscall(SYS_sched_getattr, 0, &now.attr, sizeof now.attr, 0));
	return now;
}

static void compare(const char *who, const struct state *before)
{
	struct state now = look();
	CHECK(now.personality == before->personality, "personality of %s: %lx -> %lx", who, before->personality, now.personality);
	CHECK(now.mce == before->mce, "policy for memory errors of %s: %ld -> %ld", who, before->mce, now.mce);
	CHECK(now.slack == before->slack, "timer slack of %s: %ld -> %ld", who, before->slack, now.slack);
	for (int i = 0; i < 3; i++)
		CHECK(now.speculation[i] == before->speculation[i], "speculation %d of %s: %lx -> %lx", i, who, before->speculation[i],
		      now.speculation[i]);
	CHECK(now.no_new_privs == before->no_new_privs, "no_new_privs of %s", who);
	CHECK(now.ioprio == before->ioprio, "I/O priority of %s: %lx -> %lx", who, before->ioprio, now.ioprio);
	CHECK(!memcmp(&now.attr, &before->attr, sizeof now.attr), "scheduling of %s: policy %u -> %u, flags %llx -> %llx, nice %d -> %d, runtime %llu -> %llu", who,
	      before->attr.policy, now.attr.policy, (unsigned long long)before->attr.flags, (unsigned long long)now.attr.flags, before->attr.nice, now.attr.nice,
	      (unsigned long long)before->attr.runtime, (unsigned long long)now.attr.runtime);
}

static void *other(void *unused)
{
	struct state before;
	(void)unused;
	MUST(personality(ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS));
	MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	MUST(prctl(PR_SET_TIMERSLACK, 77777));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	for (int i = 0; i < 3; i++)
		if ((prctl(PR_GET_SPECULATION_CTRL, i, 0, 0, 0) & (PR_SPEC_PRCTL | PR_SPEC_ENABLE)) == (PR_SPEC_PRCTL | PR_SPEC_ENABLE))
			MUST(prctl(PR_SET_SPECULATION_CTRL, i, PR_SPEC_DISABLE, 0, 0));
	MUST(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 7));
	struct attr attr = { .size = sizeof attr, .policy = 3, .flags = 1, .nice = 5 };
	MUST(syscall(SYS_sched_setattr, 0, &attr, 0));
	before = look();
	__atomic_add_fetch(&settled, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		compare("the other thread", &before);
		pause_ms(5);
	}
}

static void *with_deadline(void *unused)
{
	struct state before;
	struct attr attr = { .size = sizeof attr, .policy = 6, .flags = 1 | 2 /* RECLAIM */, .runtime = 2000000, .deadline = 40000000, .period = 80000000 };
	(void)unused;
	/* not on every kernel, and not for everybody */
	(void)syscall(SYS_sched_setattr, 0, &attr, 0);
	before = look();
	__atomic_add_fetch(&settled, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		compare("the thread with a deadline", &before);
		pause_ms(20);
	}
}

static long barrier(int command) { return syscall(SYS_membarrier, command, 0, 0); }

static void group_nice(char *room, size_t size)
{
	int fd = open("/proc/self/autogroup", O_RDONLY | O_CLOEXEC);
	char text[100] = "", *nice;
	if (fd >= 0 && read(fd, text, sizeof text - 1) > 0 && (nice = strstr(text, "nice")))
		snprintf(room, size, "%s", nice);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	char group[100] = "", now_group[100] = "";
	long registered;
	struct state before;
	int fd;
	victim_begin(argc, argv);
	MUST(barrier(1 << 4));
	MUST(barrier(1 << 6));
	MUST(barrier(1 << 2));
	registered = barrier(REGISTRATIONS);
	if ((fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC)) >= 0) {
		(void)!write(fd, "4", 1);
		close(fd);
	}
	group_nice(group, sizeof group);
	start_thread(other, NULL);
	start_thread(with_deadline, NULL);
	while (__atomic_load_n(&settled, __ATOMIC_SEQ_CST) < 2)
		pause_ms(1);
	before = look();
	ready();
	for (;;) {
		int last = stopped();
		compare("the main thread", &before);
		CHECK(barrier(REGISTRATIONS) == registered, "registrations %lx -> %lx", registered, barrier(REGISTRATIONS));
		CHECK(barrier(1 << 3) == 0 && barrier(1 << 5) == 0, "an expedited barrier failed");
		group_nice(now_group, sizeof now_group);
		CHECK(strcmp(group, now_group) == 0, "the session's group has %s, had %s", now_group, group);
		if (last)
			pass();
		pause_ms(5);
	}
}
