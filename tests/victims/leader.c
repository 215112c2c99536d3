/* The main thread has ended, the others live on: the process computes, starts threads, and takes the signals that are sent to it. */
#include "victim.h"
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

#define NAME "has ended"
#define STATUS 3
#define NICE 5
#define BYTES (1 << 20)

static pid_t process;
static pthread_t first;
static volatile uint32_t turns, ticks, taken, caught, awaited;
static volatile uint32_t queued_last;

static int by_main(void) { return gettid() == process; }

static void on_usr1(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	if (info->si_code != SI_USER || info->si_pid != process || info->si_uid != getuid())
		fail("SIGUSR1 of %d", info->si_pid);
	if (by_main())
		fail("SIGUSR1 to the main thread");
	__atomic_add_fetch(&caught, 1, __ATOMIC_SEQ_CST);
}

static void on_queued(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	if ((uint32_t)info->si_value.sival_int != queued_last + 1)
		fail("signal %d after %u", info->si_value.sival_int, queued_last);
	queued_last++;
}

static void on_alarm(int signal)
{
	(void)signal;
	if (by_main())
		fail("SIGALRM to the main thread");
	ticks++;
}

static void on_timer(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	if (info->si_value.sival_int != 77)
		fail("a timer of value %d", info->si_value.sival_int);
	taken++;
}

static void handle(int signal, void (*run)(int, siginfo_t *, void *))
{
	struct sigaction action = { .sa_sigaction = run, .sa_flags = SA_SIGINFO | SA_RESTART };
	MUST(sigaction(signal, &action, NULL));
}

/* All signals are blocked in most threads. */
static void take(int signal)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, signal);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* A line of a file of this process. */
static int says(const char *path, const char *wanted)
{
	char text[8192];
	int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t length = MUST(read(fd, text, sizeof text - 1));
	close(fd);
	text[length] = 0;
	return strstr(text, wanted) != NULL;
}

static int exit_code(void)
{
	char text[1024];
	int fd = MUST(open("/proc/self/stat", O_RDONLY | O_CLOEXEC));
	ssize_t length = MUST(read(fd, text, sizeof text - 1));
	close(fd);
	text[length] = 0;
	return atoi(strrchr(text, ' '));
}

static void check_main(void)
{
	CHECK(getpid() == process && gettid() != process, "who am I: %d, %d", getpid(), gettid());
	CHECK(says("/proc/self/status", "State:\tZ"), "the main thread lives");
	CHECK(says("/proc/self/status", "Name:\t" NAME), "the main thread has another name");
	CHECK(!says("/proc/thread-self/status", "State:\tZ"), "a thread that has ended runs");
	CHECK(exit_code() == STATUS << 8, "the main thread has ended with %d", exit_code());
	CHECK(getpriority(PRIO_PROCESS, process) == NICE, "the main thread is %d nice", getpriority(PRIO_PROCESS, process));
	CHECK(kill(process, 0) == 0 && tgkill(process, process, 0) == 0, "the process is not there");
}

static void *compute(void *unused)
{
	static char area[BYTES];
	/* not the numbered ones: two threads could take them out of order */
	take(SIGUSR1);
	take(SIGALRM);
	take(SIGRTMIN + 1);
	for (uint64_t seed = 1;; seed++) {
		fill(area, sizeof area, seed);
		verify(area, sizeof area, seed, "memory");
		__atomic_add_fetch(&turns, 1, __ATOMIC_SEQ_CST);
	}
	return unused;
}

static void *take_numbered(void *unused)
{
	take(SIGRTMIN);
	take(SIGUSR1);
	for (;;)
		pause();
	return unused;
}

/* One signal of the process's queue is waited for, not handled. */
static void *await(void *unused)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	for (;;) {
		int signal;
		CHECK(sigwait(&set, &signal) == 0 && signal == SIGUSR2, "sigwait");
		__atomic_add_fetch(&awaited, 1, __ATOMIC_SEQ_CST);
	}
	return unused;
}

static void *come_and_go(void *argument)
{
	return argument;
}

/* A counter that a signal moves on. */
static void await_more(const volatile uint32_t *counter, uint32_t before, const char *what)
{
	for (uint64_t begun = now(); *counter == before; pause_ms(1))
		CHECK(now() - begun < TOLERANCE, "%s does not arrive", what);
}

static void *work(void *unused)
{
	void *status;
	CHECK(pthread_join(first, &status) == 0, "join of the main thread");
	/* waits for the kernel's word (`clear_child_tid`); the zombie comes a little later */
	for (uint64_t begun = now(); !says("/proc/self/status", "State:\tZ"); pause_ms(1))
		CHECK(now() - begun < TOLERANCE, "the main thread does not end");
	struct itimerval every = { { 0, 20000 }, { 0, 20000 } };
	MUST(setitimer(ITIMER_REAL, &every, NULL));
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1, .sigev_value.sival_int = 77 };
	struct itimerspec also = { { 0, 30 * MS }, { 0, 30 * MS } };
	timer_t timer;
	MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
	MUST(timer_settime(timer, 0, &also, NULL));
	check_main();
	ready();
	for (int number = 0, rounds = 0; !stopped() || rounds < 3; rounds++) {
		uint32_t before = caught, waited = awaited;
		check_main();
		MUST(kill(process, SIGUSR1));
		await_more(&caught, before, "SIGUSR1 to the process");
		MUST(kill(process, SIGUSR2));
		await_more(&awaited, waited, "SIGUSR2 to the process");
		for (int i = 0; i < 5; i++)
			MUST(sigqueue(process, SIGRTMIN, (union sigval){ .sival_int = ++number }));
		for (uint64_t begun = now(); queued_last != (uint32_t)number; pause_ms(1))
			CHECK(now() - begun < TOLERANCE, "%u signals of %d arrived", queued_last, number);
		pthread_t thread = start_thread(come_and_go, &number);
		CHECK(pthread_join(thread, &status) == 0 && status == &number, "join");
		await_change(&turns, "the computing thread");
		await_more(&ticks, ticks, "SIGALRM");
		await_more(&taken, taken, "the timer's signal");
	}
	pass();
	return unused;
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	process = getpid();
	first = pthread_self();
	handle(SIGUSR1, on_usr1);
	handle(SIGRTMIN, on_queued);
	handle(SIGRTMIN + 1, on_timer);
	struct sigaction alarm = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	MUST(sigaction(SIGALRM, &alarm, NULL));
	sigset_t all;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	start_thread(work, NULL);
	start_thread(compute, NULL);
	start_thread(await, NULL);
	start_thread(take_numbered, NULL);
	/* of this thread alone */
	pthread_setname_np(first, NAME);
	MUST(setpriority(PRIO_PROCESS, 0, NICE));
	syscall(SYS_exit, STATUS);
}
