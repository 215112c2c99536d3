/* A thread that has left the directories of its process (unshare(CLONE_FS)): its directory and umask are its own, those of the others are not. */
#include "victim.h"
#include <sched.h>
#include <sys/stat.h>

static char own_place[700], place[700];

static mode_t own_umask(void)
{
	mode_t mask = umask(0);
	umask(mask);
	return mask;
}

static void check(const char *what, const char *wanted, mode_t mask)
{
	char seen[700] = "";
	CHECK(syscall(SYS_getcwd, seen, sizeof seen) > 0, "getcwd");
	CHECK(strcmp(seen, wanted) == 0, "the directory of %s is %s, was %s", what, seen, wanted);
	CHECK(own_umask() == mask, "the umask of %s is %03o, was %03o", what, own_umask(), mask);
}

static void *apart(void *go)
{
	MUST(unshare(CLONE_FS));
	MUST(chdir(own_place));
	umask(0077);
	__atomic_store_n((int *)go, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		check("the thread apart", own_place, 0077);
		pause_ms(5);
	}
}

static void *along(void *unused)
{
	(void)unused;
	for (;;) {
		char seen[700] = "";
		CHECK(syscall(SYS_getcwd, seen, sizeof seen) > 0 && strcmp(seen, place) == 0, "the thread that stayed is in %s", seen);
		pause_ms(5);
	}
}

int main(int argc, char **argv)
{
	int go = 0;
	victim_begin(argc, argv);
	beside(place, sizeof place, "common");
	beside(own_place, sizeof own_place, "own");
	MUST(mkdir(place, 0777));
	MUST(mkdir(own_place, 0777));
	MUST(chdir(place));
	umask(0027);
	start_thread(along, NULL);
	start_thread(apart, &go);
	while (!__atomic_load_n(&go, __ATOMIC_SEQ_CST))
		pause_ms(1);
	ready();
	while (!stopped()) {
		check("the process", place, 0027);
		pause_ms(5);
	}
	check("the process", place, 0027);
	pass();
}
