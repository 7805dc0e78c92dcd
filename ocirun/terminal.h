// A container's terminal: handed to whoever asked for it, or relayed to our own.
#pragma once

#include <string>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::ocirun {

// Connects to the AF_UNIX socket and sends the master (SCM_RIGHTS), as runc's --console-socket does.
Result<void> send_terminal(const std::string& socket_path, FdRef master);

// Stays in the foreground until the process of `pidfd` has ended: signals of ours go to it, and with a valid `master` our
// stdin and stdout are its terminal. Returns its exit code, or 128 and the signal. Signals must be blocked (block_signals).
int attend(FdRef pidfd, FdRef master);

// Before the first child: the signals that attend() forwards wait for it.
void block_signals();

}  // namespace berth::ocirun
