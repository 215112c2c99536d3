/* States that a move refuses by name: states KIND STOP-FILE makes one, says "ready" and waits for the file; it must find the state as it was. */
#include "../../victims/victim.h"
#include <asm/ldt.h>
#include <linux/keyctl.h>
#include <linux/landlock.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const char *kind;
static int settled, at_end;

static void confine(void)
{
	struct landlock_ruleset_attr attr = { .handled_access_fs = LANDLOCK_ACCESS_FS_READ_DIR };
	int rules = MUST((int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1ul, 0ul, 0ul, 0ul));
	MUST(syscall(SYS_landlock_restrict_self, rules, 0));
	MUST(close(rules));
}

static void insist_confined(void)
{
	CHECK(open("/", O_RDONLY | O_DIRECTORY) < 0 && errno == EACCES, "/ can be listed");
}

static void *page(void) { return MUST(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); }

/* As many mappings as the kernel permits, but for one. */
static void fill_up(void)
{
	size_t most = 0, have = 0, pages;
	FILE *limit = fopen("/proc/sys/vm/max_map_count", "re"), *maps = fopen("/proc/self/maps", "re");
	CHECK(limit && maps && fscanf(limit, "%zu", &most) == 1, "vm.max_map_count");
	pages = most + 10;
	char *base = MUST(mmap(NULL, pages * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	for (int c; (c = getc(maps)) != EOF;)
		have += c == '\n';
	for (size_t i = 1; have + 2 < most; i += 2, have += 2)
		MUST(mprotect(base + i * 4096, 4096, PROT_NONE));
	fclose(limit);
	fclose(maps);
}

static void *in_thread(void *unused)
{
	char host[64];
	(void)unused;
	if (strcmp(kind, "namespace") == 0) {
		MUST(unshare(CLONE_NEWUTS));
		MUST(sethostname("inside", 6));
	} else if (strcmp(kind, "directories") == 0) {
		MUST(unshare(CLONE_FS));
		/* a thread born here shares what this one has now */
		kind = "";
		start_thread(in_thread, NULL);
	} else if (strcmp(kind, "gone") == 0) {
		char path[4096];
		MUST(unshare(CLONE_FS));
		MUST(mkdir(beside(path, sizeof path, "gone"), 0700));
		MUST(chdir(path));
		MUST(rmdir(path));
	} else if (strcmp(kind, "descriptors") == 0) {
		MUST(unshare(CLONE_FILES));
	} else if (strcmp(kind, "landlock-thread") == 0) {
		confine();
	} else if (strcmp(kind, "numa-thread") == 0) {
		MUST(syscall(SYS_set_mempolicy, MPOL_INTERLEAVE, &(unsigned long){ 1 }, 64ul));
	}
	__atomic_add_fetch(&settled, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&at_end, __ATOMIC_SEQ_CST))
		pause_ms(1);
	if (strcmp(kind, "namespace") == 0)
		CHECK(gethostname(host, sizeof host) == 0 && strcmp(host, "inside") == 0, "the host is %s", host);
	if (strcmp(kind, "landlock-thread") == 0)
		insist_confined();
	if (strcmp(kind, "numa-thread") == 0) {
		int mode = -1;
		MUST(syscall(SYS_get_mempolicy, &mode, NULL, 0ul, NULL, 0ul));
		CHECK(mode == MPOL_INTERLEAVE, "the thread's policy is %d", mode);
	}
	__atomic_sub_fetch(&settled, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static int child(void *unused)
{
	(void)unused;
	settled++;
	for (;;)
		syscall(SYS_pause);
}

static void start_threads(int count)
{
	start_thread(in_thread, NULL);
	while (__atomic_load_n(&settled, __ATOMIC_SEQ_CST) < count)
		pause_ms(1);
}

static pid_t start_child(int flags)
{
	char *stack = MUST(mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	return MUST(clone(child, stack + 65536, flags | SIGCHLD, NULL));
}

int main(int argc, char **argv)
{
	pid_t pid = 0;
	int id = -1, mode = -1;
	void *bound = NULL;
	CHECK(argc == 3, "usage: states KIND STOP-FILE");
	kind = argv[1];
	victim_begin(2, (char *[]){ argv[0], argv[2], NULL });
	if (strcmp(kind, "namespace") == 0 || strcmp(kind, "gone") == 0 || strcmp(kind, "descriptors") == 0 || strcmp(kind, "landlock-thread") == 0 || strcmp(kind, "numa-thread") == 0) {
		start_threads(1);
	} else if (strcmp(kind, "directories") == 0) {
		start_threads(2);
	} else if (strcmp(kind, "memory") == 0) {
		pid = start_child(CLONE_VM);
	} else if (strcmp(kind, "children") == 0) {
		MUST(unshare(CLONE_NEWPID));
	} else if (strcmp(kind, "queue") == 0) {
		id = MUST(msgget(IPC_PRIVATE, 0600));
		MUST(msgsnd(id, &(struct { long type; char text[4]; }){ 1, "abc" }, 4, 0));
	} else if (strcmp(kind, "semaphore") == 0) {
		id = MUST(semget(IPC_PRIVATE, 2, 0600));
		MUST(semop(id, &(struct sembuf){ 1, 3, SEM_UNDO }, 1));
	} else if (strcmp(kind, "landlock") == 0) {
		confine();
	} else if (strcmp(kind, "ldt") == 0) {
		MUST(syscall(SYS_modify_ldt, 1, &(struct user_desc){ .entry_number = 2, .base_addr = 0x1000, .limit = 1, .seg_32bit = 1 }, sizeof(struct user_desc)));
	} else if (strcmp(kind, "keyring") == 0) {
		MUST(syscall(SYS_add_key, "user", "ulpm", "secret", 6ul, KEY_SPEC_PROCESS_KEYRING));
	} else if (strcmp(kind, "numa") == 0) {
		bound = page();
		MUST(syscall(SYS_mbind, bound, 4096ul, MPOL_BIND, &(unsigned long){ 1 }, 64ul, 0ul));
	} else if (strcmp(kind, "denied") == 0) {
		MUST(personality(personality(0xffffffff) | READ_IMPLIES_EXEC));
		MUST(prctl(65 /* PR_SET_MDWE */, 3ul /* REFUSE_EXEC_GAIN, NO_INHERIT */, 0ul, 0ul, 0ul));
	} else if (strcmp(kind, "mappings") == 0) {
		fill_up();
	} else {
		fail("no such kind: %s", kind);
	}
	ready();
	while (!stopped())
		pause_ms(5);
	__atomic_store_n(&at_end, 1, __ATOMIC_SEQ_CST);
	while (pid == 0 && __atomic_load_n(&settled, __ATOMIC_SEQ_CST) > 0)
		pause_ms(1);
	if (strcmp(kind, "landlock") == 0)
		insist_confined();
	if (strcmp(kind, "ldt") == 0)
		CHECK(syscall(SYS_modify_ldt, 0, (char[64]){ 0 }, 64) > 0, "the LDT is gone");
	if (strcmp(kind, "keyring") == 0)
		MUST(syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_PROCESS_KEYRING, "user", "ulpm", 0));
	if (bound) {
		MUST(syscall(SYS_get_mempolicy, &mode, NULL, 0ul, bound, (unsigned long)MPOL_F_ADDR));
		CHECK(mode == MPOL_BIND, "the mapping's policy is %d", mode);
	}
	if (strcmp(kind, "denied") == 0) {
		CHECK(personality(0xffffffff) & READ_IMPLIES_EXEC, "the personality");
		CHECK(prctl(66 /* PR_GET_MDWE */, 0ul, 0ul, 0ul, 0ul) == 3, "PR_GET_MDWE");
	}
	if (strcmp(kind, "queue") == 0)
		MUST(msgctl(id, IPC_RMID, NULL));
	if (strcmp(kind, "semaphore") == 0)
		MUST(semctl(id, 0, IPC_RMID));
	if (pid)
		kill(pid, SIGKILL);
	pass();
}
