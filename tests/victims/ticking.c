/* A hundred timers that are read (timerfd), due all the time and armed on all CPUs: whenever the process is stopped, some are
 * due and have not expired yet, others have expired and were not read. None may stand still afterwards, none may lose or gain
 * expirations, and a timer that is not armed must stay so. */
#include "victim.h"
#include <sched.h>
#include <sys/timerfd.h>

#define WORKERS 4
#define KINDS 8
#define SHORTEST (200 * 1000ull) /* the period of the first kind; delays of up to the period */
#define TIMERS (3 * KINDS)
/* Expirations may come late: by the freeze, and by what the timers' reading takes in each move. */
#define LATE TOLERANCE
/* And early, by the error with which two hosts' clocks were compared. */
#define EARLY (50 * MS)

enum kind { PERIODIC, ONCE, NEVER };
struct timer {
	int fd;
	enum kind kind;
	uint64_t period, begin, expired, last;
};

static volatile int ending;

static void arm(struct timer *t, uint64_t first, uint64_t period)
{
	MUST(timerfd_settime(t->fd, 0, &(struct itimerspec){ from_ns(period), from_ns(first) }, NULL));
	t->begin = t->last = now();
}

/* An armed timer with its period, one armed again with another delay each time, one that is disarmed but has a period. */
static void make(struct timer *t, int number)
{
	t->fd = MUST(timerfd_create(number & 1 ? CLOCK_BOOTTIME : CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
	t->kind = number % 3;
	t->period = (1 + number / 3) * SHORTEST;
	if (t->kind != ONCE)
		arm(t, t->kind == PERIODIC ? t->period : 0, t->period);
	else
		arm(t, 1 + dice(t->period), 0);
}

static int look(struct timer *t)
{
	static const char *const names[] = { "periodic", "single", "disarmed" };
	uint64_t count;
	if (read(t->fd, &count, sizeof count) < 0) {
		CHECK(errno == EAGAIN, "%s timer: read", names[t->kind]);
		CHECK(t->kind == NEVER || now() - t->last < TOLERANCE, "%s timer of %llu us: nothing any more after %llu",
		      names[t->kind], (unsigned long long)(t->period / 1000), (unsigned long long)t->expired);
		return 0;
	}
	CHECK(t->kind != NEVER, "a disarmed timer expired");
	CHECK(t->kind != ONCE || count == 1, "single timer: %llu expirations", (unsigned long long)count);
	t->expired += count;
	t->last = now();
	if (t->kind == ONCE) {
		arm(t, 1 + dice(t->period), 0);
		return 1;
	}
	uint64_t shown = t->expired * t->period, elapsed = t->last - t->begin;
	CHECK(shown < elapsed + EARLY && elapsed < shown + t->period + LATE, "timer of %llu us: %llu expirations in %llu ms",
	      (unsigned long long)(t->period / 1000), (unsigned long long)t->expired, (unsigned long long)(elapsed / MS));
	return 1;
}

static void *work(void *argument)
{
	static struct timer all[WORKERS][TIMERS];
	long worker = (long)argument;
	struct timer *mine = all[worker];
	cpu_set_t may, one;
	/* Spread over the CPUs: a timer's interrupt comes where it was armed, and that shall not be where ulpm looks from. */
	MUST(sched_getaffinity(0, sizeof may, &may));
	CPU_ZERO(&one);
	for (int cpu = 0, skip = worker % CPU_COUNT(&may); cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
		if (CPU_ISSET(cpu, &may) && skip-- == 0)
			CPU_SET(cpu, &one);
	MUST(sched_setaffinity(0, sizeof one, &one));
	for (int i = 0; i < TIMERS; i++)
		make(&mine[i], i);
	while (!ending) {
		watch_clocks();
		for (int i = 0; i < TIMERS; i++)
			look(&mine[i]);
		MUST(usleep(500));
	}
	/* Each must still expire. */
	for (int i = 0; i < TIMERS; i++) {
		mine[i].last = now();
		while (mine[i].kind != NEVER && !look(&mine[i]))
			MUST(usleep(500));
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[WORKERS];
	victim_begin(argc, argv);
	for (long i = 0; i < WORKERS; i++)
		threads[i] = start_thread(work, (void *)i);
	pause_ms(50);
	ready();
	while (!stopped())
		pause_ms(10);
	ending = 1;
	for (int i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	pass();
}
