// How the daemon and berth-unpack talk. The daemon's side is session.h; nothing else starts the program.
//
//   berth-unpack MEDIA_TYPE MAX_BYTES MAX_ENTRIES
//
//   fd 0   compressed bytes of one layer, ended by end of file
//   fd 1   /dev/null          fd 2   /dev/null
//   fd 3   the layer's directory: empty, on the file system of the store
//   fd 4   SOCK_SEQPACKET, frames of this file from the program to the daemon; nothing comes back
//
//   daemon                                berth-unpack
//     | spawn (vfork, exec)                 |
//     |------------------------------------>| namespaces, pivot_root into fd 3, capabilities, seccomp
//     | bytes on fd 0                       |
//     |====================================>| decompress -> hash -> extract
//     | end of file                         |
//     |------------------------------------>| directory times and modes
//     |                      item, item, …  | what it lacks the privilege for
//     |<------------------------------------|
//     |                             result  | diff id, counts, number of items
//     |<------------------------------------|
//     | waits for its end                   * exit 0
//     | applies the items below fd 3
//
// A failure frame takes the place of the rest at any time and the program exits 1. An end of the socket without a result
// or a failure is a crash. The program reads bytes that anybody may have written, so the daemon trusts no frame: lengths
// and kinds are checked, paths are looked up below the layer without leaving it, and the items are applied after the
// program is gone, so that it cannot move what is looked up.
//
// Numbers are in host order: both ends are the same build on the same machine.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "core/base/result.h"

namespace berth::unpack {

inline constexpr int kInputFd = 0;
inline constexpr int kTargetFd = 3;
inline constexpr int kResultFd = 4;

// Limits that are not per call. Each is far above what images have.
inline constexpr size_t kMaxPathBytes = 4096;           // an entry's name, a link's target
inline constexpr size_t kMaxPathDepth = 256;            // components of an entry's name
inline constexpr size_t kMaxXattrBytes = 64 * 1024;     // one value (the kernel's own limit)
inline constexpr size_t kMaxXattrTotalBytes = 256 * 1024;  // names and values of one entry
inline constexpr size_t kMaxXattrs = 256;               // of one entry
inline constexpr uint64_t kMaxItems = 100 * 1000;       // entries that need the daemon's privilege
inline constexpr uint64_t kMaxTableBytes = 128ULL << 20;  // memory for what is remembered until the end
inline constexpr unsigned kMaxZstdWindowLog = 27;       // 128 MiB
// Past kRatioFloor uncompressed bytes, a stream that has grown more than this is refused. gzip cannot exceed 1032.
inline constexpr uint64_t kMaxRatio = 1100;
inline constexpr uint64_t kRatioFloor = 1ULL << 30;

inline constexpr size_t kMaxFrameBytes = 16 * 1024;
inline constexpr uint32_t kFrameMagic = 0x4b505542;  // "BUPK"

enum class FrameType : uint32_t { kItem = 1, kResult = 2, kFailure = 3 };

// What is left for the daemon to do at `path`, in this order.
enum class ItemKind : uint32_t {
  kOpaque = 1,  // directory: trusted.overlay.opaque = "y"
  kDevice = 2,  // replace the placeholder file by the device node of mode, uid, gid, major, minor, time
  kLink = 3,    // replace the placeholder file by a hard link to `target`, an earlier device
  // Directory with whiteouts: an empty trusted.overlay.origin. overlayfs leaves whiteouts out of a listing where it merges
  // directories, and where this attribute says that it may have to; elsewhere their names would be listed and not be there.
  kWhiteouts = 4,
};

struct Item {
  ItemKind kind = ItemKind::kOpaque;
  uint32_t mode = 0;  // S_IFCHR or S_IFBLK and the permissions
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  int64_t time_seconds = 0;
  uint32_t time_nanoseconds = 0;
  std::string path;    // relative to the layer, no `.` or `..`; links in it are the layer's own
  std::string target;  // of kLink
};

struct Outcome {
  uint8_t sha256[32] = {};  // of the uncompressed stream, all of it
  uint64_t stream_bytes = 0;
  uint64_t bytes = 0;    // on disk: contents and directories in blocks of 4 KiB, holes left out
  uint64_t entries = 0;  // of the archive
  uint64_t inodes = 0;   // in the layer, its root included
  uint64_t items = 0;    // that came before
};

// Why it gave up. The error number tells whose fault it was:
//   EBADMSG            the bytes are not a layer
//   EFBIG              a limit of the call or of this file
//   anything else      what the kernel answered (ENOSPC, EDQUOT, EIO, …)
using Failure = Error;

using Frame = std::variant<Item, Outcome, Failure>;

// At most kMaxFrameBytes; an over-long text is cut in a Failure. An Item's paths are within kMaxPathBytes.
std::string encode_frame(const Frame& frame);

// EPROTO where the bytes are no frame.
Result<Frame> decode_frame(std::string_view bytes);

}  // namespace berth::unpack
