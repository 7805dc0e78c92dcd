// One layer, unpacked by a jailed berth-unpack: starts the program, feeds it, applies what it lacks the privilege for.
// Linked by the addon; it needs nothing but libc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/unpack/protocol.h"

namespace berth::unpack {

struct SessionOptions {
  // The program, open with O_PATH or O_RDONLY: it is executed by descriptor. Only used during start.
  FdRef program;
  // The layer's directory: must be an empty directory, else ENOTEMPTY.
  std::string target;
  // Of the descriptor, for the program's messages alone: the compression is told by the bytes.
  std::string media_type;
  uint64_t max_bytes = 0;    // of the uncompressed stream, and of the contents written
  uint64_t max_entries = 0;  // of the archive
};

struct SessionResult {
  std::string diff_id;  // "sha256:<hex>"
  uint64_t bytes = 0;
  uint64_t entries = 0;
  uint64_t inodes = 0;
};

// write and finish block: call them from one thread that may wait, one after the other. abort may come from any thread,
// at any time while the object lives, and ends both at once. The process ignores SIGPIPE, as Node does.
//
// Errors: EBADMSG (not a layer), EFBIG (a limit), ECANCELED (abort), ENOSPC and other answers of the kernel; `step` is
// unpack.start, unpack.feed, unpack.jail, unpack.decompress, unpack.extract or unpack.apply; `path` the archive's entry.
class Session {
 public:
  static Result<std::unique_ptr<Session>> start(const SessionOptions& options);
  ~Session();  // kills and reaps what still runs
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Returns when the program's pipe has taken all of it. Where the program has given up meanwhile, its reason.
  Result<void> write(const void* data, size_t size);
  // Ends the input, waits for the program's result and end, applies its list. Whatever it returns, the program is gone then
  // and the directory is the caller's.
  Result<SessionResult> finish();
  // Kills the program. Idempotent, never blocks.
  void abort();

  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  Session() = default;
  Result<SessionResult> collect();
  // Takes the frames that are there; true at the end of the socket.
  Result<bool> drain();
  // Waits for its end and keeps how it ended.
  void reap();
  Error death_error();
  Result<void> apply_items();

  pid_t pid_ = -1;
  Fd pidfd_;
  Fd input_;
  Fd results_;
  Fd target_;
  Fd cancel_;  // eventfd, readable after abort
  bool reaped_ = false;
  int exit_code_ = 0;  // CLD_EXITED, CLD_KILLED, …
  int exit_status_ = 0;
  std::vector<Item> items_;
  uint64_t item_bytes_ = 0;
  std::unique_ptr<Outcome> outcome_;
  std::unique_ptr<Error> failure_;
};

// Applies one item below `target`, a layer that nobody else is changing. For tests; finish calls it.
Result<void> apply_item(FdRef target, const Item& item);

}  // namespace berth::unpack
