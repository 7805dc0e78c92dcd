// The functions of the C library that the resident programs use, as plain system calls: exactly those, so that the linker
// says when a new one is used. Headers and semantics are the C library's; where a kernel structure differs from its (struct
// sigaction), it is translated. None of these programs has threads.
#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <termios.h>
#include <unistd.h>

#include <cstdarg>
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

// The struct that the kernel fills is the C library's own on the 64-bit architectures that are built this way.
static_assert(sizeof(long) == 8);

namespace {

int error_value = 0;

long call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  long result;
#if defined(__x86_64__)
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  result = x0;
#endif
  if (result < 0 && result > -4096) {
    error_value = static_cast<int>(-result);
    return -1;
  }
  return result;
}

long word(const void* pointer) { return reinterpret_cast<long>(pointer); }

// A machine word at any address.
struct __attribute__((packed, may_alias)) Word {
  uint64_t value;
};
struct __attribute__((packed, may_alias)) Half {
  uint32_t value;
};

}  // namespace

extern "C" {

int* __errno_location() noexcept { return &error_value; }

long syscall(long number, ...) noexcept {
  va_list list;
  va_start(list, number);
  long a[6];
  for (long& argument : a) argument = va_arg(list, long);
  va_end(list);
  return call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

// -- memory

void* memcpy(void* __restrict to, const void* __restrict from, size_t size) noexcept {
  auto* out = static_cast<char*>(to);
  const auto* in = static_cast<const char*>(from);
  if (size < 8) {
    if (size >= 4) {
      const uint32_t first = reinterpret_cast<const Half*>(in)->value;
      const uint32_t last = reinterpret_cast<const Half*>(in + size - 4)->value;
      reinterpret_cast<Half*>(out)->value = first;
      reinterpret_cast<Half*>(out + size - 4)->value = last;
      return to;
    }
    while (size-- > 0) *out++ = *in++;
    return to;
  }
#if defined(__x86_64__)
  if (size >= 512) {
    void* destination = to;
    __asm__ volatile("rep movsb" : "+D"(destination), "+S"(from), "+c"(size) : : "memory");
    return to;
  }
#endif
  const uint64_t last = reinterpret_cast<const Word*>(in + size - 8)->value;
  char* const end = out + size - 8;
  for (; out < end; out += 8, in += 8) reinterpret_cast<Word*>(out)->value = reinterpret_cast<const Word*>(in)->value;
  reinterpret_cast<Word*>(end)->value = last;
  return to;
}

void* memmove(void* to, const void* from, size_t size) noexcept {
  auto* out = static_cast<char*>(to);
  const auto* in = static_cast<const char*>(from);
  if (out < in) {
    for (size_t i = 0; i < size; ++i) out[i] = in[i];
  } else {
    for (size_t i = size; i > 0; --i) out[i - 1] = in[i - 1];
  }
  return to;
}

void* memset(void* to, int value, size_t size) noexcept {
#if defined(__x86_64__)
  void* destination = to;
  __asm__ volatile("rep stosb" : "+D"(destination), "+c"(size) : "a"(value) : "memory");
#else
  auto* out = static_cast<unsigned char*>(to);
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<unsigned char>(value);
#endif
  return to;
}

int memcmp(const void* left, const void* right, size_t size) noexcept {
  const auto* a = static_cast<const unsigned char*>(left);
  const auto* b = static_cast<const unsigned char*>(right);
  for (size_t i = 0; i < size; ++i) {
    if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
  }
  return 0;
}

void* memchr(const void* text, int value, size_t size) noexcept {
  auto* at = static_cast<unsigned char*>(const_cast<void*>(text));
  const auto byte = static_cast<unsigned char>(value);
#if defined(__x86_64__)
  const __m128i wanted = _mm_set1_epi8(static_cast<char>(byte));
  for (; size >= 16; at += 16, size -= 16) {
    const __m128i block = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    const int found = _mm_movemask_epi8(_mm_cmpeq_epi8(block, wanted));
    if (found != 0) return at + __builtin_ctz(static_cast<unsigned>(found));
  }
#else
  constexpr uint64_t ones = 0x0101010101010101;
  const uint64_t pattern = ones * byte;
  for (; size >= 8; at += 8, size -= 8) {
    const uint64_t other = reinterpret_cast<const Word*>(at)->value ^ pattern;
    if (((other - ones) & ~other & (ones << 7)) != 0) break;
  }
#endif
  for (; size > 0; ++at, --size) {
    if (*at == byte) return at;
  }
  return nullptr;
}

size_t strlen(const char* text) noexcept {
  size_t size = 0;
  while (text[size] != 0) ++size;
  return size;
}

int strcmp(const char* left, const char* right) noexcept {
  while (*left != 0 && *left == *right) {
    ++left;
    ++right;
  }
  return static_cast<unsigned char>(*left) - static_cast<unsigned char>(*right);
}

char* strchr(const char* text, int value) noexcept {
  for (;; ++text) {
    if (*text == static_cast<char>(value)) return const_cast<char*>(text);
    if (*text == 0) return nullptr;
  }
}

// -- files

int openat64(int directory, const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const unsigned mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, unsigned) : 0;
  va_end(list);
  return static_cast<int>(call(__NR_openat, directory, word(path), flags, mode));
}
int open64(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const unsigned mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, unsigned) : 0;
  va_end(list);
  return static_cast<int>(call(__NR_openat, AT_FDCWD, word(path), flags, mode));
}
int close(int fd) { return static_cast<int>(call(__NR_close, fd)); }
ssize_t read(int fd, void* buffer, size_t size) { return call(__NR_read, fd, word(buffer), static_cast<long>(size)); }
ssize_t write(int fd, const void* buffer, size_t size) { return call(__NR_write, fd, word(buffer), static_cast<long>(size)); }
ssize_t writev(int fd, const struct iovec* parts, int count) { return call(__NR_writev, fd, word(parts), count); }
ssize_t pread64(int fd, void* buffer, size_t size, off64_t offset) { return call(__NR_pread64, fd, word(buffer), static_cast<long>(size), offset); }
int dup3(int from, int to, int flags) noexcept { return static_cast<int>(call(__NR_dup3, from, to, flags)); }
int pipe2(int* ends, int flags) noexcept { return static_cast<int>(call(__NR_pipe2, word(ends), flags)); }
int fcntl64(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  const long argument = va_arg(list, long);
  va_end(list);
  return static_cast<int>(call(__NR_fcntl, fd, command, argument));
}
int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list list;
  va_start(list, request);
  const long argument = va_arg(list, long);
  va_end(list);
  return static_cast<int>(call(__NR_ioctl, fd, static_cast<long>(request), argument));
}
int isatty(int fd) noexcept {
  struct termios settings;
  return call(__NR_ioctl, fd, TCGETS, word(&settings)) == 0 ? 1 : 0;
}
int fstat64(int fd, struct stat64* about) noexcept { return static_cast<int>(call(__NR_fstat, fd, word(about))); }
int fstatat64(int directory, const char* path, struct stat64* about, int flags) noexcept {
  return static_cast<int>(call(__NR_newfstatat, directory, word(path), word(about), flags));
}
int stat64(const char* path, struct stat64* about) noexcept { return fstatat64(AT_FDCWD, path, about, 0); }
int fstatfs64(int fd, struct statfs64* about) noexcept { return static_cast<int>(call(__NR_fstatfs, fd, word(about))); }
int ftruncate64(int fd, off64_t size) noexcept { return static_cast<int>(call(__NR_ftruncate, fd, size)); }
int access(const char* path, int mode) noexcept { return static_cast<int>(call(__NR_faccessat, AT_FDCWD, word(path), mode)); }
int chdir(const char* path) noexcept { return static_cast<int>(call(__NR_chdir, word(path))); }
int fchdir(int fd) noexcept { return static_cast<int>(call(__NR_fchdir, fd)); }
int fchown(int fd, uid_t uid, gid_t gid) noexcept { return static_cast<int>(call(__NR_fchown, fd, uid, gid)); }
int fchownat(int directory, const char* path, uid_t uid, gid_t gid, int flags) noexcept {
  return static_cast<int>(call(__NR_fchownat, directory, word(path), uid, gid, flags));
}
// Without flags, which the plain system call does not have.
int fchmodat(int directory, const char* path, mode_t mode, int) noexcept {
  return static_cast<int>(call(__NR_fchmodat, directory, word(path), mode));
}
int mkdirat(int directory, const char* path, mode_t mode) noexcept { return static_cast<int>(call(__NR_mkdirat, directory, word(path), mode)); }
int mknodat(int directory, const char* path, mode_t mode, dev_t device) noexcept {
  return static_cast<int>(call(__NR_mknodat, directory, word(path), mode, static_cast<long>(device)));
}
int symlinkat(const char* contents, int directory, const char* path) noexcept {
  return static_cast<int>(call(__NR_symlinkat, word(contents), directory, word(path)));
}
int unlinkat(int directory, const char* path, int flags) noexcept { return static_cast<int>(call(__NR_unlinkat, directory, word(path), flags)); }
int renameat(int from_directory, const char* from, int to_directory, const char* to) noexcept {
  return static_cast<int>(call(__NR_renameat2, from_directory, word(from), to_directory, word(to), 0));
}
ssize_t readlinkat(int directory, const char* path, char* buffer, size_t size) noexcept {
  return call(__NR_readlinkat, directory, word(path), word(buffer), static_cast<long>(size));
}
int utimensat(int directory, const char* path, const struct timespec* times, int flags) noexcept {
  return static_cast<int>(call(__NR_utimensat, directory, word(path), word(times), flags));
}
int mount(const char* source, const char* target, const char* type, unsigned long flags, const void* data) noexcept {
  return static_cast<int>(call(__NR_mount, word(source), word(target), word(type), static_cast<long>(flags), word(data)));
}
int umount2(const char* target, int flags) noexcept { return static_cast<int>(call(__NR_umount2, word(target), flags)); }
mode_t umask(mode_t mask) noexcept { return static_cast<mode_t>(call(__NR_umask, mask)); }

// -- memory mappings

void* mmap64(void* address, size_t size, int protection, int flags, int fd, off64_t offset) noexcept {
  return reinterpret_cast<void*>(call(__NR_mmap, word(address), static_cast<long>(size), protection, flags, fd, offset));
}
int madvise(void* address, size_t size, int advice) noexcept { return static_cast<int>(call(__NR_madvise, word(address), static_cast<long>(size), advice)); }

// -- processes

[[noreturn]] void _exit(int code) {
  for (;;) call(__NR_exit_group, code);
}
int execve(const char* path, char* const* argv, char* const* envp) noexcept {
  return static_cast<int>(call(__NR_execve, word(path), word(argv), word(envp)));
}
pid_t getpid() noexcept { return static_cast<pid_t>(call(__NR_getpid)); }
uid_t geteuid() noexcept { return static_cast<uid_t>(call(__NR_geteuid)); }
pid_t setsid() noexcept { return static_cast<pid_t>(call(__NR_setsid)); }
int kill(pid_t pid, int number) noexcept { return static_cast<int>(call(__NR_kill, pid, number)); }
int unshare(int flags) noexcept { return static_cast<int>(call(__NR_unshare, flags)); }
int sethostname(const char* name, size_t size) noexcept { return static_cast<int>(call(__NR_sethostname, word(name), static_cast<long>(size))); }
int setdomainname(const char* name, size_t size) noexcept { return static_cast<int>(call(__NR_setdomainname, word(name), static_cast<long>(size))); }
int prctl(int option, ...) noexcept {
  va_list list;
  va_start(list, option);
  long a[4];
  for (long& argument : a) argument = va_arg(list, long);
  va_end(list);
  return static_cast<int>(call(__NR_prctl, option, a[0], a[1], a[2], a[3]));
}

// -- signals: only SIG_DFL and SIG_IGN are ever set, which need no restorer

int sigaction(int number, const struct sigaction* action, struct sigaction* old) noexcept {
  struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    uint64_t mask;
  } kernel = {};
  if (action == nullptr || old != nullptr || (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN)) {
    error_value = EINVAL;
    return -1;
  }
  kernel.handler = action->sa_handler;
  return static_cast<int>(call(__NR_rt_sigaction, number, word(&kernel), 0, sizeof(kernel.mask)));
}
int sigemptyset(sigset_t* set) noexcept {
  memset(set, 0, sizeof(*set));
  return 0;
}
int sigprocmask(int how, const sigset_t* set, sigset_t* old) noexcept {
  return static_cast<int>(call(__NR_rt_sigprocmask, how, word(set), word(old), sizeof(uint64_t)));
}

// -- sockets and epoll

int socket(int domain, int type, int protocol) noexcept { return static_cast<int>(call(__NR_socket, domain, type, protocol)); }
int socketpair(int domain, int type, int protocol, int* ends) noexcept {
  return static_cast<int>(call(__NR_socketpair, domain, type, protocol, word(ends)));
}
int accept4(int fd, struct sockaddr* address, socklen_t* size, int flags) {
  return static_cast<int>(call(__NR_accept4, fd, word(address), word(size), flags));
}
int getsockopt(int fd, int level, int option, void* value, socklen_t* size) noexcept {
  return static_cast<int>(call(__NR_getsockopt, fd, level, option, word(value), word(size)));
}
int setsockopt(int fd, int level, int option, const void* value, socklen_t size) noexcept {
  return static_cast<int>(call(__NR_setsockopt, fd, level, option, word(value), size));
}
ssize_t send(int fd, const void* data, size_t size, int flags) { return call(__NR_sendto, fd, word(data), static_cast<long>(size), flags); }
ssize_t sendmsg(int fd, const struct msghdr* message, int flags) { return call(__NR_sendmsg, fd, word(message), flags); }
ssize_t recvmsg(int fd, struct msghdr* message, int flags) { return call(__NR_recvmsg, fd, word(message), flags); }
struct cmsghdr* __cmsg_nxthdr(struct msghdr* message, struct cmsghdr* present) noexcept {
  auto* next = reinterpret_cast<struct cmsghdr*>(reinterpret_cast<char*>(present) + CMSG_ALIGN(present->cmsg_len));
  const auto* end = static_cast<char*>(message->msg_control) + message->msg_controllen;
  return reinterpret_cast<char*>(next + 1) > end ? nullptr : next;
}
int epoll_create1(int flags) noexcept { return static_cast<int>(call(__NR_epoll_create1, flags)); }
int epoll_ctl(int epoll, int operation, int fd, struct epoll_event* event) noexcept {
  return static_cast<int>(call(__NR_epoll_ctl, epoll, operation, fd, word(event)));
}
int epoll_wait(int epoll, struct epoll_event* events, int count, int timeout) {
  return static_cast<int>(call(__NR_epoll_pwait, epoll, word(events), count, timeout, 0, 8));
}
int poll(struct pollfd* fds, nfds_t count, int timeout) {
  struct timespec limit = {timeout / 1000, timeout % 1000 * 1'000'000L};
  return static_cast<int>(call(__NR_ppoll, word(fds), static_cast<long>(count), timeout < 0 ? 0 : word(&limit), 0, 8));
}

}  // extern "C"
