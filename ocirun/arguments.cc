#include "ocirun/arguments.h"

#include <signal.h>
#include <string.h>

#include <algorithm>
#include <charconv>
#include <initializer_list>

namespace berth::ocirun {

const char kUsage[] =
    "usage: berth-oci [--root DIR] COMMAND [OPTIONS] CONTAINER-ID [ARGUMENTS]\n"
    "\n"
    "  create   make a container from a bundle; its program starts with `start`\n"
    "             --bundle DIR  --pid-file FILE  --console-socket SOCKET\n"
    "  start    start the program of a created container\n"
    "  run      create and start, wait for the end, delete\n"
    "             --bundle DIR  --pid-file FILE  --console-socket SOCKET  --detach  --keep\n"
    "  exec     run another program in a running container\n"
    "             --process FILE  --cwd DIR  --env KEY=VALUE  --user UID[:GID]  --additional-gids GID\n"
    "             --cap CAPABILITY  --no-new-privs  --tty  --console-socket SOCKET  --detach  --pid-file FILE\n"
    "  state    print the state as JSON\n"
    "  kill     send a signal (default TERM): CONTAINER-ID [SIGNAL]  --all\n"
    "  delete   remove a stopped container  --force\n";

namespace {

using std::string_view;

constexpr string_view kCommands[] = {"create", "start", "run", "exec", "state", "kill", "delete"};

// An option with a value, of some commands.
struct ValueOption {
  string_view commands;  // initials of the commands that take it: c create, r run, e exec, g all (before the command)
  string_view name;
  char letter;
  std::string Arguments::*value;
  std::vector<std::string> Arguments::*list;
};

constexpr ValueOption kValues[] = {
    {"g", "--root", 0, &Arguments::root, nullptr},
    {"cr", "--bundle", 'b', &Arguments::bundle, nullptr},
    {"cre", "--pid-file", 0, &Arguments::pid_file, nullptr},
    {"cre", "--console-socket", 0, &Arguments::console_socket, nullptr},
    {"e", "--process", 'p', &Arguments::process_file, nullptr},
    {"e", "--cwd", 0, &Arguments::cwd, nullptr},
    {"e", "--user", 'u', &Arguments::user, nullptr},
    {"e", "--env", 'e', nullptr, &Arguments::env},
    {"e", "--additional-gids", 'g', nullptr, &Arguments::additional_gids},
    {"e", "--cap", 'c', nullptr, &Arguments::capabilities},
};

struct FlagOption {
  string_view commands;
  string_view name;
  char letter;
  bool Arguments::*value;
};

constexpr FlagOption kFlags[] = {
    {"re", "--detach", 'd', &Arguments::detach}, {"r", "--keep", 0, &Arguments::keep},
    {"d", "--force", 'f', &Arguments::force},    {"k", "--all", 'a', &Arguments::all},
    {"e", "--tty", 't', &Arguments::tty},        {"e", "--no-new-privs", 0, &Arguments::no_new_privileges},
};

// c create, r run, e exec, d delete, k kill, s start and state; g before the command.
char initial(string_view command) { return command.empty() ? 'g' : command.front(); }

bool names(string_view argument, string_view name, char letter) {
  return argument == name || (letter != 0 && argument.size() == 2 && argument[0] == '-' && argument[1] == letter);
}

Error refuse(string_view what, string_view why) { return field_error("arguments", what, why); }

bool valid_id(string_view id) {
  if (id.empty() || id.size() > 255 || id == "." || id == "..") return false;
  return std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '+' || c == '-' || c == '.';
  });
}

// Reads one option at argv[*at], with its value, or refuses it.
Result<void> read_option(Arguments& out, int argc, const char* const* argv, int* at) {
  string_view argument = argv[*at];
  string_view value;
  bool attached = false;
  if (const size_t equals = argument.find('='); argument.starts_with("--") && equals != string_view::npos) {
    value = argument.substr(equals + 1);
    argument = argument.substr(0, equals);
    attached = true;
  }
  const char command = initial(out.command);
  for (const FlagOption& option : kFlags) {
    if (option.commands.find(command) == string_view::npos || !names(argument, option.name, option.letter)) continue;
    if (attached && value != "true" && value != "false") return refuse(option.name, "takes no value");
    out.*option.value = !attached || value == "true";
    return {};
  }
  for (const ValueOption& option : kValues) {
    if (option.commands.find(command) == string_view::npos || !names(argument, option.name, option.letter)) continue;
    if (!attached) {
      if (*at + 1 >= argc) return refuse(option.name, "needs a value");
      value = argv[++*at];
    }
    if (option.list != nullptr) {
      (out.*option.list).emplace_back(value);
    } else {
      out.*option.value = value;
    }
    return {};
  }
  return refuse(argument, "is not an option here");
}

}  // namespace

Result<Arguments> parse_arguments(int argc, const char* const* argv) {
  Arguments out;
  bool options = true;
  for (int at = 1; at < argc; ++at) {
    const string_view argument = argv[at];
    if (argument == "--help" || argument == "-h" || (out.command.empty() && argument == "help")) {
      if (out.id.empty()) {
        out.command = "help";
        return out;
      }
    }
    if (options && argument == "--") {
      options = false;
      continue;
    }
    if (options && argument.size() > 1 && argument.front() == '-') {
      BERTH_TRY(read_option(out, argc, argv, &at));
      continue;
    }
    if (out.command.empty()) {
      if (std::find(std::begin(kCommands), std::end(kCommands), argument) == std::end(kCommands)) {
        return refuse(argument, "is not a command");
      }
      out.command = argument;
    } else if (out.id.empty()) {
      if (!valid_id(argument)) return refuse(argument, "is not a container id");
      out.id = argument;
      // What follows belongs to the program.
      if (out.command == "exec") options = false;
    } else {
      out.rest.emplace_back(argument);
    }
  }
  if (out.command.empty()) {
    out.command = "help";
    return out;
  }
  if (out.id.empty()) return refuse("container id", "is missing");
  if (out.command == "exec") {
    if (out.rest.empty() == out.process_file.empty()) return refuse("exec", "needs either a program or --process");
  } else if (out.rest.size() > (out.command == "kill" ? 1u : 0u)) {
    return refuse(out.rest.back(), "is one argument too many");
  }
  return out;
}

int signal_number(std::string_view text) {
  int number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size()) {
    return number >= 0 && number <= SIGRTMAX ? number : -1;
  }
  if (text.starts_with("SIG")) text.remove_prefix(3);
  for (int candidate = 1; candidate < SIGRTMIN; ++candidate) {
    const char* name = sigabbrev_np(candidate);
    if (name != nullptr && text == name) return candidate;
  }
  if (text.starts_with("RTMIN+")) {
    const string_view offset = text.substr(6);
    if (std::from_chars(offset.data(), offset.data() + offset.size(), number).ec == std::errc() && number >= 0 &&
        number <= SIGRTMAX - SIGRTMIN) {
      return SIGRTMIN + number;
    }
  }
  return -1;
}

}  // namespace berth::ocirun
