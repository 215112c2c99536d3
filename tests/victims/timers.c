/* Interval timers and POSIX timers: periodic ones tick at their rate, long ones keep what is left. */
#include "victim.h"
#include <sys/time.h>

#define PERIOD (20 * MS)
#define LONG (1000 * SECOND)

static volatile sig_atomic_t alarms, ticks, overruns, wrong_payload, thread_ticks, virtual_ticks;
static timer_t periodic, once, to_thread;
static uint64_t begin;

static void on_alarm(int signal) { (void)signal; alarms++; }
static void on_virtual(int signal) { (void)signal; virtual_ticks++; }
static void on_tick(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	wrong_payload |= info->si_value.sival_int != 4242 || info->si_code != SI_TIMER;
	overruns += info->si_overrun;
	ticks++;
}
static void on_thread_tick(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	wrong_payload |= info->si_value.sival_int != (int)syscall(SYS_gettid);
	thread_ticks++;
}

static void handle(int signal, void (*plain)(int), void (*with_info)(int, siginfo_t *, void *))
{
	struct sigaction action = { .sa_flags = SA_RESTART | (with_info ? SA_SIGINFO : 0) };
	if (with_info)
		action.sa_sigaction = with_info;
	else
		action.sa_handler = plain;
	MUST(sigaction(signal, &action, NULL));
}

/* Never too many; and never silent for longer than the tolerance. */
static void check_rate(const char *what, uint64_t count, uint64_t *last_count, uint64_t *last_change, uint64_t period)
{
	uint64_t elapsed = now() - begin;
	CHECK(count <= elapsed / period + 2, "%s: %llu ticks in %llu ms", what, (unsigned long long)count,
	      (unsigned long long)(elapsed / MS));
	if (count != *last_count)
		*last_count = count, *last_change = now();
	CHECK(now() - *last_change < TOLERANCE, "%s: no tick any more after %llu", what, (unsigned long long)count);
}

static void check_long(void)
{
	struct itimerspec left;
	uint64_t elapsed = now() - begin;
	MUST(timer_gettime(once, &left));
	uint64_t sum = to_ns(left.it_value) + elapsed;
	CHECK(sum > LONG - TOLERANCE / 3 && sum < LONG + TOLERANCE / 3, "the long timer has %llu ms left after %llu ms",
	      (unsigned long long)(to_ns(left.it_value) / MS), (unsigned long long)(elapsed / MS));
	MUST(timer_gettime(periodic, &left));
	CHECK(to_ns(left.it_interval) == PERIOD && to_ns(left.it_value) <= PERIOD, "the periodic timer's period changed");
	struct itimerval real;
	MUST(getitimer(ITIMER_REAL, &real));
	CHECK(real.it_interval.tv_usec == 30000, "the interval timer's period changed");
}

/* Sleeps although timers' signals interrupt sleeps. */
static void rest(uint64_t ns)
{
	struct timespec until = from_ns(now() + ns);
	int result;
	while ((result = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)) == EINTR)
		;
	CHECK(result == 0, "clock_nanosleep: %d", result);
}

int main(int argc, char **argv)
{
	uint64_t counts[4] = { 0 }, changes[4];
	victim_begin(argc, argv);
	handle(SIGALRM, on_alarm, NULL);
	handle(SIGVTALRM, on_virtual, NULL);
	handle(SIGRTMIN + 1, NULL, on_tick);
	handle(SIGRTMIN + 2, NULL, on_thread_tick);
	begin = now();
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1, .sigev_value.sival_int = 4242 };
	timer_t gap;
	MUST(timer_create(CLOCK_MONOTONIC, &event, &gap));
	MUST(timer_create(CLOCK_MONOTONIC, &event, &periodic));
	MUST(timer_create(CLOCK_BOOTTIME, &event, &once));
	/* Timer ids have a hole; it must be kept. */
	MUST(timer_delete(gap));
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = SIGRTMIN + 2;
	event.sigev_value.sival_int = (int)syscall(SYS_gettid);
	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	MUST(timer_create(CLOCK_REALTIME, &event, &to_thread));
	struct itimerspec period = { .it_value = from_ns(PERIOD), .it_interval = from_ns(PERIOD) };
	MUST(timer_settime(periodic, 0, &period, NULL));
	MUST(timer_settime(to_thread, 0, &period, NULL));
	period = (struct itimerspec){ .it_value = from_ns(LONG) };
	MUST(timer_settime(once, 0, &period, NULL));
	struct itimerval real = { .it_interval.tv_usec = 30000, .it_value.tv_usec = 30000 };
	MUST(setitimer(ITIMER_REAL, &real, NULL));
	MUST(setitimer(ITIMER_VIRTUAL, &(struct itimerval){ { 0, 5000 }, { 0, 5000 } }, NULL));
	for (int i = 0; i < 4; i++)
		changes[i] = now();
	ready();
	for (int round = 0; !stopped(); round++) {
		check_rate("setitimer", alarms, &counts[0], &changes[0], 30 * MS);
		check_rate("timer_create", ticks + overruns, &counts[1], &changes[1], PERIOD);
		check_rate("timer for a thread", thread_ticks, &counts[2], &changes[2], PERIOD);
		check_rate("virtual interval timer", virtual_ticks, &counts[3], &changes[3], 4 * MS);
		CHECK(!wrong_payload, "a timer's signal had a wrong payload");
		check_long();
		/* Ticks of virtual time need work. */
		for (uint64_t until = now() + 5 * MS; now() < until;)
			;
		rest(5 * MS);
	}
	pass();
}
