#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/stages/child.h"
#include "core/sys/openat2.h"
#include "core/sys/procfs.h"

namespace berth::stages {
namespace {

// A walk that makes what is missing. The image and everything that it shares with other containers may be hostile and
// changing: each step is one component opened without following it below a directory that is held by descriptor, links
// are expanded by us, and `..` starts again from the root. What mkdir(2) makes is therefore always in the root.
class Walk {
 public:
  Walk(int root, const Lookup& lookup) : root_(root), lookup_(lookup) {}
  ~Walk() {
    const int saved = errno;
    if (at_ >= 0) ::close(at_);
    errno = saved;
  }
  Walk(const Walk&) = delete;
  Walk& operator=(const Walk&) = delete;

  int run(const char* path) {
    const size_t size = std::strlen(path);
    if (size >= sizeof(pending_)) return failed(ENAMETOOLONG);
    std::memcpy(pending_, path, size + 1);
    if (!reset_to_root()) return -1;
    char name[NAME_MAX + 1];
    for (;;) {
      const int kind = next_component(name);
      if (kind < 0) return -1;
      if (kind == 0) return take();
      if (std::strcmp(name, "..") == 0) {
        if (!go_up()) return -1;
        continue;
      }
      const bool last = at_end();
      const int next = open_or_make(name, last);
      if (next < 0) return -1;
      struct stat about = {};
      if (::fstat(next, &about) != 0) return close_failed(next, errno);
      if (S_ISLNK(about.st_mode)) {
        if (!expand_link(next)) return -1;
      } else if (S_ISDIR(about.st_mode)) {
        if (!append_done(name)) return close_failed(next, ENAMETOOLONG);
        ::close(at_);
        at_ = next;
      } else if (last) {
        return next;
      } else {
        return close_failed(next, ENOTDIR);
      }
    }
  }

 private:
  static int failed(int error_number) {
    errno = error_number;
    return -1;
  }
  static int close_failed(int fd, int error_number) {
    ::close(fd);
    return failed(error_number);
  }
  int take() {
    const int fd = at_;
    at_ = -1;
    return fd;
  }

  bool reset_to_root() {
    if (at_ >= 0) ::close(at_);
    done_size_ = 0;
    done_[0] = 0;
    at_ = ::fcntl(root_, F_DUPFD_CLOEXEC, 3);
    return at_ >= 0;
  }

  // 1: `name` is the next component; 0: there is none; -1 with errno.
  int next_component(char* name) {
    for (;;) {
      while (pending_[pending_at_] == '/') ++pending_at_;
      size_t size = 0;
      while (pending_[pending_at_ + size] != 0 && pending_[pending_at_ + size] != '/') ++size;
      if (size == 0) return 0;
      if (size > NAME_MAX) return failed(ENAMETOOLONG);
      std::memcpy(name, pending_ + pending_at_, size);
      name[size] = 0;
      pending_at_ += size;
      if (std::strcmp(name, ".") != 0) return 1;
    }
  }

  bool at_end() const {
    for (size_t i = pending_at_; pending_[i] != 0; ++i) {
      if (pending_[i] != '/' && pending_[i] != '.') return false;
      if (pending_[i] == '.' && pending_[i + 1] != 0 && pending_[i + 1] != '/') return false;
    }
    return true;
  }

  bool go_up() {
    while (done_size_ > 0 && done_[--done_size_] != '/') {
    }
    done_[done_size_] = 0;
    const int up = sys::open_in_root_nofollow(root_, done_size_ == 0 ? "." : done_, O_PATH | O_DIRECTORY);
    if (up < 0) return false;
    ::close(at_);
    at_ = up;
    return true;
  }

  bool append_done(const char* name) {
    const size_t size = std::strlen(name);
    if (done_size_ + 1 + size >= sizeof(done_)) return false;
    done_[done_size_++] = '/';
    std::memcpy(done_ + done_size_, name, size + 1);
    done_size_ += size;
    return true;
  }

  int open_or_make(const char* name, bool last) {
    // Another container may make or remove the entry between two of our calls.
    for (int attempt = 0; attempt < 16; ++attempt) {
      const int next = ::openat(at_, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
      if (next >= 0 || errno != ENOENT) return next;
      if (last && lookup_.make == Make::kFile) {
        const int made = ::openat(at_, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, lookup_.mode);
        if (made >= 0) ::close(made);
        if (made < 0 && errno != EEXIST) return -1;
      } else if (::mkdirat(at_, name, last ? lookup_.mode : 0755) != 0 && errno != EEXIST) {
        return -1;
      }
    }
    return failed(EAGAIN);
  }

  // Puts the link's contents before what is left of the path. Takes `link`.
  bool expand_link(int link) {
    if (lookup_.plain || sys::is_procfs(link) || ++links_ > 40) return close_failed(link, ELOOP) == 0;
    char expanded[kPathBytes];
    const ssize_t size = ::readlinkat(link, "", expanded, sizeof(expanded));
    const int saved = errno;
    ::close(link);
    if (size < 0) return failed(saved) == 0;
    if (size == 0) return failed(ENOENT) == 0;
    const size_t rest = std::strlen(pending_ + pending_at_);
    if (static_cast<size_t>(size) + rest >= sizeof(pending_)) return failed(ENAMETOOLONG) == 0;
    // `rest` is empty or begins with a slash.
    std::memmove(pending_ + size, pending_ + pending_at_, rest + 1);
    std::memcpy(pending_, expanded, static_cast<size_t>(size));
    pending_at_ = 0;
    return pending_[0] != '/' || reset_to_root();
  }

  int root_;
  const Lookup& lookup_;
  int at_ = -1;  // the directory that the walk has come to
  int links_ = 0;
  size_t pending_at_ = 0;
  size_t done_size_ = 0;
  char done_[kPathBytes];     // path of `at_` from the root, without links
  char pending_[kPathBytes];  // what is still to be walked
};

}  // namespace

int child_root(Child& child) {
  if (child.root < 0) {
    child.root = ::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (child.root < 0) child_fail(child, "open", "/");
  }
  return child.root;
}

int child_lookup(Child& child, const char* path, const Lookup& lookup) {
  const int root = child_root(child);
  const char* from_root = path[0] == 0 ? "." : path;
  const int fd = lookup.plain ? sys::open_in_root_nofollow(root, from_root, O_PATH) : sys::open_in_root(root, from_root, O_PATH);
  if (fd >= 0 || errno != ENOENT || lookup.make == Make::kNothing) return fd;
  return Walk(root, lookup).run(path);
}

int child_parent(Child& child, const char* path, char* name) {
  size_t end = std::strlen(path);
  while (end > 0 && path[end - 1] == '/') --end;
  size_t begin = end;
  while (begin > 0 && path[begin - 1] != '/') --begin;
  const size_t size = end - begin;
  if (size == 0 || size > NAME_MAX || begin >= kPathBytes) child_fail(child, "openat2", path, size > NAME_MAX ? ENAMETOOLONG : EINVAL);
  std::memcpy(name, path + begin, size);
  name[size] = 0;
  if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0) child_fail(child, "openat2", path, EINVAL);
  char parent[kPathBytes];
  std::memcpy(parent, path, begin);
  parent[begin] = 0;
  const int fd = child_lookup(child, parent, Lookup{.make = Make::kDirectory});
  if (fd < 0) child_fail(child, "openat2", path);
  struct stat about = {};
  if (::fstat(fd, &about) != 0) child_fail(child, "fstat", path);
  if (!S_ISDIR(about.st_mode)) child_fail(child, "openat2", path, ENOTDIR);
  return fd;
}

}  // namespace berth::stages
