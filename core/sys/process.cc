#include "core/sys/process.h"

#include <fcntl.h>
#include <poll.h>

#include "core/sys/file_text.h"
#include "core/sys/pidfd.h"

namespace berth::sys {

Result<std::string> process_start_time(pid_t pid) {
  constexpr std::string_view kStep = "process.open";
  const std::string path = "/proc/" + std::to_string(pid) + "/stat";
  Result<std::string> text = read_file(AT_FDCWD, path.c_str(), kStep);
  if (!text.ok()) {
    if (text.error().error_number == ENOENT) return make_error(ESRCH, kStep, "open", path);
    return std::move(text).error();
  }
  // The second field is the name in parentheses and may hold anything: fields are counted from the last ')'.
  const size_t close = text->rfind(')');
  if (close == std::string::npos) return make_error(EPROTO, kStep, "read", path);
  std::string_view rest = std::string_view(*text).substr(close + 1);
  std::string_view field;
  for (int index = 3; index <= 22; ++index) field = next_word(&rest);
  uint64_t value = 0;
  if (!parse_u64(field, &value)) return make_error(EPROTO, kStep, "read", path);
  return std::string(field);
}

Result<std::optional<ProcessIdentity>> open_process(pid_t pid, const std::string& start_time) {
  constexpr std::string_view kStep = "process.open";
  Fd pidfd(pidfd_open(pid));
  if (!pidfd.valid()) {
    // EINVAL: a thread's id, so not a process; or not a pid at all.
    if (errno == ESRCH || errno == EINVAL) return std::optional<ProcessIdentity>();
    return errno_error(kStep, "pidfd_open", std::to_string(pid));
  }
  Result<std::string> found = process_start_time(pid);
  if (!found.ok()) {
    if (found.error().error_number == ESRCH) return std::optional<ProcessIdentity>();
    return std::move(found).error();
  }
  if (!start_time.empty() && *found != start_time) return std::optional<ProcessIdentity>();
  // Had the process of the pidfd ended before its start time was read, that may have been another's.
  struct pollfd ended = {pidfd.get(), POLLIN, 0};
  if (::poll(&ended, 1, 0) == 1 && pidfd_send_signal(pidfd.get(), 0) != 0 && errno == ESRCH) return std::optional<ProcessIdentity>();
  ProcessIdentity identity;
  identity.pid = pid;
  identity.pidfd = std::move(pidfd);
  identity.start_time = std::move(found).value();
  return std::optional<ProcessIdentity>(std::move(identity));
}

}  // namespace berth::sys
