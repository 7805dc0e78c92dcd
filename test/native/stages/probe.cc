// The program inside the containers of the tests: runs its arguments as commands, one after another, and prints what it
// finds. Static, so that a root directory needs nothing else.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

void cat(const char* path) {
  const int fd = ::open(path, O_RDONLY);
  if (fd < 0) {
    std::printf("cat %s: %s\n", path, std::strerror(errno));
    return;
  }
  char buffer[4096];
  ssize_t count = 0;
  while ((count = ::read(fd, buffer, sizeof(buffer))) > 0) std::fwrite(buffer, 1, static_cast<size_t>(count), stdout);
  ::close(fd);
}

void write_text(const char* path, const char* text) {
  const int fd = ::open(path, O_WRONLY);
  const bool ok = fd >= 0 && ::write(fd, text, std::strlen(text)) >= 0;
  std::printf("write %s: %s\n", path, ok ? "ok" : std::strerror(errno));
  if (fd >= 0) ::close(fd);
}

void list(const char* path) {
  DIR* directory = ::opendir(path);
  if (directory == nullptr) {
    std::printf("ls %s: %s\n", path, std::strerror(errno));
    return;
  }
  int count = 0;
  while (const struct dirent* entry = ::readdir(directory)) {
    if (entry->d_name[0] != '.') ++count;
  }
  ::closedir(directory);
  std::printf("ls %s: %d entries\n", path, count);
}

void describe(const char* path) {
  struct stat about = {};
  if (::lstat(path, &about) != 0) {
    std::printf("stat %s: %s\n", path, std::strerror(errno));
    return;
  }
  std::printf("stat %s: mode %o uid %u gid %u rdev %u:%u\n", path, about.st_mode, about.st_uid, about.st_gid, major(about.st_rdev),
              minor(about.st_rdev));
}

void fds() {
  std::printf("fds");
  for (int fd = 0; fd < 1024; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) std::printf(" %d", fd);
  }
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string command = argv[i];
    const auto next = [&] { return i + 1 < argc ? argv[++i] : ""; };
    if (command == "cat") {
      cat(next());
    } else if (command == "write") {
      const char* path = next();
      write_text(path, next());
    } else if (command == "ls") {
      list(next());
    } else if (command == "stat") {
      describe(next());
    } else if (command == "fds") {
      fds();
    } else if (command == "cwd") {
      char path[4096];
      std::printf("cwd %s\n", ::getcwd(path, sizeof(path)) == nullptr ? std::strerror(errno) : path);
    } else if (command == "ids") {
      std::printf("pid %d ppid %d sid %d uid %u gid %u umask %o\n", ::getpid(), ::getppid(), ::getsid(0), ::getuid(), ::getgid(), ::umask(0));
    } else if (command == "uname") {
      struct utsname name = {};
      ::uname(&name);
      std::printf("host %s\n", name.nodename);
    } else if (command == "nofile") {
      struct rlimit limit = {};
      ::getrlimit(RLIMIT_NOFILE, &limit);
      std::printf("nofile %llu %llu\n", static_cast<unsigned long long>(limit.rlim_cur), static_cast<unsigned long long>(limit.rlim_max));
    } else if (command == "env") {
      for (char** entry = environ; *entry != nullptr; ++entry) std::printf("env %s\n", *entry);
    } else if (command == "mkdir") {
      const char* path = next();
      const int result = ::mkdir(path, 0700);
      std::printf("mkdir %s: %s\n", path, result == 0 ? "ok" : std::strerror(errno));
    } else if (command == "tty") {
      struct winsize size = {};
      const bool terminal = ::ioctl(0, TIOCGWINSZ, &size) == 0;
      std::printf("tty %d %dx%d leader %d\n", terminal, size.ws_row, size.ws_col, ::tcgetsid(0) == ::getsid(0));
    } else if (command == "same-device") {
      // Whether a descriptor lies on the same file system as a path.
      const int fd = std::atoi(next());
      const char* path = next();
      struct stat a = {};
      struct stat b = {};
      const bool same = ::fstat(fd, &a) == 0 && ::stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
      std::printf("same-device %d\n", same);
    } else if (command == "reopen") {
      const char* path = next();
      const int fd = ::open(path, O_WRONLY);
      std::printf("reopen %s: %s\n", path, fd >= 0 ? "ok" : std::strerror(errno));
      if (fd >= 0) ::close(fd);
    } else if (command == "out") {
      std::fputs(next(), stdout);
      std::fflush(stdout);
    } else if (command == "outln") {
      std::puts(next());
      std::fflush(stdout);
    } else if (command == "err") {
      std::fputs(next(), stderr);
    } else if (command == "fill") {
      // N times the byte 'x', without a newline.
      for (long left = std::atol(next()); left > 0; --left) std::putchar('x');
      std::fflush(stdout);
    } else if (command == "lines") {
      // N numbered lines of about 100 bytes, one write each.
      const long count = std::atol(next());
      for (long n = 0; n < count; ++n) {
        char line[128];
        const int size = std::snprintf(line, sizeof(line), "%08ld %091d\n", n, 0);
        (void)!::write(1, line, static_cast<size_t>(size));
      }
    } else if (command == "nul") {
      std::fwrite("a\0b\rc\n", 1, 6, stdout);
      std::fflush(stdout);
    } else if (command == "echo") {
      // Copies stdin to stdout until end of file.
      char buffer[65536];
      ssize_t count = 0;
      while ((count = ::read(0, buffer, sizeof(buffer))) > 0) (void)!::write(1, buffer, static_cast<size_t>(count));
    } else if (command == "eat") {
      // Touches N MiB.
      const size_t size = static_cast<size_t>(std::atol(next())) << 20;
      auto* memory = static_cast<char*>(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      for (size_t at = 0; at < size; at += 4096) memory[at] = 1;
    } else if (command == "spawn") {
      // A child that holds stdout open for N milliseconds, in a session of its own.
      const int milliseconds = std::atoi(next());
      std::fflush(stdout);
      if (::fork() == 0) {
        ::setsid();
        ::usleep(static_cast<useconds_t>(milliseconds) * 1000);
        ::_exit(0);
      }
    } else if (command == "sleep") {
      std::fflush(stdout);
      ::usleep(static_cast<useconds_t>(std::atoi(next())) * 1000);
    } else if (command == "term") {
      // SIGTERM ends the program with 42, also as pid 1.
      ::signal(SIGTERM, [](int) { ::_exit(42); });
    } else if (command == "kill") {
      std::fflush(stdout);
      ::kill(::getpid(), std::atoi(next()));
    } else if (command == "exit") {
      std::fflush(stdout);
      ::_exit(std::atoi(next()));
    } else {
      std::printf("probe: %s?\n", command.c_str());
      return 64;
    }
    std::fflush(stdout);
  }
  return 0;
}
