// The command line: runc's, for the commands that there are.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"

namespace berth::ocirun {

struct Arguments {
  std::string command;  // create, start, state, kill, delete, run, exec
  std::string root = "/run/berth-oci";
  std::string id;
  std::vector<std::string> rest;  // exec: the program and its arguments; kill: the signal

  std::string bundle = ".";
  std::string pid_file;
  std::string console_socket;
  bool detach = false;
  bool keep = false;
  bool force = false;
  bool all = false;

  // exec
  std::string process_file;
  std::string cwd;
  std::string user;
  std::vector<std::string> env;
  std::vector<std::string> additional_gids;
  std::vector<std::string> capabilities;
  bool tty = false;
  bool no_new_privileges = false;
};

// EINVAL with the option in Error::path for what is not understood. `--help` gives the command "help".
Result<Arguments> parse_arguments(int argc, const char* const* argv);

extern const char kUsage[];

// A signal by number or name ("9", "KILL", "SIGKILL"); -1 for what is none.
int signal_number(std::string_view text);

}  // namespace berth::ocirun
