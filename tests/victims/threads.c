/* Many threads: a token goes round through condition variables, others come and go, each knows who it is. */
#include "victim.h"
#include <sys/prctl.h>

#define RING 16

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static uint64_t token, passed[RING];
static int stop_now;
static pthread_key_t key;
static uint64_t short_lived;

static void *in_ring(void *argument)
{
	uint64_t me = (uint64_t)(uintptr_t)argument;
	char name[16], seen[16];
	pid_t tid = (pid_t)syscall(SYS_gettid);
	pthread_t self = pthread_self();
	snprintf(name, sizeof name, "ring-%llu", (unsigned long long)me);
	pthread_setname_np(self, name);
	pthread_setspecific(key, argument);
	pthread_mutex_lock(&lock);
	while (!stop_now) {
		if (token % RING == me) {
			passed[me]++;
			token++;
			pthread_cond_broadcast(&turn);
			CHECK(passed[me] == token / RING + (token % RING > me), "thread %d lost count", (int)me);
			CHECK(syscall(SYS_gettid) == tid, "the thread id changed");
			CHECK(pthread_equal(pthread_self(), self) && pthread_getspecific(key) == argument, "TLS changed");
			prctl(PR_GET_NAME, seen);
			CHECK(strcmp(seen, name) == 0, "the thread's name changed to %s", seen);
			if (me == 0) {
				pthread_mutex_unlock(&lock);
				pause_ms(1);
				pthread_mutex_lock(&lock);
			}
		} else {
			pthread_cond_wait(&turn, &lock);
		}
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void *come_and_go(void *argument)
{
	__atomic_add_fetch(&short_lived, 1, __ATOMIC_SEQ_CST);
	return argument;
}

int main(int argc, char **argv)
{
	pthread_t ring[RING];
	uint64_t started = 0, last_token = 0, last_progress = now();
	victim_begin(argc, argv);
	pthread_key_create(&key, NULL);
	for (uintptr_t i = 0; i < RING; i++)
		ring[i] = start_thread(in_ring, (void *)i);
	ready();
	while (!stopped()) {
		void *result;
		pthread_t thread = start_thread(come_and_go, &started);
		started++;
		CHECK(pthread_join(thread, &result) == 0 && result == &started, "join");
		CHECK(short_lived == started, "a thread did not run");
		uint64_t seen = __atomic_load_n(&token, __ATOMIC_SEQ_CST);
		if (seen != last_token)
			last_token = seen, last_progress = now();
		CHECK(now() - last_progress < TOLERANCE, "the ring stands still at %llu", (unsigned long long)seen);
		pause_ms(5);
	}
	pthread_mutex_lock(&lock);
	stop_now = 1;
	pthread_cond_broadcast(&turn);
	pthread_mutex_unlock(&lock);
	for (int i = 0; i < RING; i++)
		pthread_join(ring[i], NULL);
	pass();
}
