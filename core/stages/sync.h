// What a container's child and its parent (the monitor, or berth-oci) say to each other while the plan executes.
// One SEQPACKET socketpair for each child, fixed-size records, closed by execve: end of file without an error means
// that the program runs.
//
//   child                                parent
//     │── kTerminal (+ pty master) ────────▶│   only with a terminal
//     │── kCommand  (pid, + pidfd) ────────▶│   exec only: the intermediate has cloned the command
//     │── kReady ──────────────────────────▶│   create only: at the start barrier
//     │◀─ kGo ──────────────────────────────│   create only
//     │── kFailed ─────────────────────────▶│   any time; the child ends with 127
//     │── (end of file) ───────────────────▶│   execve has succeeded, or the child has died: waitid tells
#pragma once

#include <cstdint>

namespace berth::stages {

enum class SyncKind : uint32_t { kTerminal = 1, kCommand = 2, kReady = 3, kGo = 4, kFailed = 5, kNeedUserMap = 6, kUserMapDone = 7 };

struct SyncRecord {
  uint32_t kind;
  int32_t error_number;
  int32_t pid;
  uint32_t op_index;
  char step[64];
  char syscall[32];
  char path[256];
  char detail[128];
};

}  // namespace berth::stages
