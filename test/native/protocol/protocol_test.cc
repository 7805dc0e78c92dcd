// The generated C++ half of the monitor protocol. The TypeScript half is test/unit/api/monitor-protocol.test.ts; both check
// the same bytes.
#include "monitor/protocol.h"

#include <memory>
#include <random>

#include "test/native/stages/harness.h"

namespace {

namespace protocol = berth::protocol;

std::string to_hex(const void* data, size_t size) {
  std::string text;
  for (size_t i = 0; i < size; ++i) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", static_cast<const uint8_t*>(data)[i]);
    text += digits;
  }
  return text;
}

template <typename M>
std::string encoded(const M& message, uint32_t id) {
  char buffer[protocol::kMaxFrameBytes];
  const size_t size = protocol::encode(message, id, buffer, sizeof(buffer));
  return std::string(buffer, size);
}

void writes_the_agreed_bytes() {
  protocol::Failed failed;
  failed.error_number = -2;
  failed.step = "a";
  failed.path = "\xc3\xa9";
  const std::string bytes = encoded(failed, 0x01020304);
  CHECK_EQ(to_hex(bytes.data(), bytes.size()), std::string("0500010004030201feffffff0100000061") + "00000000" + "02000000c3a9" + "00000000");
  protocol::State state;
  state.phase = 2;
  state.pid = 0xfffffffe;
  state.start_time = 0xffffffffffffffff;
  state.started_at_ns = -1;
  state.running_execs = 3;
  state.log_bytes = 1;
  const std::string other = encoded(state, 7);
  CHECK_EQ(to_hex(other.data(), other.size()),
           std::string("0f00010007000000") + "02" + "feffffff" + "ffffffffffffffff" + "ffffffffffffffff" + "03000000" + "00000000" +
               "0100000000000000" + "0000000000000000");
}

void reads_what_it_writes() {
  protocol::Configure configure;
  configure.container_id = "id";
  configure.plan_fds = 9;
  configure.terminal = true;
  configure.terminal_columns = 65535;
  configure.log_name = "0.log";
  configure.log_max_bytes = 1ULL << 63;
  configure.exit_name = "e";
  configure.oom_kind = 2;
  const std::string bytes = encoded(configure, 1);
  protocol::Configure back;
  CHECK(protocol::decode(bytes.data(), bytes.size(), &back));
  CHECK(back.container_id == "id" && back.plan_fds == 9 && back.terminal && back.terminal_columns == 65535 && !back.with_stdin &&
        back.log_name == "0.log" && back.log_max_bytes == 1ULL << 63 && back.exit_name == "e" && back.oom_kind == 2);
  protocol::Start wrong;
  CHECK(!protocol::decode(bytes.data(), bytes.size(), &wrong));
}

void reads_older_and_newer_frames() {
  protocol::Resize resize;
  resize.exec_id = 5;
  resize.columns = 6;
  resize.rows = 7;
  const std::string bytes = encoded(resize, 1);
  protocol::Resize back;
  // Newer: bytes behind the fields that are known. Older: the last field is absent.
  CHECK(protocol::decode((bytes + "more").data(), bytes.size() + 4, &back));
  CHECK_EQ(back.rows, uint16_t{7});
  CHECK(protocol::decode(bytes.data(), bytes.size() - 2, &back));
  CHECK_EQ(back.columns, uint16_t{6});
  CHECK_EQ(back.rows, uint16_t{0});
  // Torn inside a field.
  CHECK(!protocol::decode(bytes.data(), bytes.size() - 1, &back));
  CHECK(!protocol::decode(bytes.data(), 7, &back));
}

void refuses_strings_that_lie() {
  protocol::Failed failed;
  failed.step = "step";
  std::string bytes = encoded(failed, 1);
  protocol::Failed back;
  for (const char value : {'\x05', '\x7f'}) {
    std::string longer = bytes;
    longer[12] = value;
    longer.resize(8 + 4 + 4 + 4);
    CHECK(!protocol::decode(longer.data(), longer.size(), &back));
  }
  std::string huge = bytes;
  huge.replace(12, 4, "\xff\xff\xff\xff");
  CHECK(!protocol::decode(huge.data(), huge.size(), &back));
  bytes[17] = 0;
  CHECK(!protocol::decode(bytes.data(), bytes.size(), &back));
}

void says_when_there_is_no_room() {
  protocol::Failed failed;
  const std::string path(100, 'p');
  failed.path = path;
  char buffer[200];
  const size_t size = protocol::encode(failed, 1, buffer, sizeof(buffer));
  CHECK(size > 100);
  for (size_t capacity = 0; capacity < size; ++capacity) {
    // On the heap in exactly this size, for a sanitizer to watch.
    const auto exact = std::make_unique<char[]>(capacity);
    CHECK_EQ(protocol::encode(failed, 1, exact.get(), capacity), size_t{0});
  }
}

template <typename M>
void try_decode(const char* data, size_t size) {
  M message;
  (void)protocol::decode(data, size, &message);
}

void survives_noise() {
  std::mt19937 random(20240229);
  for (int round = 0; round < 300'000; ++round) {
    const size_t size = random() % 80;
    const auto data = std::make_unique<char[]>(size);
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<char>(random() % 4 == 0 ? random() : random() % 12);
    if (size >= 2) data[1] = 0;
    try_decode<protocol::Configure>(data.get(), size);
    try_decode<protocol::Failed>(data.get(), size);
    try_decode<protocol::Exited>(data.get(), size);
    try_decode<protocol::Signal>(data.get(), size);
    try_decode<protocol::Exec>(data.get(), size);
    try_decode<protocol::Hello>(data.get(), size);
    try_decode<protocol::State>(data.get(), size);
    try_decode<protocol::Attach>(data.get(), size);
  }
}

}  // namespace

int main(int argc, char** argv) {
  return berth::test::run_tests(argc, argv,
                                {{"writes the agreed bytes", writes_the_agreed_bytes},
                                 {"reads what it writes", reads_what_it_writes},
                                 {"reads older and newer frames", reads_older_and_newer_frames},
                                 {"refuses strings that lie", refuses_strings_that_lie},
                                 {"says when there is no room", says_when_there_is_no_room},
                                 {"survives noise", survives_noise}});
}
