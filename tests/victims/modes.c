/* Modes of an address space: no memory becomes executable (PR_SET_MDWE), transparent huge pages off but where wanted
 * (PR_SET_THP_DISABLE with its flag), equal pages merged (PR_SET_MEMORY_MERGE), what is mapped later locked as it comes
 * (mlockall). What the kernel does not know is left out. */
#include "victim.h"
#include <sys/mman.h>
#include <sys/prctl.h>

enum { SET_THP = 41, GET_THP = 42, SET_MDWE = 65, GET_MDWE = 66, SET_MERGE = 67, GET_MERGE = 68 };

static int get(int option) { return prctl(option, 0ul, 0ul, 0ul, 0ul); }

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	char *before = MUST(mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	if (prctl(SET_THP, 1ul, 2ul, 0ul, 0ul))
		MUST(prctl(SET_THP, 1ul, 0ul, 0ul, 0ul));
	prctl(SET_MERGE, 1ul, 0ul, 0ul, 0ul);
	int denied = prctl(SET_MDWE, 1ul, 0ul, 0ul, 0ul) == 0;
	MUST(mlockall(MCL_FUTURE | 4 /* MCL_ONFAULT */));
	int unlocked = 0, thp = get(GET_THP), merge = get(GET_MERGE), mdwe = get(GET_MDWE);
	ready();
	while (!stopped()) {
		CHECK(get(GET_THP) == thp, "PR_GET_THP_DISABLE is %d, and was %d", get(GET_THP), thp);
		CHECK(get(GET_MERGE) == merge, "PR_GET_MEMORY_MERGE is %d, and was %d", get(GET_MERGE), merge);
		CHECK(get(GET_MDWE) == mdwe, "PR_GET_MDWE is %d, and was %d", get(GET_MDWE), mdwe);
		void *both = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(!denied || both == MAP_FAILED, "a writable and executable mapping is granted");
		unsigned char there[4] = { 0 };
		char *fresh = MUST(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		int locked = madvise(fresh, PAGE, 20 /* MADV_COLD */) == -1 && errno == EINVAL;
		MUST(mincore(fresh, 4 * PAGE, there));
		CHECK(!(there[3] & 1), "a new mapping is not locked on fault");
		MUST(munmap(fresh, 4 * PAGE));
		/* one that a freeze finds between the two calls has lost its flags: not twice in a row */
		unlocked = locked ? 0 : unlocked + 1;
		CHECK(unlocked < 2, "a new mapping is not locked");
		MUST(madvise(before, PAGE, 20));
		pause_ms(1);
	}
	pass();
}
