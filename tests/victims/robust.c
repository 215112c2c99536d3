/* Robust mutexes: threads that began before a move hold some and die after it; the next owner must be told. */
#include "victim.h"

#define OWNERS 8

static pthread_mutex_t held[OWNERS], churned;
static volatile int holding;
static volatile int stop_now;

static void make_robust(pthread_mutex_t *mutex, int type, int protocol)
{
	pthread_mutexattr_t attributes;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_settype(&attributes, type);
	pthread_mutexattr_setprotocol(&attributes, protocol);
	CHECK(pthread_mutex_init(mutex, &attributes) == 0, "pthread_mutex_init");
}

static void *own_until_stop(void *argument)
{
	pthread_mutex_t *mutex = argument;
	CHECK(pthread_mutex_lock(mutex) == 0, "lock");
	__atomic_add_fetch(&holding, 1, __ATOMIC_SEQ_CST);
	while (!stop_now)
		pause_ms(20);
	return NULL; /* still holding it */
}

static void *own_and_die(void *argument)
{
	CHECK(pthread_mutex_lock(argument) == 0, "lock");
	pause_ms(5);
	return NULL;
}

static void take_over(pthread_mutex_t *mutex, const char *what)
{
	struct timespec until = from_ns(now_on(CLOCK_REALTIME) + TOLERANCE);
	int result = pthread_mutex_timedlock(mutex, &until);
	CHECK(result == EOWNERDEAD, "%s: lock after its owner's death gives %d instead of EOWNERDEAD", what, result);
	CHECK(pthread_mutex_consistent(mutex) == 0 && pthread_mutex_unlock(mutex) == 0, "%s: cannot be used on", what);
}

int main(int argc, char **argv)
{
	pthread_t owners[OWNERS];
	victim_begin(argc, argv);
	make_robust(&churned, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE);
	for (int i = 0; i < OWNERS; i++) {
		make_robust(&held[i], i % 2 ? PTHREAD_MUTEX_NORMAL : PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE);
		owners[i] = start_thread(own_until_stop, &held[i]);
	}
	while (holding < OWNERS)
		pause_ms(1);
	ready();
	while (!stopped()) {
		pthread_t owner = start_thread(own_and_die, &churned);
		pause_ms(2);
		pthread_join(owner, NULL);
		take_over(&churned, "young owner");
		for (int i = 0; i < OWNERS; i++)
			CHECK(pthread_mutex_trylock(&held[i]) == EBUSY, "a held mutex became free");
	}
	stop_now = 1;
	for (int i = 0; i < OWNERS; i++) {
		if (i % 2)
			pthread_join(owners[i], NULL);
		take_over(&held[i], i % 2 ? "dead owner" : "dying owner");
	}
	pass();
}
