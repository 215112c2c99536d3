/* guard STOP-FILE: a process with a guard page (MADV_GUARD_INSTALL) in the middle of its memory; 3 if the kernel has none. */
#include "../../victims/victim.h"
#include <sys/mman.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	char *at = MUST(mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	fill(at, 16 * 4096, 1);
	if (madvise(at + 4 * 4096, 4096, MADV_GUARD_INSTALL) != 0)
		return 3;
	ready();
	while (!stopped())
		pause_ms(5);
	verify(at, 4 * 4096, 1, "before the guard page");
	verify(at + 5 * 4096, 11 * 4096, 1 + 5 * 512, "behind the guard page");
	pass();
}
