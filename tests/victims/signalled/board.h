/* What the victim `signalled` and its senders know of each other: a file that both map, on whichever host they are. */
#ifndef BOARD_H
#define BOARD_H
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* On each of two hosts: two that number what they queue to the process, one to its thread, one that uses kill. */
#define KINDS 4
#define LANES (2 * KINDS)
#define DOUBTS 4096

struct lane {
	/* By the sender: the last number, its own pid, and numbers of which it cannot know whether they were accepted. */
	_Atomic uint32_t sent, sender, doubts, doubt[DOUBTS];
	/* By the victim: the last number, and numbers that it never saw. */
	_Atomic uint32_t last, came, missing, miss[DOUBTS];
};
struct board {
	/* `where`: 0 or 1, the host from which it is signalled now. */
	_Atomic uint32_t pid, tid, over, wrong, where;
	/* The last one by kill and by tgkill: si_code and si_pid. */
	_Atomic int32_t by_kill[2], by_tgkill[2];
	struct lane lane[LANES];
};

static inline struct board *board_at(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || ftruncate(fd, sizeof(struct board)) != 0)
		return MAP_FAILED;
	struct board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return board;
}
#endif
