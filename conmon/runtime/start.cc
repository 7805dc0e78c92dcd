// The entry of the resident programs when they are linked without the C library (docs/adr/0007).
//
// What a static glibc does before main costs more than all that these programs do until they are ready: it asks the
// processor for its features (each question leaves a virtual machine for its host), relocates its string functions and sets
// locales up. Here it is: the stack protector's canary, where the vDSO is, and main.
#include <asm/unistd.h>
#include <elf.h>
#include <time.h>

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <asm/prctl.h>
#endif

int main();

namespace {

long raw_syscall(long number, long a, long b) {
  long result;
#if defined(__x86_64__)
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1) : "memory");
  result = x0;
#else
#error "this architecture links the C library"
#endif
  return result;
}

const Elf64_Ehdr* vdso = nullptr;

bool same_text(const char* a, const char* b) {
  while (*a != 0 && *a == *b) {
    ++a;
    ++b;
  }
  return *a == *b;
}

// How many symbols the GNU hash table covers: one more than the last of its last chain.
uint32_t count_symbols(const uint32_t* table) {
  const uint32_t bucket_count = table[0];
  const uint32_t first = table[1];
  const uint32_t bloom_words = table[2];
  const uint32_t* buckets = table + 4 + 2 * bloom_words;
  const uint32_t* chains = buckets + bucket_count;
  uint32_t last = 0;
  for (uint32_t i = 0; i < bucket_count; ++i) last = buckets[i] > last ? buckets[i] : last;
  if (last < first) return 0;
  while ((chains[last - first] & 1) == 0) ++last;
  return last + 1;
}

// A function of the vDSO, or null. SAFETY: the image is the kernel's own, mapped whole.
void* find_in_vdso(const char* name) {
  if (vdso == nullptr) return nullptr;
  const auto* image = reinterpret_cast<const char*>(vdso);
  const auto* segments = reinterpret_cast<const Elf64_Phdr*>(image + vdso->e_phoff);
  const char* base = nullptr;
  const Elf64_Dyn* dynamic = nullptr;
  for (int i = 0; i < vdso->e_phnum; ++i) {
    if (segments[i].p_type == PT_LOAD && base == nullptr) base = image + segments[i].p_offset - segments[i].p_vaddr;
    if (segments[i].p_type == PT_DYNAMIC) dynamic = reinterpret_cast<const Elf64_Dyn*>(image + segments[i].p_offset);
  }
  if (base == nullptr || dynamic == nullptr) return nullptr;
  const char* strings = nullptr;
  const Elf64_Sym* symbols = nullptr;
  uint32_t count = 0;
  for (; dynamic->d_tag != DT_NULL; ++dynamic) {
    const char* at = base + dynamic->d_un.d_ptr;
    switch (dynamic->d_tag) {
      case DT_STRTAB:
        strings = at;
        break;
      case DT_SYMTAB:
        symbols = reinterpret_cast<const Elf64_Sym*>(at);
        break;
      case DT_HASH:
        if (count == 0) count = reinterpret_cast<const uint32_t*>(at)[1];
        break;
      case DT_GNU_HASH:
        if (count == 0) count = count_symbols(reinterpret_cast<const uint32_t*>(at));
        break;
      default:
        break;
    }
  }
  if (strings == nullptr || symbols == nullptr) return nullptr;
  for (uint32_t i = 0; i < count; ++i) {
    if (symbols[i].st_shndx != SHN_UNDEF && same_text(strings + symbols[i].st_name, name)) {
      return const_cast<char*>(base + symbols[i].st_value);
    }
  }
  return nullptr;
}

using ClockGettime = int (*)(clockid_t, struct timespec*);
// Looked up when the first timestamp is wanted.
ClockGettime vdso_clock = nullptr;
bool vdso_searched = false;

#if defined(__x86_64__)
// The compiler reads the canary at offset 0x28 of the thread's block.
struct {
  void* self;
  uint64_t unused[4];
  uint64_t canary;
} thread_block;
#endif

}  // namespace

extern "C" {

#if defined(__aarch64__)
uintptr_t __stack_chk_guard = 0;
#endif

[[noreturn]] void __stack_chk_fail() {
  for (;;) raw_syscall(__NR_exit_group, 134, 0);
}

int clock_gettime(clockid_t clock, struct timespec* out) noexcept {
  if (!vdso_searched) {
    vdso_searched = true;
#if defined(__x86_64__)
    vdso_clock = reinterpret_cast<ClockGettime>(find_in_vdso("__vdso_clock_gettime"));
#else
    vdso_clock = reinterpret_cast<ClockGettime>(find_in_vdso("__kernel_clock_gettime"));
#endif
  }
  if (vdso_clock != nullptr && vdso_clock(clock, out) == 0) return 0;
  return static_cast<int>(raw_syscall(__NR_clock_gettime, clock, reinterpret_cast<long>(out)));
}

// Called by the entry with the initial stack: argc, argv, 0, environment, 0, auxiliary vector. Not protected: the canary
// is not there yet.
[[noreturn]] __attribute__((used, optimize("no-stack-protector"))) void berth_start(long* stack) {
  long* at = stack + 1 + *stack + 1;
  while (*at != 0) ++at;
  const auto* auxiliary = reinterpret_cast<const Elf64_auxv_t*>(at + 1);
  uint64_t random = 0;
  for (; auxiliary->a_type != AT_NULL; ++auxiliary) {
    if (auxiliary->a_type == AT_SYSINFO_EHDR) vdso = reinterpret_cast<const Elf64_Ehdr*>(auxiliary->a_un.a_val);
    if (auxiliary->a_type == AT_RANDOM) random = *reinterpret_cast<const uint64_t*>(auxiliary->a_un.a_val);
  }
  // Its lowest byte is zero, so that no overrun of a string can go over it unseen.
  random &= ~0xffULL;
#if defined(__x86_64__)
  thread_block.self = &thread_block;
  thread_block.canary = random;
  raw_syscall(__NR_arch_prctl, ARCH_SET_FS, reinterpret_cast<long>(&thread_block));
#elif defined(__aarch64__)
  __stack_chk_guard = random;
#endif
  const int code = main();
  for (;;) raw_syscall(__NR_exit_group, code, 0);
}

}  // extern "C"

#if defined(__x86_64__)
__asm__(
    ".text\n"
    ".globl _start\n"
    ".type _start,@function\n"
    "_start:\n\t"
    "endbr64\n\t"
    "xorl %ebp, %ebp\n\t"
    "movq %rsp, %rdi\n\t"
    "andq $-16, %rsp\n\t"
    "call berth_start\n\t"
    "hlt\n");
#elif defined(__aarch64__)
__asm__(
    ".text\n"
    ".globl _start\n"
    ".type _start,%function\n"
    "_start:\n\t"
    "mov x29, #0\n\t"
    "mov x30, #0\n\t"
    "mov x0, sp\n\t"
    "and sp, x0, #-16\n\t"
    "bl berth_start\n\t"
    "brk #1\n");
#endif
