// A seccomp profile from anybody: refused, or a program whose jumps stay inside and whose every path ends.
#include <linux/filter.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/spec/seccomp.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto compiled = berth::spec::compile_seccomp_uncached(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!compiled.ok()) return 0;
  const auto& program = compiled.value()->instructions;
  if (program.empty() || program.size() > 4096) std::abort();
  for (size_t at = 0; at < program.size(); ++at) {
    const sock_filter& op = program[at];
    if (BPF_CLASS(op.code) != BPF_JMP) continue;
    if (BPF_OP(op.code) == BPF_JA) {
      if (op.k >= program.size() - at - 1) std::abort();
    } else if (op.jt >= program.size() - at - 1 || op.jf >= program.size() - at - 1) {
      std::abort();
    }
  }
  if (BPF_CLASS(program.back().code) != BPF_RET) std::abort();
  return 0;
}
