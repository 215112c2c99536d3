/* Threads that unmap an area and map it again at the same address, with MAP_FIXED: whoever maps something of its own in between,
 * where the kernel likes, loses it. Everything in an area is known as long as it is there. */
#include "victim.h"
#include <sys/mman.h>

#define THREADS 4
#define BYTES (64ul << 10)

static volatile int stop_now;
/* Nobody makes a hole as long as the others map where the kernel likes. */
static pthread_barrier_t all_there;

static void *map_again(void *argument)
{
	uint64_t seed = (uint64_t)argument << 32;
	char *area = MUST(mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	pthread_barrier_wait(&all_there);
	while (!stop_now) {
		MUST(munmap(area, BYTES));
		struct timespec hole = from_ns(dice(MS / 2)), filled = from_ns(dice(MS / 10));
		nanosleep(&hole, NULL);
		char *again = mmap(area, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		CHECK(again == area, "the area came to %p instead of %p", (void *)again, (void *)area);
		verify_zero(area, BYTES, "fresh area");
		fill(area, BYTES, ++seed);
		nanosleep(&filled, NULL);
		verify(area, BYTES, seed, "area");
	}
	return NULL;
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	pthread_t threads[THREADS];
	CHECK(pthread_barrier_init(&all_there, NULL, THREADS + 1) == 0, "pthread_barrier_init");
	/* No other holes, such as the dynamic linker leaves. */
	for (int i = 0; i < 256; i++)
		MUST(mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (uintptr_t i = 0; i < THREADS; i++)
		threads[i] = start_thread(map_again, (void *)(i + 1));
	pthread_barrier_wait(&all_there);
	ready();
	while (!stopped())
		pause_ms(2);
	stop_now = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	pass();
}
