// Drives berth-unpack as the addon does, from a shell or a test:
//
//   unpack-drive PROGRAM TARGET MAX_BYTES MAX_ENTRIES [abort-after-bytes] < layer
//
// Prints one line of JSON, {"diffId","bytes","entries","inodes","pid"} or {"errno","step","path","detail","pid"}, exits 0 or 1.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/unpack/session.h"

namespace {

std::string quote(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    char escaped[8];
    if (c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) {
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned char>(c));
      out += escaped;
    } else {
      out.push_back(c);
    }
  }
  return out + "\"";
}

int report(const berth::Error& error, int pid) {
  std::printf("{\"errno\":%s,\"step\":%s,\"syscall\":%s,\"path\":%s,\"detail\":%s,\"pid\":%d}\n",
              quote(strerrorname_np(error.error_number) == nullptr ? "?" : strerrorname_np(error.error_number)).c_str(),
              quote(error.step).c_str(), quote(error.syscall).c_str(), quote(error.path).c_str(), quote(error.detail).c_str(), pid);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return 2;
  ::signal(SIGPIPE, SIG_IGN);
  const berth::Fd program(::open(argv[1], O_PATH | O_CLOEXEC));
  berth::unpack::SessionOptions options;
  options.program = program.ref();
  options.target = argv[2];
  options.media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
  options.max_bytes = std::strtoull(argv[3], nullptr, 10);
  options.max_entries = std::strtoull(argv[4], nullptr, 10);
  const uint64_t abort_after = argc > 5 ? std::strtoull(argv[5], nullptr, 10) : UINT64_MAX;
  auto session = berth::unpack::Session::start(options);
  if (!session.ok()) return report(session.error(), 0);
  const int pid = (*session)->pid();
  std::vector<char> buffer(64 * 1024);
  uint64_t total = 0;
  for (;;) {
    const ssize_t size = ::read(0, buffer.data(), buffer.size());
    if (size <= 0) break;
    total += static_cast<uint64_t>(size);
    if (total > abort_after) (*session)->abort();
    auto written = (*session)->write(buffer.data(), static_cast<size_t>(size));
    if (!written.ok()) return report(written.error(), pid);
  }
  if (total > abort_after) (*session)->abort();
  auto result = (*session)->finish();
  if (!result.ok()) return report(result.error(), pid);
  std::printf("{\"diffId\":%s,\"bytes\":%" PRIu64 ",\"entries\":%" PRIu64 ",\"inodes\":%" PRIu64 ",\"pid\":%d}\n",
              quote(result->diff_id).c_str(), result->bytes, result->entries, result->inodes, pid);
  return 0;
}
