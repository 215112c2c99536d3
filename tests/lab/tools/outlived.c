/* outlived memory|pipe|clone: a process whose main thread ends while another one lives on, and its child, with which it shares memory, a
 * pipe, or its whole address space. Says the child's pid. The child is quiet, and whoever started them ends both. */
#include "../../victims/victim.h"
#include <sched.h>
#include <sys/mman.h>

static char stack[65536];

/* Nothing of the lab's is held. */
static int quiet(void *unused)
{
	int null = MUST(open("/dev/null", O_RDWR));
	for (int fd = 0; fd < 3; fd++)
		MUST(dup2(null, fd));
	MUST(close(null));
	for (;;)
		syscall(SYS_pause);
	return unused != NULL;
}

static void *work(void *unused)
{
	char line[20];
	while (getpid() == gettid())
		;
	/* when the main thread has ended its own memory is gone */
	for (char path[64], byte; snprintf(path, sizeof path, "/proc/%d/maps", getpid()) > 0; pause_ms(1)) {
		int fd = MUST(open(path, O_RDONLY));
		long got = read(fd, &byte, 1);
		close(fd);
		if (got <= 0)
			break;
	}
	snprintf(line, sizeof line, "%d\n", *(int *)unused);
	say(line);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	static int child;
	int ends[2] = { -1, -1 };
	CHECK(argc == 2, "usage: %s memory|pipe|clone", argv[0]);
	if (argv[1][0] == 'm')
		CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED, "mmap");
	if (argv[1][0] == 'p')
		MUST(pipe(ends));
	if (argv[1][0] == 'c') {
		child = MUST(clone(quiet, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL));
	} else if ((child = MUST(fork())) == 0) {
		quiet(NULL);
	}
	start_thread(work, &child);
	pthread_exit(NULL);
}
