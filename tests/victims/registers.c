/* Registers hold known values in a busy loop: whole numbers, vectors, x87, their control words; TLS and errno. */
#include "victim.h"

#define THREADS 3
#define SPINS 20000000ull

static __thread uint64_t mine;
static volatile int stop_now;

static void spin_whole_numbers(uint64_t seed)
{
	uint64_t a = mix(seed), b = mix(seed + 1), d = mix(seed + 2), si = mix(seed + 3), di = mix(seed + 4), count = SPINS;
	register uint64_t r8 __asm__("r8") = a ^ 8, r9 __asm__("r9") = a ^ 9, r10 __asm__("r10") = a ^ 10;
	register uint64_t r11 __asm__("r11") = a ^ 11, r12 __asm__("r12") = a ^ 12, r13 __asm__("r13") = a ^ 13;
	register uint64_t r14 __asm__("r14") = a ^ 14, r15 __asm__("r15") = a ^ 15;
	uint64_t a0 = a, b0 = b, d0 = d, si0 = si, di0 = di;
	__asm__ volatile("1: dec %%rcx; jnz 1b"
			 : "+a"(a), "+b"(b), "+c"(count), "+d"(d), "+S"(si), "+D"(di), "+r"(r8), "+r"(r9), "+r"(r10),
			   "+r"(r11), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15)
			 :
			 : "cc");
	uint64_t wrong = (a ^ a0) | (b ^ b0) | (d ^ d0) | (si ^ si0) | (di ^ di0) | (r8 ^ a0 ^ 8) | (r9 ^ a0 ^ 9) |
			 (r10 ^ a0 ^ 10) | (r11 ^ a0 ^ 11) | (r12 ^ a0 ^ 12) | (r13 ^ a0 ^ 13) | (r14 ^ a0 ^ 14) |
			 (r15 ^ a0 ^ 15);
	CHECK(!wrong, "a general register changed (bits %llx)", (unsigned long long)wrong);
}

#define EACH16(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
#define CLOBBERS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
		 "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc"
#define LOAD_Y(n) "vmovdqu 32*" #n "(%[in]), %%ymm" #n "\n"
#define SAVE_Y(n) "vmovdqu %%ymm" #n ", 32*" #n "(%[out])\n"
#define LOAD_X(n) "movdqu 16*" #n "(%[in]), %%xmm" #n "\n"
#define SAVE_X(n) "movdqu %%xmm" #n ", 16*" #n "(%[out])\n"
#define LOAD_Z(n) "vmovdqu64 64*" #n "(%[in]), %%zmm" #n "\n"
#define SAVE_Z(n) "vmovdqu64 %%zmm" #n ", 64*" #n "(%[out])\n"

static void spin_vectors(uint64_t seed)
{
	uint64_t in[128], out[128], count = SPINS;
	size_t bytes = 256;
	fill(in, sizeof in, seed);
	memset(out, 0, sizeof out);
	if (__builtin_cpu_supports("avx512f")) {
		bytes = 1024;
		__asm__ volatile(EACH16(LOAD_Z) "kmovw %%ecx, %%k1\n 1: dec %[count]\n jnz 1b\n" EACH16(SAVE_Z) "vzeroupper"
				 : [count] "+r"(count) : [in] "r"(in), [out] "r"(out), "c"(0x5a5a) : CLOBBERS);
	} else if (__builtin_cpu_supports("avx")) {
		bytes = 512;
		__asm__ volatile(EACH16(LOAD_Y) "1: dec %[count]\n jnz 1b\n" EACH16(SAVE_Y) "vzeroupper"
				 : [count] "+r"(count) : [in] "r"(in), [out] "r"(out) : CLOBBERS);
	} else {
		__asm__ volatile(EACH16(LOAD_X) "1: dec %[count]\n jnz 1b\n" EACH16(SAVE_X)
				 : [count] "+r"(count) : [in] "r"(in), [out] "r"(out) : CLOBBERS);
	}
	CHECK(memcmp(in, out, bytes) == 0, "a vector register changed");
}

static void spin_x87(void)
{
	long double pi, log2e;
	uint64_t count = SPINS;
	uint16_t word = 0x0f7f, word_after; /* round to zero, extended precision */
	uint32_t mxcsr = 0x5f80, mxcsr_after; /* round up */
	__asm__ volatile("fldcw %[word]; ldmxcsr %[mxcsr]; fldpi; fldl2e\n 1: dec %[count]\n jnz 1b\n"
			 "fstpt %[log2e]; fstpt %[pi]; fnstcw %[word_after]; stmxcsr %[mxcsr_after]\n"
			 : [pi] "=m"(pi), [log2e] "=m"(log2e), [count] "+r"(count), [word_after] "=m"(word_after),
			   [mxcsr_after] "=m"(mxcsr_after)
			 : [word] "m"(word), [mxcsr] "m"(mxcsr)
			 : "memory", "cc");
	uint16_t usual = 0x037f;
	uint32_t usual_mxcsr = 0x1f80;
	__asm__ volatile("fldcw %0; ldmxcsr %1" : : "m"(usual), "m"(usual_mxcsr));
	CHECK(pi > 3.14159L && pi < 3.1416L && log2e > 1.4426L && log2e < 1.4427L, "the x87 stack changed");
	CHECK(word_after == word, "the x87 control word changed: %x", word_after);
	CHECK((mxcsr_after & ~0x3fu) == mxcsr, "MXCSR changed: %x", mxcsr_after);
}

static void *work(void *argument)
{
	uint64_t seed = (uint64_t)(uintptr_t)argument << 32;
	mine = seed;
	while (!stop_now) {
		watch_clocks();
		errno = (int)(seed % 100) + 1;
		spin_whole_numbers(seed);
		spin_vectors(seed);
		spin_x87();
		CHECK(errno == (int)(seed % 100) + 1, "errno changed");
		CHECK(mine == seed, "a thread's own variable changed");
		mine = ++seed;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	victim_begin(argc, argv);
	for (uintptr_t i = 0; i < THREADS; i++)
		threads[i] = start_thread(work, (void *)(i + 1));
	ready();
	while (!stopped())
		pause_ms(10);
	stop_now = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	pass();
}
