/* Memory that is to be of transparent huge pages (MADV_HUGEPAGE) of which little is there, and some that is: what is resident stays
 * about the same. */
#include "victim.h"
#include <sys/mman.h>

#define HUGE (2ul << 20)
#define SPARSE (64 * HUGE)
#define DENSE (4 * HUGE)

static char *aligned(size_t bytes)
{
	char *raw = MUST(mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	char *at = (char *)(((uintptr_t)raw + HUGE - 1) & ~(HUGE - 1));
	MUST(madvise(at, bytes, MADV_HUGEPAGE));
	return at;
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	char *sparse = aligned(SPARSE), *dense = aligned(DENSE);
	for (size_t at = 0; at < SPARSE; at += HUGE) {
		fill(sparse + at, PAGE, at + 1);
		MUST(madvise(sparse + at + PAGE, HUGE - PAGE, MADV_DONTNEED));
	}
	fill(dense, DENSE, 9);
	long before = proc_field("/proc/self/smaps_rollup", NULL, "Rss:", NULL, 0);
	ready();
	while (!stopped()) {
		for (size_t at = 0; at < SPARSE; at += HUGE)
			verify(sparse + at, PAGE, at + 1, "sparse memory");
		verify(dense, DENSE, 9, "dense memory");
		pause_ms(5);
	}
	/* at the end: an open file of /proc stands in the way of a move */
	long resident = proc_field("/proc/self/smaps_rollup", NULL, "Rss:", NULL, 0);
	CHECK(resident < before + 8 * 1024, "%ld KiB resident, and were %ld", resident, before);
	CHECK(has_flag(sparse, " hg") && has_flag(dense, " hg"), "huge pages are not wanted any more");
	pass();
}
