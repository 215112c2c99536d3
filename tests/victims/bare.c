/* What a thread has *not*: no alternate stack, no robust list; handlers with SA_ONSTACK; and modes that differ
 * from thread to thread (personality, time stamp counter, memory errors, parent's death), in some as they are by default. */
#include "victim.h"
#include <linux/prctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>

#define OTHERS 3

struct modes { int personality, tsc, mce, parent, dumpable, robust, alternate; };

static volatile sig_atomic_t handled[OTHERS + 1], orphaned;
static __thread int number;
static volatile int started, stop_now;

static void handler(int signal) { (void)signal; handled[number]++; }

/* Whoever started it lives as long as it does, and so does its parent wherever it is. */
static void on_orphaned(int signal) { orphaned = signal; }

static struct modes look(void)
{
	struct modes m = { .personality = personality(0xffffffff), .mce = prctl(PR_MCE_KILL_GET, 0, 0, 0, 0),
			   .dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) };
	void *head = NULL;
	size_t length;
	stack_t stack;
	MUST(prctl(PR_GET_TSC, &m.tsc, 0, 0, 0));
	MUST(prctl(PR_GET_PDEATHSIG, &m.parent, 0, 0, 0));
	MUST(syscall(SYS_get_robust_list, 0, &head, &length));
	MUST(sigaltstack(NULL, &stack));
	m.robust = head != NULL;
	m.alternate = stack.ss_flags != SS_DISABLE;
	return m;
}

static void check(struct modes was)
{
	struct modes is = look();
	CHECK(is.personality == was.personality, "personality %#x instead of %#x", is.personality, was.personality);
	CHECK(is.tsc == was.tsc, "time stamp counter: %d instead of %d", is.tsc, was.tsc);
	CHECK(is.mce == was.mce, "memory errors: %d instead of %d", is.mce, was.mce);
	CHECK(is.parent == was.parent, "signal at the parent's death: %d instead of %d", is.parent, was.parent);
	CHECK(is.dumpable == was.dumpable, "dumpable: %d instead of %d", is.dumpable, was.dumpable);
	CHECK(is.robust == was.robust, "robust list: %d instead of %d", is.robust, was.robust);
	CHECK(!is.alternate, "there is an alternate stack that nobody asked for");
	CHECK(!orphaned, "signal %d says that the parent has ended", orphaned);
	int before = handled[number];
	CHECK(raise(SIGUSR1) == 0 && handled[number] == before + 1, "the handler did not run");
}

/* Number 0 stays as it is by default. */
static void differ(int which)
{
	number = which;
	if (which % 2) {
		MUST(personality(personality(0xffffffff) | ADDR_NO_RANDOMIZE));
		MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, which == 1 ? PR_MCE_KILL_EARLY : PR_MCE_KILL_LATE, 0, 0));
		MUST(prctl(PR_SET_PDEATHSIG, SIGWINCH, 0, 0, 0));
	}
	if (which >= 2)
		MUST(syscall(SYS_set_robust_list, NULL, 24));
	if (which == 0)
		MUST(prctl(PR_SET_PDEATHSIG, SIGURG, 0, 0, 0));
}

static void *work(void *argument)
{
	differ((int)(intptr_t)argument);
	struct modes was = look();
	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	while (!stop_now) {
		check(was);
		pause_ms(5);
	}
	check(was);
	return NULL;
}

/* In code without calls and clocks; the vDSO would read the counter. */
static void *without_counter(void *unused)
{
	int tsc = 0;
	(void)unused;
	MUST(prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0));
	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	while (!stop_now) {
		syscall(SYS_nanosleep, &(struct timespec){ 0, 5 * MS }, NULL);
		MUST(prctl(PR_GET_TSC, &tsc, 0, 0, 0));
		CHECK(tsc == PR_TSC_SIGSEGV, "the time stamp counter can be read again");
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t others[OTHERS + 1];
	victim_begin(argc, argv);
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
	MUST(sigaction(SIGUSR1, &action, NULL));
	action.sa_handler = on_orphaned;
	MUST(sigaction(SIGURG, &action, NULL));
	MUST(sigaction(SIGWINCH, &action, NULL));
	differ(0);
	struct modes was = look();
	CHECK(!was.alternate, "an alternate stack from the beginning");
	for (intptr_t i = 0; i < OTHERS; i++)
		others[i] = start_thread(work, (void *)(i + 1));
	others[OTHERS] = start_thread(without_counter, NULL);
	while (started < OTHERS + 1)
		pause_ms(1);
	ready();
	while (!stopped()) {
		check(was);
		pause_ms(5);
	}
	stop_now = 1;
	for (int i = 0; i <= OTHERS; i++)
		pthread_join(others[i], NULL);
	check(was);
	pass();
}
