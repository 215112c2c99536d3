/* Signals to the victim `signalled`, wherever it is: `senders BOARD HALF [REST]` sends in one host (HALF 0 or 1), four lanes of it, until the
 * board says that it is over. A number whose signal was accepted by a process that has been killed since is a doubtful one: it may come.
 * `senders BOARD once`: a SIGUSR1 by kill to the process as its lane 3, a SIGUSR2 by tgkill to its thread as its lane 7; `many`: 5,000
 * numbers before them as lane 0. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "../../victims/signalled/board.h"

static struct board *board;
static uint32_t half;
/* Between two by kill, in microseconds: with fewer more of them meet the end of a copy. */
static long kill_rest = 50000;

static void rest(long us) { nanosleep(&(struct timespec){ 0, us * 1000 }, NULL); }

static int proc(pid_t pid, const char *file, char *text, size_t size)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? 0 : read(fd, text, size - 1);
	if (fd >= 0)
		close(fd);
	text[got < 0 ? 0 : got] = 0;
	return got > 0;
}

/* Killed, or gone. The bit is set under the lock under which signals are queued, in the instant from which the kernel drops what is
 * sent, and stays until the process is reaped: if it is not there, what was sent before was queued. One that is being reaped just
 * then has no threads, and no bits. */
static int is_ending(pid_t pid)
{
	char text[4096], *at;
	if (!proc(pid, "status", text, sizeof text) || !(at = strstr(text, "ShdPnd:")) || strstr(text, "Threads:\t0\n"))
		return 1;
	return strtoull(at + 7, NULL, 16) >> (SIGKILL - 1) & 1;
}

static int queue(int kind, int number, siginfo_t *info)
{
	if (kind == 2)
		return syscall(SYS_rt_tgsigqueueinfo, board->pid, board->tid, number, info);
	return syscall(SYS_rt_sigqueueinfo, board->pid, number, info);
}

static void doubt(struct lane *lane, uint32_t number)
{
	lane->doubt[lane->doubts % DOUBTS] = number;
	lane->doubts++;
}

static void by_number(int index)
{
	int kind = index % KINDS;
	struct lane *lane = &board->lane[index];
	siginfo_t info = { .si_code = SI_QUEUE };
	info.si_pid = getpid();
	info.si_uid = getuid();
	while (!board->over) {
		/* where it comes to, its number is that of another process in the making */
		if (board->where != half) {
			rest(1000);
			continue;
		}
		info.si_value.sival_int = index << 24 | (lane->sent + 1);
		int done = queue(kind, SIGRTMIN + kind, &info);
		if (done == 0) {
			lane->sent++;
			if (is_ending(board->pid))
				doubt(lane, lane->sent);
		}
		rest(done == 0 ? 100 : 1000);
	}
}

/* What was sent to a copy that is going may come as long as its move lasts: it lasts until the board names the other host. */
static void leave(void)
{
	while (board->where == half && !board->over)
		rest(1000);
}

static int is_pending(pid_t pid, int number)
{
	char text[4096], *at;
	return proc(pid, "status", text, sizeof text) && (at = strstr(text, "ShdPnd:")) && strtoull(at + 7, NULL, 16) >> (number - 1) & 1;
}

/* Only one is under way at any time, so that the victim knows its number. */
static void by_kill(int index)
{
	struct lane *lane = &board->lane[index];
	while (!board->over) {
		/* in the stopped copy one that has come at the target may be pending yet: the kernel would make the next one the same */
		if (board->where != half || is_pending(board->pid, SIGUSR1)) {
			rest(1000);
			continue;
		}
		lane->sent++;
		if (kill(board->pid, SIGUSR1) != 0) {
			lane->sent--;
			leave();
			continue;
		}
		if (is_ending(board->pid)) {
			doubt(lane, lane->sent);
			leave();
			continue;
		}
		/* one that does not come is noticed by its number */
		for (long ms = 0; lane->last < lane->sent && ms < 60000 && !board->over; ms++)
			rest(1000);
		rest(kill_rest);
	}
}

static int once(void)
{
	board->lane[3].sender = getpid();
	board->lane[3].sent++;
	board->lane[7].sent++;
	return kill(board->pid, SIGUSR1) || syscall(SYS_tgkill, board->pid, board->tid, SIGUSR2);
}

/* More than one message of a move has room for. */
static int many(void)
{
	struct lane *lane = &board->lane[0];
	siginfo_t info = { .si_code = SI_QUEUE };
	info.si_pid = lane->sender = getpid();
	info.si_uid = getuid();
	for (int i = 0; i < 5000; i++) {
		info.si_value.sival_int = lane->sent + 1;
		if (queue(0, SIGRTMIN, &info) != 0)
			return 1;
		lane->sent++;
	}
	return once();
}

int main(int argc, char **argv)
{
	if (argc < 3 || (board = board_at(argv[1])) == MAP_FAILED)
		return 2;
	if (strcmp(argv[2], "once") == 0)
		return once();
	if (strcmp(argv[2], "many") == 0)
		return many();
	half = atoi(argv[2]);
	if (argc == 4)
		kill_rest = atol(argv[3]);
	prctl(PR_SET_TIMERSLACK, 1000);
	for (int kind = 0; kind < KINDS; kind++) {
		int index = half * KINDS + kind;
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			board->lane[index].sender = getpid();
			(kind == 3 ? by_kill : by_number)(index);
			_exit(0);
		}
	}
	while (wait(NULL) > 0)
		;
	return 0;
}
