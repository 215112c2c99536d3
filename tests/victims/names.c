/* Names are bytes: of threads, of the directory, of open files, mapped files and memory files. None of them is UTF-8, or plain. */
#include "victim.h"
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

/* As /proc/PID/maps shows a line break, but these four characters themselves; and as the kernel marks a deleted file. */
static const char *const odd[] = { "B\xfc" "cher", "a\nb", "a\\012b", "\\134\\n", "two  spaces ", "gone (deleted)", "\x1b[2J" };
static const char *const comms[] = { "B\xfc" "cher", "0123456789abcd\xc3\xa4", "a\\b\nc \\n" };
static char paths[COUNT(odd)][700], place[700];
static int fds[COUNT(odd)], memory_file;
static void *maps[COUNT(odd)];

static void check_comm(const char *wanted)
{
	char name[32] = "";
	MUST(prctl(PR_GET_NAME, name));
	CHECK(strncmp(name, wanted, 15) == 0, "the name is %s", name);
}

static void *named(void *argument)
{
	const char *name = argument;
	MUST(prctl(PR_SET_NAME, name));
	for (;;) {
		check_comm(name);
		pause_ms(5);
	}
}

static void check_link(int fd, const char *path)
{
	char link[40], seen[700] = "";
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	MUST(readlink(link, seen, sizeof seen - 1));
	CHECK(strcmp(seen, path) == 0, "descriptor %d is %s", fd, seen);
}

static void check_all(void)
{
	char seen[700] = "";
	check_comm(comms[0]);
	MUST(readlink("/proc/self/cwd", seen, sizeof seen - 1));
	CHECK(strcmp(seen, place) == 0, "the directory is %s", seen);
	for (unsigned i = 0; i < COUNT(odd); i++) {
		char text[4] = "";
		check_link(fds[i], paths[i]);
		CHECK(pread(fds[i], text, 1, 0) == 1 && text[0] == 'a' + (char)i, "file %u holds %s", i, text);
		CHECK(*(char *)maps[i] == 'a' + (char)i, "mapping %u holds %c", i, *(char *)maps[i]);
	}
	check_link(memory_file, "/memfd:B\xfc" "cher\n (deleted)");
}

int main(int argc, char **argv)
{
	char dir[600];
	victim_begin(argc, argv);
	beside(dir, sizeof dir, "B\xfc\n\\");
	MUST(mkdir(dir, 0777));
	MUST(chdir(dir));
	MUST(getcwd(place, sizeof place) ? 0 : -1);
	for (unsigned i = 0; i < COUNT(odd); i++) {
		char page[4096] = { 'a' + (char)i };
		snprintf(paths[i], sizeof paths[i], "%s/%s", place, odd[i]);
		fds[i] = MUST(open(paths[i], O_RDWR | O_CREAT | O_CLOEXEC, 0666));
		MUST(write(fds[i], page, sizeof page));
		maps[i] = MUST(mmap(NULL, 4096, PROT_READ, i % 2 ? MAP_PRIVATE : MAP_SHARED, fds[i], 0));
	}
	memory_file = MUST(memfd_create("B\xfc" "cher\n", MFD_CLOEXEC));
	MUST(prctl(PR_SET_NAME, comms[0]));
	for (unsigned i = 1; i < COUNT(comms); i++)
		start_thread(named, (void *)comms[i]);
	ready();
	while (!stopped()) {
		check_all();
		pause_ms(5);
	}
	check_all();
	pass();
}
