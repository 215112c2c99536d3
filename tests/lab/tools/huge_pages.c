/* Takes huge pages: maps argv[2] of them with a reservation ("reserve"), or as many of these as there are ("rest"), or
 * without a reservation and all touched ("touch"); checks at the end that they hold what it wrote. Behaves as victims do. */
#include "../../victims/victim.h"
#include <sys/mman.h>

#define HUGE (2ul << 20)

int main(int argc, char **argv)
{
	CHECK(argc == 4, "usage: %s reserve|rest|touch PAGES STOP-FILE", argv[0]);
	stop_file = argv[3];
	int touch = strcmp(argv[1], "touch") == 0;
	size_t pages = strtoul(argv[2], NULL, 10);
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT | (touch ? MAP_NORESERVE : 0);
	char *at = mmap(NULL, pages * HUGE, PROT_READ | PROT_WRITE, flags, -1, 0);
	while (at == MAP_FAILED && errno == ENOMEM && strcmp(argv[1], "rest") == 0 && pages > 1)
		at = mmap(NULL, --pages * HUGE, PROT_READ | PROT_WRITE, flags, -1, 0);
	CHECK(at != MAP_FAILED, "mmap of %zu huge pages", pages);
	size_t used = touch ? pages : 1;
	for (size_t i = 0; i < used; i++)
		fill(at + i * HUGE, HUGE, i << 32);
	ready();
	while (!stopped())
		pause_ms(20);
	for (size_t i = 0; i < used; i++)
		verify(at + i * HUGE, HUGE, i << 32, "huge page");
	pass();
}
