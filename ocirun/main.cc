// berth-oci: create, start, run, exec, state, kill and delete containers from OCI bundles, without a daemon.
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "ocirun/arguments.h"
#include "ocirun/commands.h"
#include "ocirun/driver.h"

namespace {

using berth::Result;
using berth::ocirun::Arguments;

struct Command {
  const char* name;
  Result<int> (*run)(const Arguments&);
};

constexpr Command kCommands[] = {
    {"create", berth::ocirun::run_create}, {"start", berth::ocirun::run_start}, {"run", berth::ocirun::run_run},
    {"exec", berth::ocirun::run_exec},     {"state", berth::ocirun::run_state}, {"kill", berth::ocirun::run_kill},
    {"delete", berth::ocirun::run_delete},
};

// 0, 1 and 2 must be something: a plan's descriptors must not take their numbers.
bool complete_stdio() {
  for (;;) {
    const int fd = open("/dev/null", O_RDWR);
    if (fd < 0) return false;
    if (fd > 2) {
      close(fd);
      return true;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (!complete_stdio()) return 1;
  Result<Arguments> arguments = berth::ocirun::parse_arguments(argc, argv);
  if (!arguments.ok()) {
    fprintf(stderr, "berth-oci: %s: %s\n%s", arguments.error().path.c_str(), arguments.error().detail.c_str(), berth::ocirun::kUsage);
    return 2;
  }
  if (arguments->command == "help") {
    fputs(berth::ocirun::kUsage, stdout);
    return 0;
  }
  for (const Command& command : kCommands) {
    if (arguments->command != command.name) continue;
    Result<int> code = command.run(*arguments);
    if (code.ok()) return *code;
    fprintf(stderr, "berth-oci: %s %s: %s\n", command.name, arguments->id.c_str(), berth::ocirun::describe(code.error()).c_str());
    // As runc: an exec that fails of itself must not look like the program's own code 1.
    return arguments->command == "exec" ? 255 : 1;
  }
  return 2;
}
