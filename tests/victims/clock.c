/* Clocks: vDSO and system call agree, order is kept between threads' readings, nothing jumps, the alarm keeps its time. */
#include "victim.h"
#include <sys/time.h>

#define ALARM 1000

static const clockid_t clocks[] = { CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME, CLOCK_MONOTONIC_RAW,
				    CLOCK_MONOTONIC_COARSE };

static uint64_t by_syscall(clockid_t clock)
{
	struct timespec t;
	MUST(syscall(SYS_clock_gettime, clock, &t));
	return to_ns(t);
}

/* Coarse clocks lag by up to a tick. */
static uint64_t slack(clockid_t clock) { return clock == CLOCK_MONOTONIC_COARSE ? 20 * MS : 0; }

static void check_agreement(uint64_t last[])
{
	for (unsigned i = 0; i < COUNT(clocks); i++) {
		clockid_t clock = clocks[i];
		uint64_t a = now_on(clock), b = by_syscall(clock), c = now_on(clock);
		/* The wall clock may be set back a little by whoever keeps it, and is the target's own after a move. */
		uint64_t late = clock == CLOCK_REALTIME ? TOLERANCE / 6 : slack(clock);
		CHECK(a <= b + late && b <= c + late, "clock %d: vDSO %llu, system call %llu, vDSO %llu", (int)clock,
		      (unsigned long long)a, (unsigned long long)b, (unsigned long long)c);
		CHECK(c - a < TOLERANCE || a > c, "clock %d: jumped by %llu ms", (int)clock, (unsigned long long)((c - a) / MS));
		/* Of the raw counter a time namespace knows nothing: after a move it is another host's, by what both have been slewed. */
		uint64_t back = clock == CLOCK_MONOTONIC_RAW ? TOLERANCE / 6 : late;
		CHECK(last[i] == 0 || a + back >= last[i], "clock %d ran backwards by %llu us", (int)clock,
		      (unsigned long long)((last[i] - a) / 1000));
		CHECK(last[i] == 0 || a < last[i] + TOLERANCE, "clock %d: silence of %llu ms", (int)clock,
		      (unsigned long long)((a - last[i]) / MS));
		last[i] = c;
	}
}

/* How far clocks are apart stays nearly the same: one alone must not be moved. */
static void check_distance(int64_t first[])
{
	uint64_t base = by_syscall(CLOCK_MONOTONIC);
	for (unsigned i = 1; i < COUNT(clocks); i++) {
		if (clocks[i] == CLOCK_MONOTONIC_RAW)
			continue; /* drifts, and is another host's counter after a move */
		int64_t distance = (int64_t)(by_syscall(clocks[i]) - base);
		if (first[i] == 0)
			first[i] = distance;
		int64_t moved = distance - first[i];
		int64_t most = (int64_t)(TOLERANCE * 2 / 3);
		CHECK(moved < most && moved > -most, "clock %d moved by %lld ms", (int)clocks[i],
		      (long long)(moved / (int64_t)MS));
	}
}

static void check_alarm(uint64_t begin)
{
	struct itimerval left;
	MUST(getitimer(ITIMER_REAL, &left));
	int64_t sum = (int64_t)left.it_value.tv_sec + (int64_t)((now() - begin) / SECOND);
	int64_t off = 1 + (int64_t)tolerance_s;
	CHECK(sum >= ALARM - off && sum <= ALARM + off, "the alarm has %lld s left after %llu s", (long long)left.it_value.tv_sec,
	      (unsigned long long)((now() - begin) / SECOND));
}

static volatile int stop_now;
static void *watch(void *argument)
{
	uint64_t last[COUNT(clocks)] = { 0 };
	while (!stop_now) {
		for (int i = 0; i < 1000; i++)
			check_agreement(last);
		pause_ms(1);
	}
	return argument;
}

int main(int argc, char **argv)
{
	uint64_t last[COUNT(clocks)] = { 0 };
	int64_t first[COUNT(clocks)] = { 0 };
	victim_begin(argc, argv);
	uint64_t begin = now();
	alarm(ALARM);
	pthread_t watcher = start_thread(watch, NULL);
	ready();
	while (!stopped()) {
		for (int i = 0; i < 100; i++)
			check_agreement(last);
		check_distance(first);
		check_alarm(begin);
		pause_ms(2);
	}
	stop_now = 1;
	pthread_join(watcher, NULL);
	pass();
}
