/* cell HOW STOP-FILE: a victim of which one thread is confined: `kill` by a filter that ends the process for any call but a sleep,
 * `strict` in strict mode (no call but read, write and exit), `later` by the filter as soon as STOP-FILE.now is there. */
#include "../../victims/victim.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

static const char *how;
static volatile int confined, stop_now;
static volatile uint32_t beat;

static void filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_nanosleep, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_nanosleep, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_restart_syscall, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = COUNT(code), .filter = code };
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

static void *inmate(void *unused)
{
	char now[300];
	(void)unused;
	if (strcmp(how, "later") == 0) {
		beside(now, sizeof now, "now");
		while (access(now, F_OK) < 0)
			pause_ms(1);
	}
	if (strcmp(how, "strict") == 0)
		MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
	else
		filter();
	confined = 1;
	while (!stop_now) {
		beat++;
		if (strcmp(how, "strict") != 0)
			pause_ms(1);
	}
	for (;;)
		if (strcmp(how, "strict") != 0)
			pause_ms(1000);
}

int main(int argc, char **argv)
{
	CHECK(argc == 3, "usage: %s HOW STOP-FILE", argv[0]);
	how = argv[1];
	victim_begin(argc - 1, argv + 1);
	start_thread(inmate, NULL);
	while (!confined && strcmp(how, "later") != 0)
		pause_ms(1);
	ready();
	while (!stopped()) {
		pause_ms(5);
		if (confined)
			await_change(&beat, "the confined thread");
	}
	pass();
}
