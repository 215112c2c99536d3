/* Handlers, masks, the alternate stack, ignored signals, and pending ones with their payload. */
#include "victim.h"

#define QUEUED 5
#define STACK (64 * 1024)

static volatile sig_atomic_t plain_runs, info_runs, on_altstack;
static char altstack[STACK], thread_altstack[STACK];
static pid_t self;
static volatile int stop_now;
static sigset_t thread_mask;
static pthread_t other;

static void plain(int signal) { (void)signal; plain_runs++; }

static void with_info(int signal, siginfo_t *info, void *context)
{
	char here;
	(void)signal, (void)context;
	on_altstack = &here >= altstack && &here < altstack + STACK;
	if (info->si_value.sival_int == info_runs + 1)
		info_runs++;
}

static void check_action(int signal, void *handler, int flags, int masked)
{
	struct sigaction action;
	MUST(sigaction(signal, NULL, &action));
	CHECK((void *)action.sa_sigaction == handler, "signal %d: handler changed", signal);
	CHECK((action.sa_flags & ~0x04000000) == flags, "signal %d: flags %x instead of %x", signal, action.sa_flags, flags);
	CHECK(masked == 0 || sigismember(&action.sa_mask, masked), "signal %d: mask changed", signal);
}

static void check_altstack(const void *at)
{
	stack_t stack;
	MUST(sigaltstack(NULL, &stack));
	CHECK(stack.ss_sp == at && stack.ss_size == STACK && stack.ss_flags == 0, "alternate stack changed: %p %zu %x",
	      stack.ss_sp, stack.ss_size, stack.ss_flags);
}

static void check_mask(const sigset_t *want)
{
	sigset_t mask;
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0, "pthread_sigmask");
	for (int signal = 1; signal <= 64; signal++)
		CHECK(sigismember(&mask, signal) == sigismember(want, signal), "signal %d in the mask changed", signal);
}

static void check_pending(int mine)
{
	sigset_t pending;
	MUST(sigpending(&pending));
	CHECK(sigismember(&pending, SIGUSR1) && sigismember(&pending, SIGRTMIN + 3), "a pending signal was lost");
	CHECK(sigismember(&pending, SIGRTMIN + 5) == mine, "a thread's own pending signal was lost or moved");
	CHECK(!sigismember(&pending, SIGHUP), "a signal that nobody sent is pending");
}

/* A thread with a mask, an alternate stack and a pending signal of its own. */
static void *thread(void *argument)
{
	stack_t stack = { .ss_sp = thread_altstack, .ss_size = STACK };
	MUST(sigaltstack(&stack, NULL));
	thread_mask = *(sigset_t *)argument;
	sigaddset(&thread_mask, SIGRTMIN + 5);
	sigaddset(&thread_mask, SIGHUP);
	pthread_sigmask(SIG_SETMASK, &thread_mask, NULL);
	CHECK(pthread_sigqueue(pthread_self(), SIGRTMIN + 5, (union sigval){ .sival_int = 55 }) == 0, "queue");
	while (!stop_now) {
		check_mask(&thread_mask);
		check_altstack(thread_altstack);
		check_pending(1);
		pause_ms(5);
	}
	siginfo_t info;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	CHECK(sigwaitinfo(&set, &info) == SIGRTMIN + 5 && info.si_value.sival_int == 55, "a thread's payload was lost");
	return NULL;
}

static void take_pending(void)
{
	static const struct timespec at_once;
	siginfo_t info;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 3);
	for (int i = 0; i < QUEUED; i++) {
		CHECK(sigtimedwait(&set, &info, &at_once) == SIGRTMIN + 3, "queued signal %d was lost", i);
		CHECK(info.si_value.sival_int == 100 + i && info.si_code == SI_QUEUE, "queued signal %d: payload %d, code %d", i,
		      info.si_value.sival_int, info.si_code);
		CHECK(info.si_pid == self && info.si_uid == getuid(), "queued signal %d: sender %d", i, info.si_pid);
	}
	CHECK(sigtimedwait(&set, &info, &at_once) == -1 && errno == EAGAIN, "a queued signal came twice");
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK(sigtimedwait(&set, &info, &at_once) == SIGUSR1 && info.si_code == SI_USER, "pending SIGUSR1: code %d",
	      info.si_code);
	CHECK(sigtimedwait(&set, &info, &at_once) == -1 && errno == EAGAIN, "SIGUSR1 came twice");
}

int main(int argc, char **argv)
{
	sigset_t mask;
	int expected = 0;
	victim_begin(argc, argv);
	self = getpid();
	stack_t stack = { .ss_sp = altstack, .ss_size = STACK };
	MUST(sigaltstack(&stack, NULL));
	struct sigaction action = { .sa_handler = plain, .sa_flags = SA_RESTART };
	sigaddset(&action.sa_mask, SIGTERM);
	MUST(sigaction(SIGUSR2, &action, NULL));
	action = (struct sigaction){ .sa_sigaction = with_info, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	MUST(sigaction(SIGRTMIN + 4, &action, NULL));
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGRTMIN + 3);
	sigaddset(&mask, SIGWINCH);
	MUST(sigprocmask(SIG_SETMASK, &mask, NULL));
	MUST(kill(self, SIGUSR1));
	for (int i = 0; i < QUEUED; i++)
		MUST(sigqueue(self, SIGRTMIN + 3, (union sigval){ .sival_int = 100 + i }));
	/* Both are for the whole process, so that every thread sees them pending. */
	sigset_t mask_of_thread = mask;
	other = start_thread(thread, &mask_of_thread);
	pause_ms(50);
	ready();
	for (;;) {
		int last = stopped();
		check_action(SIGUSR2, plain, SA_RESTART, SIGTERM);
		check_action(SIGRTMIN + 4, with_info, SA_SIGINFO | SA_ONSTACK | SA_NODEFER, 0);
		check_action(SIGTERM, SIG_DFL, 0, 0);
		struct sigaction ignored;
		MUST(sigaction(SIGPIPE, NULL, &ignored));
		CHECK(ignored.sa_handler == SIG_IGN, "SIGPIPE is not ignored any more");
		check_mask(&mask);
		check_altstack(altstack);
		check_pending(0);
		expected++;
		raise(SIGUSR2);
		CHECK(plain_runs == expected, "SIGUSR2's handler ran %d times instead of %d", plain_runs, expected);
		CHECK(pthread_sigqueue(pthread_self(), SIGRTMIN + 4, (union sigval){ .sival_int = expected }) == 0, "queue");
		CHECK(info_runs == expected && on_altstack, "handler with payload: %d runs of %d, on its stack: %d", info_runs,
		      expected, on_altstack);
		if (last)
			break;
		pause_ms(5);
	}
	stop_now = 1;
	pthread_join(other, NULL);
	take_pending();
	pass();
}
