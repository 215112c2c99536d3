/* Swap space for a while: argv[2] MiB in the file argv[1], until standard input ends. So it goes whichever way the test
 * ends, and with it the file. */
#define _GNU_SOURCE 1
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/swap.h>
#include <unistd.h>

#define PAGE 4096

static int must(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

int main(int argc, char **argv)
{
	static char page[PAGE];
	if (argc != 3)
		return 2;
	signal(SIGINT, SIG_IGN); /* Ctrl-C ends the test, whose end we see */
	signal(SIGHUP, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	uint32_t pages = strtoul(argv[2], NULL, 10) * 256;
	int fd = must(open(argv[1], O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600), argv[1]);
	for (uint32_t i = 0; i < pages; i++)
		must(pwrite(fd, page, PAGE, (off_t)i * PAGE) == PAGE ? 0 : -1, "writing it");
	/* union swap_header: after 1024 bytes the version, the last page, the number of bad ones */
	uint32_t head[3] = { 1, pages - 1, 0 };
	memcpy(page + 1024, head, sizeof head);
	memcpy(page + PAGE - 10, "SWAPSPACE2", 10);
	must(pwrite(fd, page, PAGE, 0) == PAGE ? 0 : -1, "its header");
	must(fsync(fd), "fsync");
	if (swapon(argv[1], 0) < 0) {
		perror("swapon");
		unlink(argv[1]);
		return 1;
	}
	puts("ready");
	fflush(stdout);
	while (read(0, page, PAGE) > 0)
		;
	must(swapoff(argv[1]), "swapoff");
	return unlink(argv[1]) < 0;
}
