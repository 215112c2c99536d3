/* What has no name has an owner, a mode and times all the same: pipes and memory files, opened again by /proc/self/fd; a memory file that was
 * written is executed, since nobody has it open for writing; memory of /dev/shm whose name is gone. */
#include "victim.h"
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#define EXEC_SEAL 0x20

static int ends[2], memory, program, never, shared, attributes;
static struct stat was[4];
static volatile uint64_t *map, *shm, *gone;

static void own(int fd, uid_t uid, mode_t mode, int index)
{
	struct timespec times[2] = { { 1000000000 + index, 5 }, { 1100000000, 7 + index } };
	MUST(fchown(fd, uid, uid ? 1000 : 0));
	MUST(fchmod(fd, mode));
	MUST(futimens(fd, times));
	MUST(fstat(fd, &was[index]));
}

static void check_own(int fd, int index)
{
	struct stat now;
	MUST(fstat(fd, &now));
	CHECK(now.st_uid == was[index].st_uid && now.st_gid == was[index].st_gid, "%d: owner %d:%d", index, now.st_uid, now.st_gid);
	CHECK(now.st_mode == was[index].st_mode, "%d: mode %o instead of %o", index, now.st_mode, was[index].st_mode);
	CHECK(to_ns(now.st_mtim) == to_ns(was[index].st_mtim), "%d: mtime %lld", index, (long long)now.st_mtime);
	CHECK(to_ns(now.st_atim) == to_ns(was[index].st_atim), "%d: atime %lld", index, (long long)now.st_atime);
}

static int again(int fd, int how)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return open(path, how | O_NONBLOCK | O_CLOEXEC);
}

static void check_program(void)
{
	CHECK(write(program, "x", 1) == -1 && errno == EBADF, "the program can be written");
	pid_t child = MUST(vfork());
	if (child == 0) {
		char *argv[] = { "true", NULL };
		syscall(SYS_execveat, program, "", argv, argv + 1, AT_EMPTY_PATH);
		_exit(errno);
	}
	int status = -1;
	CHECK(waitpid(child, &status, 0) == child, "waitpid");
	CHECK(status == 0, "the program ends with %x (%s)", status, strerror(WEXITSTATUS(status)));
}

static volatile uint64_t *in_shm(const char *name, int keep)
{
	char path[100];
	snprintf(path, sizeof path, "/dev/shm/ulpm-victim-%d-%s", getpid(), name);
	int fd = MUST(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640));
	MUST(ftruncate(fd, 8192));
	void *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(at != MAP_FAILED, "mmap");
	MUST(unlink(path));
	if (keep)
		shared = fd;
	else
		close(fd);
	return at;
}

static void prepare(void)
{
	char room[65536];
	ssize_t got;
	MUST(pipe2(ends, O_CLOEXEC));
	memory = MUST(memfd_create("memory", MFD_CLOEXEC));
	MUST(ftruncate(memory, 4096));
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	CHECK(map != MAP_FAILED, "mmap");
	int written = MUST(memfd_create("program", MFD_CLOEXEC)), from = MUST(open("/bin/true", O_RDONLY | O_CLOEXEC));
	while ((got = MUST(read(from, room, sizeof room))) > 0)
		CHECK(write(written, room, got) == got, "write");
	program = MUST(again(written, O_RDONLY));
	close(from);
	close(written);
	never = syscall(SYS_memfd_create, "never", 8 | MFD_CLOEXEC);
	shm = in_shm("kept", 1);
	gone = in_shm("gone", 0);
	attributes = fsetxattr(memory, "user.ulpm", "value", 5, 0) == 0;
	own(ends[0], getuid() ? getuid() : 1000, 0600, 0);
	own(memory, getuid() ? getuid() : 1000, 0640, 1);
	own(program, getuid(), 0750, 2);
	own(shared, getuid(), 0640, 3);
}

static void check_all(uint64_t round, int run)
{
	char value[20];
	check_own(ends[0], 0);
	check_own(memory, 1);
	check_own(shared, 3);
	int fds[] = { again(ends[0], O_RDONLY), again(ends[1], O_WRONLY), again(memory, O_RDONLY) };
	for (int i = 0; i < 3; i++) {
		CHECK(fds[i] >= 0, "%d cannot be opened again", i);
		close(fds[i]);
	}
	CHECK(!attributes || (fgetxattr(memory, "user.ulpm", value, sizeof value) == 5 && !memcmp(value, "value", 5)), "the attribute is gone");
	if (never >= 0) {
		CHECK(MUST(fcntl(never, F_GET_SEALS)) & EXEC_SEAL, "F_SEAL_EXEC is gone");
		CHECK(fchmod(never, 0755) == -1 && errno == EPERM, "it can be made executable");
	}
	CHECK(*map == round && shm[512] == round && gone[512] == round, "memory: %llu %llu %llu", (unsigned long long)*map,
	      (unsigned long long)shm[512], (unsigned long long)gone[512]);
	*map = shm[512] = gone[512] = round + 1;
	CHECK(pread(shared, value, 8, 4096) == 8 && *(uint64_t *)value == round + 1, "memory and its descriptor are apart");
	/* stores into a mapping and reads change times */
	own(memory, was[1].st_uid, 0640, 1);
	own(shared, was[3].st_uid, 0640, 3);
	/* else a move might find the child */
	if (run)
		check_program();
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	prepare();
	check_program();
	ready();
	for (uint64_t round = 0;; round++) {
		int last = stopped();
		check_all(round, last);
		if (last)
			pass();
		pause_ms(100);
	}
}
