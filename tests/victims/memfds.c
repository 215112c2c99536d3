/* Memory files with seals, as they are mapped: read-only and shared after the seal against writing, or private; shared and writable from before
 * F_SEAL_FUTURE_WRITE; without any descriptor. What a seal forbids stays forbidden, what is mapped stays as it is. */
#include "victim.h"
#include <sys/mman.h>
#include <sys/stat.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif
#define SIZE 65536ul
#define ALL (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int sealed, future, early, unread;
static char *shared, *private, *writable, *before, *reader, *alone;

static int make(const char *name, uint64_t seed)
{
	int fd = MUST(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
	MUST(ftruncate(fd, SIZE));
	char *at = MUST(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	fill(at, SIZE, seed);
	MUST(munmap(at, SIZE));
	return fd;
}

static char *map(int fd, int prot, int how) { return MUST(mmap(NULL, SIZE, prot, how, fd, 0)); }

static int read_only(int fd)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return MUST(open(path, O_RDONLY | O_CLOEXEC));
}

static void prepare(void)
{
	sealed = make("sealed", 1);
	MUST(fcntl(sealed, F_ADD_SEALS, ALL));
	int fd = read_only(sealed);
	/* by a writable description only since Linux 6.7 */
	shared = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, sealed, 0);
	if (shared == MAP_FAILED)
		shared = map(fd, PROT_READ, MAP_SHARED);
	private = map(sealed, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fill(private + 4096, 4096, 77);
	close(fd);
	future = make("future", 2);
	writable = map(future, PROT_READ | PROT_WRITE, MAP_SHARED);
	MUST(fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK));
	reader = map(future, PROT_READ, MAP_SHARED);
	/* mapped by one that reads, sealed afterwards by the one that wrote, which is gone */
	early = make("early", 3);
	unread = read_only(early);
	before = map(unread, PROT_READ, MAP_SHARED);
	MUST(fcntl(early, F_ADD_SEALS, F_SEAL_WRITE));
	close(early);
	fd = make("alone", 4);
	MUST(fcntl(fd, F_ADD_SEALS, ALL));
	int reading = read_only(fd);
	alone = map(reading, PROT_READ, MAP_SHARED);
	close(reading);
	close(fd);
}

static int seals_of_mapping(const void *at)
{
	char path[100];
	snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", (unsigned long)at, (unsigned long)at + SIZE);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1; /* only root may look */
	int seals = MUST(fcntl(fd, F_GET_SEALS));
	close(fd);
	return seals;
}

static void check(uint64_t round)
{
	CHECK(MUST(fcntl(sealed, F_GET_SEALS)) == ALL, "seals %#x", fcntl(sealed, F_GET_SEALS));
	CHECK(MUST(fcntl(future, F_GET_SEALS)) == (F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK), "seals %#x", fcntl(future, F_GET_SEALS));
	CHECK(MUST(fcntl(unread, F_GET_SEALS)) == F_SEAL_WRITE, "seals %#x", fcntl(unread, F_GET_SEALS));
	int seals = seals_of_mapping(alone);
	CHECK(seals == -1 || seals == ALL, "seals %#x of one that is mapped only", seals);
	verify(shared, SIZE, 1, "sealed, shared");
	verify(before, SIZE, 3, "sealed later");
	verify(alone, SIZE, 4, "sealed, without a descriptor");
	verify(private, 4096, 1, "sealed, private");
	verify(private + 4096, 4096, 77, "sealed, private, written");
	verify(private + 8192, SIZE - 8192, 1 + 1024, "sealed, private");
	char *const fixed[] = { shared, before, alone, reader };
	for (size_t i = 0; i < COUNT(fixed); i++)
		CHECK(mprotect(fixed[i], SIZE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES, "mapping %zu can be made writable", i);
	CHECK(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, future, 0) == MAP_FAILED && errno == EPERM, "it can be mapped to be written");
	uint64_t got = 0;
	*(volatile uint64_t *)writable = round;
	/* a store may change the time of the last write, if its page is protected just now */
	MUST(futimens(future, (struct timespec[]){ { 1000000000, 5 }, { 1100000000, 7 } }));
	CHECK(pread(future, &got, sizeof got, 0) == sizeof got && got == round, "what is stored does not come");
	CHECK(*(volatile uint64_t *)reader == round, "two mappings of one are apart");
	verify(writable + 4096, SIZE - 4096, 2 + 512, "future");
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	prepare();
	ready();
	for (uint64_t round = 1; !stopped(); round++) {
		check(round);
		pause_ms(5);
	}
	check(~0ull);
	/* at the end: an attempt changes the time of the last write */
	CHECK(pwrite(sealed, "x", 1, 0) == -1 && errno == EPERM, "it can be written");
	CHECK(pwrite(future, "x", 1, 0) == -1 && errno == EPERM, "it can be written in future");
	pass();
}
