/* leaderless STOP-FILE: a quiet victim whose main thread ends, while another one lives on (tests/victims/leader.c is a busy one). */
#include "../../victims/victim.h"

static void *work(void *unused)
{
	(void)unused;
	ready();
	while (!stopped())
		pause_ms(5);
	pass();
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	start_thread(work, NULL);
	/* the mask of a thread that has ended means nothing, and is not carried: none of its signals is open */
	uint64_t all = ~0ull;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, 8);
	pthread_exit(NULL);
}
