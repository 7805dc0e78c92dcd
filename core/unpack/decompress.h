// The uncompressed bytes of a layer out of a descriptor: gzip (ISA-L), zstd, or as they are. The bytes tell which; a
// media type that says otherwise is common in the wild and harmless, because the diff id decides in the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::unpack {

class Decompressor {
 public:
  virtual ~Decompressor() = default;
  // Fills `out` as far as it can; 0 only at the end. EBADMSG for bytes that are no valid stream, truncated ones included.
  virtual Result<size_t> read(uint8_t* out, size_t size) = 0;
  // Compressed bytes taken so far.
  [[nodiscard]] virtual uint64_t consumed() const = 0;
};

// Reads the first bytes to decide.
Result<std::unique_ptr<Decompressor>> open_decompressor(FdRef input);

}  // namespace berth::unpack
