// One layer's tar archive into the working root. Every name is looked up below the root, one directory at a time, and
// every object is made by O_EXCL below an open directory: a link in the archive is followed where a container would
// follow it and nowhere else.
//
// What an archive means (image-spec layer.md, overlayfs in Documentation/filesystems):
//   - `a/.wh.b` hides `b` of the layers below: a 0:0 character device in its place. Something of this layer at `a/b`, before
//     or after, is not hidden; a directory among it becomes opaque.
//   - `a/.wh..wh..opq` hides everything of the layers below in `a`, wherever it stands in the archive. Other `.wh..wh.` names
//     are another file system's bookkeeping and left out.
//   - A later entry of a name replaces the earlier one; only a directory over a directory keeps what is in it.
//   - Names that are absolute are taken below the root; names with `..` are refused.
//   - Missing parents are made, root's, 0755. Times and modes of directories are set at the end.
//   - Extended attributes: user.*, security.capability, system.posix_acl_*; all others, trusted.* and user.overlay.* above
//     all, are left out.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/unpack/pipeline.h"
#include "core/unpack/protocol.h"

struct archive;
struct archive_entry;

namespace berth::unpack {

class Extractor {
 public:
  // `root` is the layer.
  Extractor(Fd root, Pipeline& pipeline, uint64_t max_bytes, uint64_t max_entries);

  // Extracts all of the pipeline; then items() and outcome() are complete (but for the hash).
  Result<void> run();

  [[nodiscard]] const std::vector<Item>& items() const { return items_; }
  [[nodiscard]] const Outcome& outcome() const { return outcome_; }

 private:
  struct Xattr {
    std::string name;
    std::string value;
  };
  // What an entry says about the object it makes.
  struct Attributes {
    uint32_t mode = 0;
    uint32_t uid = 0;
    uint32_t gid = 0;
    timespec time = {};
    std::vector<Xattr> xattrs;
  };
  struct Place {
    std::shared_ptr<Fd> directory;  // stays open when the cache lets it go
    std::string name;
    std::string path;
    [[nodiscard]] int parent() const { return directory->get(); }
  };
  struct Directory {
    std::string path;
    Attributes attributes;
  };
  struct Placeholder {
    size_t order = 0;
    Item device;
    std::vector<std::string> links;
  };

  Result<void> entry(archive* reader, archive_entry* entry);
  Result<Attributes> attributes_of(archive_entry* entry, const std::string& path);
  Result<void> whiteout(const std::string& path, std::string_view hidden);
  Result<void> opaque(const std::string& directory);
  Result<void> mark(std::unordered_map<ino_t, std::string>& marked, const std::string& directory);
  Result<void> directory(const std::string& path, Attributes attributes);
  Result<void> regular(archive* reader, const std::string& path, const Attributes& attributes, int64_t size);
  Result<void> content(archive* reader, const std::string& path, int fd, int64_t size, uint64_t* blocks);
  Result<void> symlink(const std::string& path, const Attributes& attributes, const char* target);
  Result<void> hard_link(const std::string& path, const std::string& target);
  Result<void> fifo(const std::string& path, const Attributes& attributes);
  Result<void> device(const std::string& path, const Attributes& attributes, uint32_t major, uint32_t minor);

  // The directory of a path, made where it is missing.
  Result<Place> place(const std::string& path);
  Result<std::shared_ptr<Fd>> open_parent(const std::string& directory);
  Result<void> make_directories(const std::string& path, int depth);
  Result<void> make_missing(const std::string& prefix, const std::string& outer, const std::string& name, int depth);
  Result<void> make_place(const Place& place, mode_t mode);
  // Calls `make` and, where something is in the way, removes that and calls it again.
  template <typename Make>
  Result<int> create(const Place& place, const char* call, Make make);
  Result<void> remove(int parent, const std::string& name, const std::string& path);
  Result<void> remove_tree(int parent, const std::string& name, const std::string& path);
  void forget(const struct stat& status);
  Result<void> own(const Place& place, const Attributes& attributes);
  Result<void> set_xattrs(int fd, const std::string& path, const std::vector<Xattr>& xattrs);
  Result<void> remember(size_t bytes, const std::string& path);
  void count_inode(uint64_t blocks);
  [[nodiscard]] bool is_whiteout(const struct stat& status) const;

  Result<void> finish_directories();
  Result<void> collect_items();
  Result<void> collect_marked(const std::unordered_map<ino_t, std::string>& marked, ItemKind kind);

  std::shared_ptr<Fd> root_;
  Pipeline& pipeline_;
  uint64_t max_bytes_;
  uint64_t max_entries_;
  uint64_t content_bytes_ = 0;
  uint64_t table_bytes_ = 0;
  size_t placeholder_count_ = 0;
  // Open directories by name. A name means the same directory until something is removed.
  std::unordered_map<std::string, std::shared_ptr<Fd>> parents_;
  // By inode: a directory may be reached, replaced and removed by other names than the one it was made by.
  std::unordered_map<ino_t, Directory> directories_;
  std::unordered_map<ino_t, std::string> opaque_;
  std::unordered_map<ino_t, std::string> with_whiteouts_;
  std::unordered_map<ino_t, Placeholder> placeholders_;
  std::vector<Item> items_;
  Outcome outcome_;
};

}  // namespace berth::unpack
