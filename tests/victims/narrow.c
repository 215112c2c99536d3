/* Limits without room: of address space to the page, of data and of its stack below what is in use, of locked memory,
 * of files' sizes and of descriptors. What the limits forbid stays forbidden. */
#include "victim.h"
#include <sys/mman.h>
#include <sys/resource.h>

static struct rlimit limits[RLIM_NLIMITS];

/* Bytes of address space. */
static unsigned long used(void)
{
	char text[100] = "";
	int statm = MUST(open("/proc/self/statm", O_RDONLY));
	MUST(read(statm, text, sizeof text - 1));
	MUST(close(statm));
	return strtoul(text, NULL, 10) * 4096;
}

/* As a rule the hard limit, too: nobody without CAP_SYS_RESOURCE could raise it again. */
static void lower(int which, rlim_t to, rlim_t hard)
{
	struct rlimit limit = { to, hard };
	MUST(setrlimit(which, &limit));
}

static void check(void)
{
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit now;
		MUST(getrlimit(i, &now));
		CHECK(now.rlim_cur == limits[i].rlim_cur && now.rlim_max == limits[i].rlim_max, "limit %d is %lld %lld, not %lld %lld", i,
		      (long long)now.rlim_cur, (long long)now.rlim_max, (long long)limits[i].rlim_cur, (long long)limits[i].rlim_max);
	}
	CHECK(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM,
	      "a page could be mapped");
	CHECK(sbrk(4096) == (void *)-1, "the data segment could grow");
	CHECK(open("/", O_RDONLY) < 0 && errno == EMFILE, "a file could be opened");
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	char *memory = MUST(mmap(NULL, 256 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	fill(memory, 256 * 4096, 1);
	unsigned long size = used();
	lower(RLIMIT_FSIZE, 65536, 65536);
	lower(RLIMIT_STACK, 4096, 4096);
	lower(RLIMIT_DATA, 8192, 8192);
	lower(RLIMIT_MEMLOCK, 4096, 4096);
	/* an outsider makes room for the tracker's descriptor, up to the hard limit */
	lower(RLIMIT_NOFILE, 3, 1024);
	lower(RLIMIT_AS, size, size);
	for (int i = 0; i < RLIM_NLIMITS; i++)
		MUST(getrlimit(i, &limits[i]));
	check();
	ready();
	for (uint64_t round = 0; !stopped(); round++) {
		*(volatile uint64_t *)(memory + round % 256 * 4096) = mix(1 + round % 256 * 512);
		check();
	}
	verify(memory, 256 * 4096, 1, "memory");
	pass();
}
