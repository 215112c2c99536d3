/* No vDSO: the program has unmapped it with its data, and never reads a clock but by a system call. A signal is handled all the same. */
#include "victim.h"
#include <sys/mman.h>

static volatile sig_atomic_t handled;

static void on_signal(int signal) { handled += signal == SIGUSR1; }

/* How many areas of the kernel's there are; they are unmapped if so wished. */
static int special(int unmap)
{
	char text[64 << 10], *line, *rest = text;
	size_t have = 0;
	int found = 0, maps = MUST(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
	for (ssize_t got; (got = MUST(read(maps, text + have, sizeof text - 1 - have))) > 0;)
		have += got;
	text[have] = 0;
	MUST(close(maps));
	while ((line = strsep(&rest, "\n"))) {
		char *end;
		unsigned long from = strtoul(line, &end, 16), to = *end == '-' ? strtoul(end + 1, NULL, 16) : 0;
		if (!strstr(line, "[vdso]") && !strstr(line, "[vvar"))
			continue;
		found++;
		if (unmap)
			MUST(syscall(SYS_munmap, from, to - from));
	}
	return found;
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	MUST(sigaction(SIGUSR1, &(struct sigaction){ .sa_handler = on_signal }, NULL));
	char *memory = MUST(mmap(NULL, 256 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	fill(memory, 256 * 4096, 1);
	CHECK(special(1) > 1, "there is no vDSO");
	ready();
	for (int round = 0; access(stop_file, F_OK); round++) {
		struct timespec before, after;
		handled = 0;
		MUST(syscall(SYS_kill, getpid(), SIGUSR1));
		CHECK(handled == 1, "the signal was handled %d times", (int)handled);
		MUST(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &before));
		MUST(syscall(SYS_nanosleep, &(struct timespec){ 0, 5000000 }, NULL));
		MUST(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &after));
		CHECK(to_ns(after) - to_ns(before) < TOLERANCE, "the clock jumped");
		*(volatile uint64_t *)(memory + round % 256 * 4096) = mix(1 + round % 256 * 512);
	}
	verify(memory, 256 * 4096, 1, "memory");
	CHECK(special(0) == 0, "there is a vDSO");
	pass();
}
