/* Locked memory, as mlock, mlock2(MLOCK_ONFAULT) and mlockall make it: areas without access (the guard pages of threads), areas of
 * which little is there, large ones of which all is. What is mapped later is locked, too (MCL_FUTURE). */
#include "victim.h"
#include <sys/mman.h>

#define LARGE (8ul << 20)
#define RESERVED (256ul << 20)

struct area { char *at; size_t bytes; const char *flags, *not; long resident; };

static void check(struct area *area)
{
	char flags[600] = "";
	long resident = proc_field("/proc/self/smaps", area->at, "Rss:", flags, sizeof flags);
	CHECK(strstr(flags, area->flags), "area %p has %s, not %s", (void *)area->at, flags, area->flags);
	CHECK(!area->not || !strstr(flags, area->not), "area %p has %s, also %s", (void *)area->at, flags, area->not);
	CHECK(area->resident < 0 || labs(resident - area->resident) <= 4, "area %p has %ld KiB, and had %ld", (void *)area->at,
	      resident, area->resident);
}

static void *idle(void *unused)
{
	(void)unused;
	for (;;)
		pause();
}

static char *map(size_t bytes, int prot) { return MUST(mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)); }

/* Whether what is new is locked, and there. */
static int new_is_there(void)
{
	unsigned char there[4] = { 0 };
	char *fresh = map(4 * PAGE, PROT_READ | PROT_WRITE);
	MUST(mincore(fresh, 4 * PAGE, there));
	MUST(munmap(fresh, 4 * PAGE));
	return there[3] & 1;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	victim_begin(argc, argv);
	char *now = map(LARGE, PROT_READ | PROT_WRITE), *later = map(RESERVED, PROT_READ | PROT_WRITE), *none = map(16 * PAGE, PROT_NONE);
	char *holes = map(LARGE, PROT_READ | PROT_WRITE);
	CHECK(pthread_create(&thread, NULL, idle, NULL) == 0, "pthread_create");
	MUST(mlockall(MCL_CURRENT | MCL_FUTURE));
	MUST(munlock(later, RESERVED));
	fill(now, LARGE, 1);
	fill(holes, LARGE, 2);
	/* what is locked may lack pages all the same */
	MUST(madvise(holes + LARGE / 2, LARGE / 4, 24 /* MADV_DONTNEED_LOCKED */));
	MUST(madvise(later, RESERVED, MADV_DONTNEED));
	MUST(syscall(SYS_mlock2, later, RESERVED, 1 /* MLOCK_ONFAULT */));
	for (size_t at = 0; at < RESERVED; at += RESERVED / 8)
		later[at] = 1;
	char flags[600];
	proc_field("/proc/self/smaps", later, "Rss:", flags, sizeof flags);
	const char *on_fault = strstr(flags, " lf") ? " lf" : " lo", *plain = strstr(flags, " lf") ? " lf" : NULL;
	struct area areas[] = {
		{ now, LARGE, " lo", plain, LARGE / 1024 },
		{ later, RESERVED, on_fault, NULL, 32 },
		{ none, 16 * PAGE, " lo", plain, 0 },
		{ holes, LARGE, " lo", plain, LARGE / 4 * 3 / 1024 },
	};
	for (size_t i = 0; i < COUNT(areas); i++)
		check(&areas[i]);
	long locked = proc_field("/proc/self/status", NULL, "VmLck:", NULL, 0);
	ready();
	for (uint64_t round = 0; !stopped(); round++) {
		*(volatile uint64_t *)(now + round % 2048 * PAGE + 64) = *(volatile uint64_t *)(now + round % 2048 * PAGE + 64);
		if (round % 512)
			continue;
		verify(now, LARGE, 1, "locked memory");
		verify(holes, LARGE / 2, 2, "locked memory before the hole");
		CHECK(new_is_there(), "a new mapping is not locked any more");
	}
	/* at the end: an open file of /proc stands in the way of a move */
	for (size_t i = 0; i < COUNT(areas); i++)
		check(&areas[i]);
	long is = proc_field("/proc/self/status", NULL, "VmLck:", NULL, 0);
	CHECK(labs(is - locked) <= 512, "%ld KiB locked, and were %ld", is, locked);
	pass();
}
