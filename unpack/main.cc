// berth-unpack: one layer out of its archive, in a jail. core/unpack/protocol.h says how it is driven.
#include <fcntl.h>
#include <iconv.h>
#include <malloc.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/unpack/extract.h"
#include "core/unpack/jail.h"
#include "core/unpack/pipeline.h"
#include "core/unpack/protocol.h"

namespace berth::unpack {
namespace {

constexpr const char* kStart = "unpack.start";

struct Arguments {
  std::string media_type;
  uint64_t max_bytes = 0;
  uint64_t max_entries = 0;
};

Result<uint64_t> parse_limit(const char* text, const char* name) {
  char* end = nullptr;
  errno = 0;
  const unsigned long long value = std::strtoull(text, &end, 10);
  if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value == 0 || value > INT64_MAX) {
    return make_error(EINVAL, kStart, "parse", name, "a positive number is wanted");
  }
  return static_cast<uint64_t>(value);
}

Result<Arguments> parse_arguments(int argc, char** argv) {
  if (argc != 4) return make_error(EINVAL, kStart, "parse", {}, "usage: berth-unpack MEDIA_TYPE MAX_BYTES MAX_ENTRIES");
  Arguments out;
  out.media_type = argv[1];
  BERTH_ASSIGN(out.max_bytes, parse_limit(argv[2], "MAX_BYTES"));
  BERTH_ASSIGN(out.max_entries, parse_limit(argv[3], "MAX_ENTRIES"));
  return out;
}

// libarchive asks for a conversion when a header says UTF-8. libc then reads its tables of conversions from the root
// directory, which must still be the host's and not the layer's; later calls find them in memory.
void load_conversions() {
  const iconv_t conversion = ::iconv_open("ANSI_X3.4-1968", "UTF-8");
  if (conversion != reinterpret_cast<iconv_t>(-1)) (void)::iconv_close(conversion);
}

bool send_frame(const Frame& frame) {
  const std::string bytes = encode_frame(frame);
  for (;;) {
    const ssize_t sent = ::send(kResultFd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<size_t>(sent) == bytes.size();
    if (errno != EINTR) return false;
  }
}

// The threads may wait for each other or for input that never comes: the process ends without asking them.
[[noreturn]] void end(int code) { ::_exit(code); }

[[noreturn]] void fail(const Error& error, const std::string& media_type) {
  Error told = error;
  if (error.error_number == EBADMSG && !media_type.empty()) told.detail += " (" + media_type + ")";
  (void)send_frame(Frame(std::move(told)));
  end(1);
}

[[noreturn]] void run(int argc, char** argv) {
  // One arena: those of further threads would be most of the address space that the limit leaves.
  ::mallopt(M_ARENA_MAX, 1);
  Result<Arguments> arguments = parse_arguments(argc, argv);
  if (!arguments.ok()) fail(arguments.error(), {});
  const std::string media_type = arguments->media_type;
  load_conversions();
  {
    const Fd target(kTargetFd);
    Result<void> jailed = enter_jail(target.ref(), arguments->max_bytes);
    if (!jailed.ok()) fail(jailed.error(), {});
  }
  Fd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) fail(errno_error(kStart, "open", "/"), {});

  // Never destroyed: see end().
  auto* pipeline = new Pipeline(FdRef(kInputFd), arguments->max_bytes);
  Result<void> confined = confine_calls();
  if (!confined.ok()) fail(confined.error(), {});
  pipeline->run();

  Extractor extractor(std::move(root), *pipeline, arguments->max_bytes, arguments->max_entries);
  Result<void> extracted = extractor.run();
  if (!extracted.ok()) fail(extracted.error(), media_type);
  for (const Item& item : extractor.items()) {
    if (!send_frame(Frame(item))) end(1);
  }
  end(send_frame(Frame(extractor.outcome())) ? 0 : 1);
}

}  // namespace
}  // namespace berth::unpack

int main(int argc, char** argv) { berth::unpack::run(argc, argv); }
