/* tracer PID: traces a process without stopping it, as a debugger would, until killed. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 2 || ptrace(PTRACE_SEIZE, atoi(argv[1]), 0, 0) != 0) {
		perror("ptrace");
		return 1;
	}
	puts("tracing");
	fflush(stdout);
	for (;;)
		pause();
}
