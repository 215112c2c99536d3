/* Signals that others send while it moves: real-time ones with numbers, to the process and to a thread, from several senders, and
 * plain ones by kill. Each that was accepted comes, once, in the order of its sender, with its sender in its siginfo. Without senders
 * (`tests/lab/tools/senders.c`) it signals itself. */
#include "victim.h"
#include "signalled/board.h"

static struct board *board;
static pthread_t main_thread;
static atomic_int wrong_thread;

static void note(struct lane *lane, uint32_t number)
{
	if (number <= lane->last)
		board->wrong++;
	for (uint32_t lost = lane->last + 1; lost < number; lost++)
		if (lane->missing < DOUBTS)
			lane->miss[lane->missing++] = lost;
	lane->last = number;
	lane->came++;
}

/* By sigqueue: lane and number. */
static void on_number(int signal, siginfo_t *info, void *context)
{
	uint32_t value = (uint32_t)info->si_value.sival_int, lane = value >> 24;
	(void)context;
	if (lane >= LANES || info->si_code != SI_QUEUE || (pid_t)board->lane[lane].sender != info->si_pid)
		board->wrong++;
	else
		note(&board->lane[lane], value & 0xffffff);
	if ((signal == SIGRTMIN + 2) == (pthread_self() == main_thread))
		wrong_thread = 1;
}

/* By kill: the sender waits until the last one has come. */
static void on_kill(int signal, siginfo_t *info, void *context)
{
	struct lane *lane = NULL;
	(void)signal, (void)context;
	board->by_kill[0] = info->si_code, board->by_kill[1] = info->si_pid;
	for (int i = 3; i < LANES; i += KINDS)
		if ((pid_t)board->lane[i].sender == info->si_pid)
			lane = &board->lane[i];
	if (!lane || (info->si_code != SI_USER && info->si_code != SI_QUEUE))
		board->wrong++;
	else
		note(lane, lane->sent);
}

/* By tgkill, to the worker; where there is no room in the queue it comes without its sender. */
static void on_tgkill(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	board->by_tgkill[0] = info->si_code, board->by_tgkill[1] = info->si_pid;
	note(&board->lane[7], board->lane[7].sent);
	if (pthread_self() == main_thread)
		wrong_thread = 1;
}

static void *worker(void *unused)
{
	sigset_t mask;
	(void)unused;
	sigfillset(&mask);
	sigdelset(&mask, SIGRTMIN + 2);
	sigdelset(&mask, SIGUSR2);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	board->tid = gettid();
	for (;;)
		pause();
}

static void handle(int signal, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigfillset(&action.sa_mask);
	MUST(sigaction(signal, &action, NULL));
}

static void rest(uint64_t ns)
{
	struct timespec until = from_ns(now() + ns);
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

int main(int argc, char **argv)
{
	char path[4096];
	sigset_t mask;
	victim_begin(argc, argv);
	main_thread = pthread_self();
	board = board_at(beside(path, sizeof path, "board"));
	CHECK(board != MAP_FAILED, "%s", path);
	for (int i = 0; i < 3; i++)
		handle(SIGRTMIN + i, on_number);
	handle(SIGUSR1, on_kill);
	handle(SIGUSR2, on_tgkill);
	sigemptyset(&mask);
	sigaddset(&mask, SIGRTMIN + 2);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	start_thread(worker, NULL);
	while (!board->tid)
		rest(MS);
	board->pid = getpid();
	ready();
	while (!stopped()) {
		CHECK(!board->wrong, "%u signals came twice, out of order, or with another sender", board->wrong);
		CHECK(!wrong_thread, "a signal came to another thread");
		rest(2 * MS);
	}
	pass();
}
