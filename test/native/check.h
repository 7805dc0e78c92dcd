// The smallest test harness that says what was expected. A file of tests:
//
//   TEST(refuses_an_empty_name) { CHECK_EQ(parse("").ok(), false); }
//   CHECK_MAIN()
//
// A failed check is printed with its values and the test goes on; REQUIRE leaves the test. The program exits 1 if any
// check failed, 77 (ctest: skipped) if every test was skipped, else 0. Arguments choose tests by a part of their names.
#pragma once

#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

namespace berth::test {

struct Case {
  const char* name;
  void (*run)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> list;
  return list;
}
inline int failures = 0;
inline bool skipped = false;

struct Register {
  Register(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

template <typename T>
std::string shown(const T& value) {
  std::ostringstream out;
  if constexpr (requires { out << value; }) {
    out << value;
  } else {
    out << "(a value)";
  }
  return out.str();
}

inline bool report(bool passed, const char* file, int line, const std::string& text) {
  if (!passed) {
    ++failures;
    std::fprintf(stderr, "%s:%d: %s\n", file, line, text.c_str());
  }
  return passed;
}

template <typename A, typename B>
bool equal(const A& a, const B& b, const char* file, int line, const char* a_text, const char* b_text) {
  if (a == b) return true;
  return report(false, file, line, std::string(a_text) + " is " + shown(a) + ", expected " + b_text + " = " + shown(b));
}

inline int run_all(int argc, char** argv) {
  int ran = 0;
  for (const Case& test : cases()) {
    bool chosen = argc < 2;
    for (int i = 1; i < argc; ++i) chosen = chosen || std::strstr(test.name, argv[i]) != nullptr;
    if (!chosen) continue;
    const int before = failures;
    skipped = false;
    test.run();
    if (!skipped) ++ran;
    std::printf("%s %s\n", failures != before ? "FAILED " : (skipped ? "skipped" : "ok     "), test.name);
    std::fflush(stdout);
  }
  if (failures != 0) return 1;
  return ran == 0 ? 77 : 0;
}

}  // namespace berth::test

#define TEST(name)                                                          \
  static void test_##name();                                                \
  static const ::berth::test::Register register_##name{#name, test_##name}; \
  static void test_##name()
#define CHECK(condition) ::berth::test::report(static_cast<bool>(condition), __FILE__, __LINE__, "not true: " #condition)
#define CHECK_EQ(a, b) ::berth::test::equal((a), (b), __FILE__, __LINE__, #a, #b)
#define REQUIRE(condition) \
  do {                     \
    if (!CHECK(condition)) return; \
  } while (false)
#define SKIP(why)                                   \
  do {                                              \
    std::printf("  skipped: %s\n", std::string(why).c_str()); \
    ::berth::test::skipped = true;                  \
    return;                                         \
  } while (false)
#define CHECK_MAIN() \
  int main(int argc, char** argv) { return ::berth::test::run_all(argc, argv); }
