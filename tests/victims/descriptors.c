/* Descriptors at the edge of what is permitted: the table is full up to its limit, which is 0 by now (as a sandbox sets it); numbers stand
 * in each other's way, one is far above the limit, and each says which file it is. */
#include "victim.h"
#include <sys/eventfd.h>
#include <sys/resource.h>

#define LIMIT 300
#define HIGH 700

static int opened[LIMIT], cloexec[LIMIT];

static void check_all(void)
{
	struct rlimit limit;
	MUST(getrlimit(RLIMIT_NOFILE, &limit));
	CHECK(limit.rlim_cur == 0 && limit.rlim_max == LIMIT, "the limit is %ld of %ld", (long)limit.rlim_cur, (long)limit.rlim_max);
	CHECK(dup(0) == -1 && errno == EMFILE, "one more can be opened");
	for (int fd = 3; fd < LIMIT; fd++) {
		uint64_t count = 0;
		CHECK(MUST(fcntl(fd, F_GETFD)) == cloexec[fd], "descriptor %d: close-on-exec", fd);
		if (!opened[fd])
			continue;
		CHECK(read(fd, &count, 8) == 8 && (int)count == opened[fd], "descriptor %d: eventfd %d instead of %d", fd, (int)count, opened[fd]);
		CHECK(write(fd, &count, 8) == 8, "write");
	}
	CHECK(fcntl(HIGH, F_GETFD) == FD_CLOEXEC && fcntl(HIGH - 1, F_GETFD) == -1, "descriptor %d", HIGH);
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	struct rlimit limit = { HIGH + 1, HIGH + 1 };
	MUST(setrlimit(RLIMIT_NOFILE, &limit));
	MUST(fcntl(MUST(open("/dev/null", O_RDWR)), F_DUPFD_CLOEXEC, HIGH));
	for (int fd; (fd = MUST(eventfd(1000, EFD_NONBLOCK))) < LIMIT - 1;)
		;
	/* rings of numbers, and some twice: made in an order that is not that of the numbers */
	for (int i = 0; i < 200; i++) {
		int fd = 10 + (i * 77) % 200, value = 2000 + i;
		close(fd);
		CHECK(eventfd(value, EFD_NONBLOCK | (i % 3 ? 0 : EFD_CLOEXEC)) == fd, "eventfd");
		opened[fd] = value;
		cloexec[fd] = i % 3 ? 0 : FD_CLOEXEC;
	}
	for (int fd = 220; fd < 290; fd++)
		MUST(dup3(10 + (fd * 31) % 200, fd, fd % 2 ? O_CLOEXEC : 0)), cloexec[fd] = fd % 2;
	limit = (struct rlimit){ 0, LIMIT };
	MUST(setrlimit(RLIMIT_NOFILE, &limit));
	ready();
	for (;;) {
		int last = access(stop_file, F_OK) == 0;
		check_all();
		if (last)
			pass();
		pause_ms(5);
	}
}
