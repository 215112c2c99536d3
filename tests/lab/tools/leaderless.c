/* leaderless STOP-FILE: a victim whose main thread ends, while another one lives on. */
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
	pthread_exit(NULL);
}
