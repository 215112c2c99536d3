/* No room under its own limits of mappings (RLIMIT_AS, RLIMIT_DATA), which are as they were. */
#include "victim.h"
#include <sys/mman.h>
#include <sys/resource.h>

#define SIZE (64 * 4096ul)

static void *map(void) { return mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	char *data = MUST(map());
	fill(data, SIZE, 1);
	struct rlimit limits[2];
	unsigned long pages, unused, data_pages;
	FILE *statm = fopen("/proc/self/statm", "re");
	CHECK(statm && fscanf(statm, "%lu %lu %lu %lu %lu %lu", &pages, &unused, &unused, &unused, &unused, &data_pages) == 6, "statm");
	fclose(statm);
	/* only the soft ones: above a hard one leads CAP_SYS_RESOURCE alone */
	MUST(getrlimit(RLIMIT_AS, &limits[0]));
	MUST(getrlimit(RLIMIT_DATA, &limits[1]));
	limits[0].rlim_cur = pages * 4096;
	limits[1].rlim_cur = data_pages * 4096;
	MUST(setrlimit(RLIMIT_AS, &limits[0]));
	MUST(setrlimit(RLIMIT_DATA, &limits[1]));
	ready();
	for (uint32_t round = 0; !stopped(); round++) {
		struct rlimit now[2];
		*(volatile uint32_t *)(data + SIZE - 4096) = round;
		pause_ms(1);
		CHECK(*(volatile uint32_t *)(data + SIZE - 4096) == round, "a page has lost its content");
		verify(data, SIZE - 4096, 1, "data");
		/* its only thread is stopped while a call of the mover's needs them higher */
		MUST(getrlimit(RLIMIT_AS, &now[0]));
		MUST(getrlimit(RLIMIT_DATA, &now[1]));
		CHECK(memcmp(now, limits, sizeof limits) == 0, "limits %lu %lu, and were %lu %lu", now[0].rlim_cur, now[1].rlim_cur,
		      limits[0].rlim_cur, limits[1].rlim_cur);
		CHECK(map() == MAP_FAILED && errno == ENOMEM, "there is room for another mapping");
	}
	pass();
}
