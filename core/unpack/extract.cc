#include "core/unpack/extract.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "core/sys/openat2.h"

namespace berth::unpack {
namespace {

constexpr const char* kStep = "unpack.extract";
constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kWhiteoutMeta = ".wh..wh.";
constexpr std::string_view kOpaqueMarker = ".wh..wh..opq";
constexpr size_t kMaxOpenParents = 128;
constexpr int kMaxLinkDepth = 40;
constexpr uint64_t kBlock = 4096;
// Through a symbolic link that has been replaced since: attributes that cannot be set any more are not left out in silence.
constexpr const char* kNameLost = "a later entry took the name under which this was made";

Error bad(std::string_view path, std::string_view why) { return make_error(EBADMSG, kStep, "entry", path, why); }
Error too_much(std::string_view path, std::string_view why) { return make_error(EFBIG, kStep, "limit", path, why); }
Error failed(const char* call, const std::string& path) {
  // What the archive asked for and no file system can give is the archive's fault.
  if (errno == ENAMETOOLONG || errno == ELOOP || errno == ENOTDIR) return make_error(EBADMSG, kStep, call, path, std::strerror(errno));
  return errno_error(kStep, call, path);
}

uint64_t round_up(uint64_t bytes) { return (bytes + kBlock - 1) / kBlock * kBlock; }

// Strips leading and doubled slashes and `.` components; "" is the root itself.
Result<std::string> clean_path(const char* raw) {
  if (raw == nullptr || raw[0] == '\0') return bad({}, "an entry without a name");
  const std::string_view text(raw);
  if (text.size() > kMaxPathBytes) return bad(text.substr(0, 128), "a name longer than 4096 bytes");
  std::string out;
  size_t depth = 0;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('/', start), text.size());
    const std::string_view component = text.substr(start, end - start);
    start = end + 1;
    if (component.empty() || component == ".") continue;
    if (component == "..") return bad(text, "a name with a `..` component");
    if (component.size() > 255) return bad(text.substr(0, 128), "a name component longer than 255 bytes");
    if (++depth > kMaxPathDepth) return bad(text.substr(0, 128), "a name deeper than 256 directories");
    if (!out.empty()) out.push_back('/');
    out.append(component);
  }
  return out;
}

std::string_view directory_name(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}
std::string_view base_name(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

struct FreeArchive {
  void operator()(archive* reader) const { archive_read_free(reader); }
};
struct CloseDirectory {
  void operator()(DIR* stream) const { ::closedir(stream); }
};

ssize_t read_chunk(archive* reader, void* opaque, const void** data) {
  Result<Pipeline::Chunk> chunk = static_cast<Pipeline*>(opaque)->next();
  if (!chunk.ok()) {
    archive_set_error(reader, EIO, "the stream failed");
    return -1;
  }
  *data = chunk->data;
  return static_cast<ssize_t>(chunk->size);
}

bool kept_xattr(std::string_view name) {
  if (name == "security.capability") return true;
  if (name == "system.posix_acl_access" || name == "system.posix_acl_default") return true;
  return name.starts_with("user.") && !name.starts_with("user.overlay.") && name.size() <= 255;
}

}  // namespace

Extractor::Extractor(Fd root, Pipeline& pipeline, uint64_t max_bytes, uint64_t max_entries)
    : root_(std::make_shared<Fd>(std::move(root))), pipeline_(pipeline), max_bytes_(max_bytes), max_entries_(max_entries) {}

Result<void> Extractor::run() {
  std::unique_ptr<archive, FreeArchive> reader(archive_read_new());
  if (reader == nullptr) return make_error(ENOMEM, kStep, "archive_read_new");
  // No filters: decompression was before. An empty stream is a layer with nothing in it.
  archive_read_support_format_tar(reader.get());
  archive_read_support_format_empty(reader.get());
  count_inode(kBlock);
  const auto reader_error = [&](const char* call) -> Error {
    if (pipeline_.error().has_value()) return *pipeline_.error();
    const char* text = archive_error_string(reader.get());
    if (archive_errno(reader.get()) == ENOMEM) return make_error(ENOMEM, kStep, call);
    return make_error(EBADMSG, kStep, call, {}, text == nullptr ? "not a tar archive" : text);
  };
  if (archive_read_open(reader.get(), &pipeline_, nullptr, read_chunk, nullptr) < ARCHIVE_WARN) return reader_error("open");
  for (;;) {
    archive_entry* header = nullptr;
    const int code = archive_read_next_header(reader.get(), &header);
    if (code == ARCHIVE_EOF) break;
    // A warning of this number is about a text that is not in the process's character set; names are bytes here, and come
    // through as such. Any other is about a header that others might read in another way.
    if (code < ARCHIVE_WARN || (code == ARCHIVE_WARN && archive_errno(reader.get()) != EILSEQ)) {
      return reader_error("next_header");
    }
    if (++outcome_.entries > max_entries_) {
      return too_much({}, "the layer has more than " + std::to_string(max_entries_) + " entries");
    }
    Result<void> done = entry(reader.get(), header);
    if (!done.ok()) return pipeline_.error().has_value() ? *pipeline_.error() : std::move(done).error();
  }
  BERTH_TRY(pipeline_.finish(outcome_.sha256));
  outcome_.stream_bytes = pipeline_.stream_bytes();
  BERTH_TRY(finish_directories());
  BERTH_TRY(collect_items());
  outcome_.items = items_.size();
  return {};
}

Result<void> Extractor::entry(archive* reader, archive_entry* header) {
  BERTH_ASSIGN(const std::string path, clean_path(archive_entry_pathname(header)));
  const std::string_view base = base_name(path);
  for (std::string_view outer = directory_name(path); !outer.empty(); outer = directory_name(outer)) {
    if (base_name(outer).starts_with(kWhiteout)) return bad(path, "an entry below a whiteout");
  }
  if (base == kOpaqueMarker) return opaque(std::string(directory_name(path)));
  if (base.starts_with(kWhiteoutMeta)) return {};
  if (base.starts_with(kWhiteout)) return whiteout(path, base.substr(kWhiteout.size()));

  const char* linked = archive_entry_hardlink(header);
  if (linked != nullptr) {
    if (path.empty()) return bad(path, "the root is not a directory");
    BERTH_ASSIGN(const std::string target, clean_path(linked));
    return hard_link(path, target);
  }
  BERTH_ASSIGN(Attributes attributes, attributes_of(header, path));
  const auto type = archive_entry_filetype(header);
  if (type == AE_IFDIR) return directory(path, std::move(attributes));
  if (path.empty()) return bad(path, "the root is not a directory");
  switch (type) {
    case AE_IFREG:
      return regular(reader, path, attributes, archive_entry_size(header));
    case AE_IFLNK:
      return symlink(path, attributes, archive_entry_symlink(header));
    case AE_IFIFO:
      return fifo(path, attributes);
    case AE_IFCHR:
    case AE_IFBLK:
      attributes.mode |= type == AE_IFCHR ? S_IFCHR : S_IFBLK;
      return device(path, attributes, static_cast<uint32_t>(archive_entry_rdevmajor(header)),
                    static_cast<uint32_t>(archive_entry_rdevminor(header)));
    default:
      return bad(path, "an entry of a type that no layer has");
  }
}

Result<Extractor::Attributes> Extractor::attributes_of(archive_entry* header, const std::string& path) {
  Attributes out;
  out.mode = static_cast<uint32_t>(archive_entry_perm(header)) & 07777;
  const int64_t uid = archive_entry_uid(header);
  const int64_t gid = archive_entry_gid(header);
  if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX) return bad(path, "an owner that is no user or group id");
  out.uid = static_cast<uint32_t>(uid);
  out.gid = static_cast<uint32_t>(gid);
  out.time.tv_sec = archive_entry_mtime(header);
  const long nanoseconds = archive_entry_mtime_nsec(header);
  out.time.tv_nsec = nanoseconds >= 0 && nanoseconds < 1000000000L ? nanoseconds : 0;

  size_t total = 0;
  size_t count = 0;
  const char* name = nullptr;
  const void* value = nullptr;
  size_t size = 0;
  archive_entry_xattr_reset(header);
  while (archive_entry_xattr_next(header, &name, &value, &size) == ARCHIVE_OK) {
    if (name == nullptr || !kept_xattr(name)) continue;
    total += std::strlen(name) + size;
    if (size > kMaxXattrBytes || total > kMaxXattrTotalBytes || ++count > kMaxXattrs) return too_much(path, "too large extended attributes");
    out.xattrs.push_back({name, std::string(static_cast<const char*>(value), size)});
  }
  return out;
}

// ---- whiteouts -------------------------------------------------------------------------------------------------

bool Extractor::is_whiteout(const struct stat& status) const {
  if (S_ISCHR(status.st_mode)) return status.st_rdev == 0;
  const auto found = placeholders_.find(status.st_ino);
  return found != placeholders_.end() && S_ISCHR(found->second.device.mode) && found->second.device.device_major == 0 &&
         found->second.device.device_minor == 0;
}

Result<void> Extractor::whiteout(const std::string& path, std::string_view hidden) {
  if (hidden.empty() || hidden == "." || hidden == "..") return bad(path, "a whiteout of no file");
  const std::string_view outer = directory_name(path);
  const std::string target = outer.empty() ? std::string(hidden) : std::string(outer) + "/" + std::string(hidden);
  BERTH_ASSIGN(const Place at, place(target));
  struct stat status;
  if (::fstatat(at.parent(), at.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) {
    if (S_ISDIR(status.st_mode)) return opaque(target);
    return {};
  }
  if (errno != ENOENT) return failed("fstatat", target);
  Attributes attributes;
  attributes.mode = S_IFCHR;
  return device(target, attributes, 0, 0);
}

Result<void> Extractor::opaque(const std::string& directory) { return mark(opaque_, directory); }

Result<void> Extractor::mark(std::unordered_map<ino_t, std::string>& marked, const std::string& directory) {
  BERTH_ASSIGN(const std::shared_ptr<Fd> fd, open_parent(directory));
  struct stat status;
  if (::fstat(fd->get(), &status) != 0) return failed("fstat", directory);
  if (marked.contains(status.st_ino)) return {};
  BERTH_TRY(remember(directory.size(), directory));
  marked.emplace(status.st_ino, directory);
  return {};
}

// ---- objects ---------------------------------------------------------------------------------------------------

Result<void> Extractor::directory(const std::string& path, Attributes attributes) {
  struct stat status;
  if (path.empty()) {
    if (::fstat(root_->get(), &status) != 0) return failed("fstat", path);
  } else {
    BERTH_ASSIGN(const Place at, place(path));
    if (::mkdirat(at.parent(), at.name.c_str(), 0755) == 0) {
      count_inode(kBlock);
    } else {
      if (errno != EEXIST) return failed("mkdirat", path);
      BERTH_TRY(make_place(at, 0755));
    }
    BERTH_ASSIGN(const Place made, place(path));
    if (::fstatat(made.parent(), made.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return failed("fstatat", path);
  }
  size_t size = path.size();
  for (const Xattr& xattr : attributes.xattrs) size += xattr.name.size() + xattr.value.size();
  BERTH_TRY(remember(size, path));
  directories_[status.st_ino] = Directory{path, std::move(attributes)};
  return {};
}

// A directory where something is: a directory stays, a whiteout makes an opaque one, anything else makes room.
Result<void> Extractor::make_place(const Place& at, mode_t mode) {
  struct stat status;
  if (::fstatat(at.parent(), at.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return failed("fstatat", at.path);
  if (S_ISDIR(status.st_mode)) return {};
  const bool hidden = is_whiteout(status);
  BERTH_TRY(remove(at.parent(), at.name, at.path));
  BERTH_ASSIGN(const Place again, place(at.path));
  if (::mkdirat(again.parent(), again.name.c_str(), mode) != 0) return failed("mkdirat", at.path);
  count_inode(kBlock);
  return hidden ? opaque(at.path) : Result<void>();
}

template <typename Make>
Result<int> Extractor::create(const Place& at, const char* call, Make make) {
  int result = make(at.parent(), at.name.c_str());
  if (result >= 0) return result;
  if (errno != EEXIST) return failed(call, at.path);
  BERTH_TRY(remove(at.parent(), at.name, at.path));
  BERTH_ASSIGN(const Place again, place(at.path));
  result = make(again.parent(), again.name.c_str());
  if (result < 0) return failed(call, at.path);
  return result;
}

Result<void> Extractor::regular(archive* reader, const std::string& path, const Attributes& attributes, int64_t size) {
  BERTH_ASSIGN(const Place at, place(path));
  const bool special = (attributes.mode & 07000) != 0;
  const bool owned = attributes.uid != 0 || attributes.gid != 0;
  const mode_t mode = attributes.mode & 0777;
  BERTH_ASSIGN(const int number, create(at, "openat", [mode](int parent, const char* name) {
                 return ::openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
               }));
  const Fd fd(number);
  uint64_t blocks = 0;
  BERTH_TRY(content(reader, path, number, size, &blocks));
  count_inode(blocks);
  // In this order: a write and a change of owner clear setuid, setgid and file capabilities.
  if (owned && ::fchown(number, attributes.uid, attributes.gid) != 0) return failed("fchown", path);
  if (special && ::fchmod(number, attributes.mode) != 0) return failed("fchmod", path);
  if (!attributes.xattrs.empty()) BERTH_TRY(set_xattrs(number, path, attributes.xattrs));
  const timespec times[2] = {attributes.time, attributes.time};
  if (::futimens(number, times) != 0) return failed("futimens", path);
  return {};
}

Result<void> Extractor::content(archive* reader, const std::string& path, int fd, int64_t size, uint64_t* blocks) {
  if (size < 0) return bad(path, "a negative size");
  if (static_cast<uint64_t>(size) > max_bytes_) return too_much(path, "a file larger than the layer may be");
  int64_t end = 0;
  for (;;) {
    const void* data = nullptr;
    size_t count = 0;
    int64_t offset = 0;
    const int code = archive_read_data_block(reader, &data, &count, &offset);
    if (code == ARCHIVE_EOF) break;
    if (code < ARCHIVE_OK) {
      const char* text = archive_error_string(reader);
      return bad(path, text == nullptr ? "the contents are damaged" : text);
    }
    if (offset < end || offset > size || count > static_cast<uint64_t>(size - offset)) return bad(path, "contents beyond the size");
    content_bytes_ += count;
    *blocks += count;
    if (content_bytes_ > max_bytes_) return too_much(path, "the layer has more than " + std::to_string(max_bytes_) + " bytes");
    const char* at = static_cast<const char*>(data);
    while (count > 0) {
      const ssize_t written = ::pwrite(fd, at, count, offset);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return failed("pwrite", path);
      at += written;
      count -= static_cast<size_t>(written);
      offset += written;
    }
    end = offset;
  }
  if (end < size && ::ftruncate(fd, size) != 0) return failed("ftruncate", path);
  *blocks = round_up(*blocks);
  return {};
}

// Owner and time of what has no descriptor. The mode was given to the call that made it.
Result<void> Extractor::own(const Place& at, const Attributes& attributes) {
  const char* name = at.name.c_str();
  if ((attributes.uid != 0 || attributes.gid != 0) &&
      ::fchownat(at.parent(), name, attributes.uid, attributes.gid, AT_SYMLINK_NOFOLLOW) != 0) {
    return failed("fchownat", at.path);
  }
  const timespec times[2] = {attributes.time, attributes.time};
  if (::utimensat(at.parent(), name, times, AT_SYMLINK_NOFOLLOW) != 0) return failed("utimensat", at.path);
  return {};
}

Result<void> Extractor::symlink(const std::string& path, const Attributes& attributes, const char* target) {
  if (target == nullptr || target[0] == '\0') return bad(path, "a symbolic link to nothing");
  if (std::strlen(target) >= kMaxPathBytes) return bad(path, "the target of a symbolic link is longer than 4095 bytes");
  BERTH_ASSIGN(const Place at, place(path));
  BERTH_TRY(create(at, "symlinkat", [target](int parent, const char* name) { return ::symlinkat(target, parent, name); }));
  count_inode(0);
  BERTH_ASSIGN(const Place made, place(path));
  return own(made, attributes);
}

Result<void> Extractor::fifo(const std::string& path, const Attributes& attributes) {
  BERTH_ASSIGN(const Place at, place(path));
  const mode_t mode = S_IFIFO | attributes.mode;
  BERTH_TRY(create(at, "mknodat", [mode](int parent, const char* name) { return ::mknodat(parent, name, mode, 0); }));
  count_inode(0);
  BERTH_ASSIGN(const Place made, place(path));
  return own(made, attributes);
}

Result<void> Extractor::device(const std::string& path, const Attributes& attributes, uint32_t major, uint32_t minor) {
  BERTH_ASSIGN(const Place at, place(path));
  if (S_ISCHR(attributes.mode) && major == 0 && minor == 0) {
    BERTH_TRY(mark(with_whiteouts_, std::string(directory_name(path))));
    // Linux 5.8 and later let anybody make a whiteout; before that it is the daemon's.
    Result<int> made = create(at, "mknodat", [](int parent, const char* name) { return ::mknodat(parent, name, S_IFCHR, 0); });
    if (made.ok()) {
      count_inode(0);
      BERTH_ASSIGN(const Place whiteout_place, place(path));
      return own(whiteout_place, attributes);
    }
    if (made.error().error_number != EPERM) return std::move(made).error();
  }
  // 12 and 20 bits are what the kernel has (MAJOR and MINOR of dev_t).
  if (major >= 1U << 12 || minor >= 1U << 20) return bad(path, "a device number that does not exist");
  if (++placeholder_count_ > kMaxItems) return too_much(path, "too many device nodes");
  BERTH_ASSIGN(const Place again, place(path));
  BERTH_ASSIGN(const int number, create(again, "openat", [](int parent, const char* name) {
                 return ::openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0);
               }));
  const Fd fd(number);
  struct stat status;
  if (::fstat(number, &status) != 0) return failed("fstat", path);
  count_inode(0);
  BERTH_TRY(remember(path.size(), path));
  Placeholder placeholder;
  placeholder.order = placeholder_count_;
  placeholder.device = Item{ItemKind::kDevice,
                            attributes.mode,
                            attributes.uid,
                            attributes.gid,
                            major,
                            minor,
                            attributes.time.tv_sec,
                            static_cast<uint32_t>(attributes.time.tv_nsec),
                            path,
                            {}};
  placeholders_[status.st_ino] = std::move(placeholder);
  return {};
}

Result<void> Extractor::hard_link(const std::string& path, const std::string& target) {
  BERTH_TRY(place(path));
  // Looked up after the place was made: that can close descriptors, and the target's directory may be the same.
  const std::string outer(directory_name(target));
  Fd from(sys::open_in_root(root_->get(), outer.empty() ? "." : outer.c_str(), O_PATH | O_DIRECTORY));
  struct stat original;
  const std::string name(base_name(target));
  if (!from.valid() || name.empty() || ::fstatat(from.get(), name.c_str(), &original, AT_SYMLINK_NOFOLLOW) != 0) {
    return bad(path, "a hard link to " + target + ", which the layer does not have");
  }
  if (S_ISDIR(original.st_mode)) return bad(path, "a hard link to a directory");
  BERTH_ASSIGN(const Place at, place(path));
  struct stat present;
  if (::fstatat(at.parent(), at.name.c_str(), &present, AT_SYMLINK_NOFOLLOW) == 0 && present.st_ino == original.st_ino) return {};
  const int from_fd = from.get();
  Result<int> made = create(at, "linkat", [from_fd, &name](int parent, const char* link) {
    return ::linkat(from_fd, name.c_str(), parent, link, 0);
  });
  if (!made.ok()) {
    // The target was below what the link replaced.
    if (made.error().error_number == ENOENT) return bad(path, "a hard link that replaces its own target");
    return std::move(made).error();
  }
  const auto found = placeholders_.find(original.st_ino);
  if (found != placeholders_.end()) {
    if (++placeholder_count_ > kMaxItems) return too_much(path, "too many device nodes");
    BERTH_TRY(remember(path.size(), path));
    found->second.links.push_back(path);
  }
  return {};
}

// ---- names -----------------------------------------------------------------------------------------------------

Result<Extractor::Place> Extractor::place(const std::string& path) {
  Place out;
  out.path = path;
  out.name = std::string(base_name(path));
  BERTH_ASSIGN(out.directory, open_parent(std::string(directory_name(path))));
  return out;
}

Result<std::shared_ptr<Fd>> Extractor::open_parent(const std::string& directory) {
  if (directory.empty()) return root_;
  const auto found = parents_.find(directory);
  if (found != parents_.end()) return found->second;
  Fd fd(sys::open_in_root(root_->get(), directory.c_str(), O_PATH | O_DIRECTORY));
  if (!fd.valid() && (errno == ENOENT || errno == ENOTDIR)) {
    BERTH_TRY(make_directories(directory, 0));
    fd = Fd(sys::open_in_root(root_->get(), directory.c_str(), O_PATH | O_DIRECTORY));
  }
  if (!fd.valid()) return failed("openat2", directory);
  if (parents_.size() >= kMaxOpenParents) parents_.clear();
  auto shared = std::make_shared<Fd>(std::move(fd));
  parents_.emplace(directory, shared);
  return shared;
}

// Each prefix in turn, following the links that are there; `path` may have `..` where it came out of a link.
Result<void> Extractor::make_directories(const std::string& path, int depth) {
  if (depth > kMaxLinkDepth || path.size() > kMaxPathBytes) return bad(path, "too many symbolic links");
  for (size_t end = 0; end != path.size();) {
    const size_t start = end == 0 ? 0 : end + 1;
    end = std::min(path.find('/', start), path.size());
    const std::string prefix = path.substr(0, end);
    const std::string name = path.substr(start, end - start);
    if (name.empty() || name == ".") continue;
    const Fd there(sys::open_in_root(root_->get(), prefix.c_str(), O_PATH | O_DIRECTORY));
    if (there.valid()) continue;
    if (errno != ENOENT && errno != ENOTDIR) return failed("openat2", prefix);
    BERTH_TRY(make_missing(prefix, path.substr(0, start == 0 ? 0 : start - 1), name, depth));
  }
  return {};
}

Result<void> Extractor::make_missing(const std::string& prefix, const std::string& outer, const std::string& name, int depth) {
  const Fd parent(sys::open_in_root(root_->get(), outer.empty() ? "." : outer.c_str(), O_PATH | O_DIRECTORY));
  if (!parent.valid()) return failed("openat2", prefix);
  if (::mkdirat(parent.get(), name.c_str(), 0755) == 0) {
    count_inode(kBlock);
    return {};
  }
  if (errno != EEXIST) return failed("mkdirat", prefix);
  struct stat status;
  if (::fstatat(parent.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return failed("fstatat", prefix);
  if (S_ISLNK(status.st_mode)) {
    // A link to what is not there yet, as `/var/run` before `/run`: what it names is made.
    std::string target(kMaxPathBytes, '\0');
    const ssize_t size = ::readlinkat(parent.get(), name.c_str(), target.data(), target.size());
    if (size <= 0 || static_cast<size_t>(size) == target.size()) return failed("readlinkat", prefix);
    target.resize(static_cast<size_t>(size));
    const bool absolute = target.front() == '/';
    while (!target.empty() && target.front() == '/') target.erase(0, 1);
    while (!target.empty() && target.back() == '/') target.pop_back();
    return make_directories(absolute || outer.empty() ? target : outer + "/" + target, depth + 1);
  }
  if (!is_whiteout(status)) return bad(prefix, "an entry below something that is not a directory");
  BERTH_TRY(remove(parent.get(), name, prefix));
  if (::mkdirat(parent.get(), name.c_str(), 0755) != 0) return failed("mkdirat", prefix);
  count_inode(kBlock);
  struct stat made;
  if (::fstatat(parent.get(), name.c_str(), &made, AT_SYMLINK_NOFOLLOW) != 0) return failed("fstatat", prefix);
  BERTH_TRY(remember(prefix.size(), prefix));
  opaque_.emplace(made.st_ino, prefix);
  return {};
}

// Forgets the cached parents, because a name below what goes may mean something else from now on: a caller that goes on
// looks its place up again.
Result<void> Extractor::remove(int parent, const std::string& name, const std::string& path) {
  BERTH_TRY(remove_tree(parent, name, path));
  parents_.clear();
  return {};
}

Result<void> Extractor::remove_tree(int parent, const std::string& name, const std::string& path) {
  struct stat status;
  if (::fstatat(parent, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return failed("fstatat", path);
  if (S_ISDIR(status.st_mode)) {
    const int number = ::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (number < 0) return failed("openat", path);
    const std::unique_ptr<DIR, CloseDirectory> stream(::fdopendir(number));
    if (stream == nullptr) {
      ::close(number);
      return failed("fdopendir", path);
    }
    while (const dirent* inner = ::readdir(stream.get())) {
      const std::string inner_name = inner->d_name;
      if (inner_name == "." || inner_name == "..") continue;
      BERTH_TRY(remove_tree(number, inner_name, path));
    }
  }
  if (::unlinkat(parent, name.c_str(), S_ISDIR(status.st_mode) ? AT_REMOVEDIR : 0) != 0) return failed("unlinkat", path);
  forget(status);
  return {};
}

void Extractor::forget(const struct stat& status) {
  if (S_ISDIR(status.st_mode)) {
    directories_.erase(status.st_ino);
    opaque_.erase(status.st_ino);
    with_whiteouts_.erase(status.st_ino);
  } else {
    if (status.st_nlink > 1) return;
    placeholders_.erase(status.st_ino);
  }
  outcome_.inodes -= 1;
  const uint64_t bytes = S_ISDIR(status.st_mode) ? kBlock : S_ISREG(status.st_mode) ? round_up(static_cast<uint64_t>(status.st_size)) : 0;
  outcome_.bytes -= std::min(outcome_.bytes, bytes);
}

Result<void> Extractor::set_xattrs(int fd, const std::string& path, const std::vector<Xattr>& xattrs) {
  for (const Xattr& xattr : xattrs) {
    if (::fsetxattr(fd, xattr.name.c_str(), xattr.value.data(), xattr.value.size(), 0) == 0) continue;
    // A file system without user attributes or ACLs still holds the layer; one without file capabilities would change
    // what its programs may do.
    if (errno == ENOTSUP && xattr.name != "security.capability") continue;
    if (errno == EINVAL || errno == ERANGE || errno == E2BIG) return bad(path, "an invalid extended attribute " + xattr.name);
    return failed("fsetxattr", path);
  }
  return {};
}

Result<void> Extractor::remember(size_t bytes, const std::string& path) {
  constexpr size_t kOverhead = 256;
  table_bytes_ += bytes + kOverhead;
  if (table_bytes_ > kMaxTableBytes) return too_much(path, "too many directories and device nodes");
  return {};
}

void Extractor::count_inode(uint64_t blocks) {
  outcome_.inodes += 1;
  outcome_.bytes += blocks;
}

// ---- the end ---------------------------------------------------------------------------------------------------

Result<void> Extractor::finish_directories() {
  parents_.clear();
  for (const auto& [inode, directory] : directories_) {
    const std::string& path = directory.path;
    const Attributes& attributes = directory.attributes;
    const Fd fd(sys::open_in_root(root_->get(), path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY));
    struct stat status;
    if (!fd.valid() || ::fstat(fd.get(), &status) != 0 || status.st_ino != inode) {
      return bad(path, kNameLost);
    }
    if ((attributes.uid != 0 || attributes.gid != 0) && ::fchown(fd.get(), attributes.uid, attributes.gid) != 0) {
      return failed("fchown", path);
    }
    if (::fchmod(fd.get(), attributes.mode) != 0) return failed("fchmod", path);
    BERTH_TRY(set_xattrs(fd.get(), path, attributes.xattrs));
    const timespec times[2] = {attributes.time, attributes.time};
    if (::futimens(fd.get(), times) != 0) return failed("futimens", path);
  }
  return {};
}

Result<void> Extractor::collect_marked(const std::unordered_map<ino_t, std::string>& marked, ItemKind kind) {
  for (const auto& [inode, path] : marked) {
    const Fd fd(sys::open_in_root(root_->get(), path.empty() ? "." : path.c_str(), O_PATH | O_DIRECTORY));
    struct stat status;
    if (!fd.valid() || ::fstat(fd.get(), &status) != 0 || status.st_ino != inode) return bad(path, kNameLost);
    Item item;
    item.kind = kind;
    item.path = path;
    items_.push_back(std::move(item));
  }
  return {};
}

Result<void> Extractor::collect_items() {
  BERTH_TRY(collect_marked(opaque_, ItemKind::kOpaque));
  BERTH_TRY(collect_marked(with_whiteouts_, ItemKind::kWhiteouts));
  std::vector<const Placeholder*> ordered;
  ordered.reserve(placeholders_.size());
  for (const auto& [inode, placeholder] : placeholders_) ordered.push_back(&placeholder);
  std::sort(ordered.begin(), ordered.end(), [](const Placeholder* a, const Placeholder* b) { return a->order < b->order; });
  for (const Placeholder* placeholder : ordered) {
    std::vector<std::string> names = {placeholder->device.path};
    names.insert(names.end(), placeholder->links.begin(), placeholder->links.end());
    // Names that a later entry took over are no longer the device's.
    nlink_t links = 0;
    std::erase_if(names, [&](const std::string& name) {
      const std::string outer(directory_name(name));
      const Fd parent(sys::open_in_root(root_->get(), outer.empty() ? "." : outer.c_str(), O_PATH | O_DIRECTORY));
      struct stat status;
      if (!parent.valid()) return true;
      if (::fstatat(parent.get(), std::string(base_name(name)).c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return true;
      const auto found = placeholders_.find(status.st_ino);
      if (found == placeholders_.end() || &found->second != placeholder) return true;
      links = status.st_nlink;
      return false;
    });
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    if (names.empty() || names.size() != links) return bad(placeholder->device.path, kNameLost);
    Item device = placeholder->device;
    device.path = names.front();
    items_.push_back(device);
    for (size_t i = 1; i < names.size(); ++i) {
      Item link = device;
      link.kind = ItemKind::kLink;
      link.path = names[i];
      link.target = device.path;
      items_.push_back(std::move(link));
    }
  }
  if (items_.size() > kMaxItems) return too_much({}, "too many device nodes and opaque directories");
  return {};
}

}  // namespace berth::unpack
