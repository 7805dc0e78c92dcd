// Drives a fuzz target without libFuzzer: every seed as it is, then cut, spliced and damaged in reproducible ways. It finds what
// a first minute of fuzzing finds, in every build and with every compiler.
#include <dirent.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

std::vector<std::string> read_seeds(const std::string& directory) {
  std::vector<std::string> names;
  DIR* stream = opendir(directory.c_str());
  if (stream == nullptr) return {};
  while (const struct dirent* entry = readdir(stream)) {
    if (entry->d_name[0] != '.') names.push_back(directory + "/" + entry->d_name);
  }
  closedir(stream);
  std::sort(names.begin(), names.end());
  std::vector<std::string> out;
  for (const std::string& name : names) {
    std::ifstream file(name, std::ios::binary);
    out.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return out;
}

std::string damaged(const std::vector<std::string>& seeds, std::mt19937& random) {
  static const char* const kTokens[] = {"null", "{}", "[]", "\"\"", "-1", "4294967295", "18446744073709551616", "1e309", "\\u0000", "\xff", "\"\\ud800\"", "true"};
  std::string text = seeds[random() % seeds.size()];
  const unsigned changes = 1 + random() % 6;
  for (unsigned i = 0; i < changes && !text.empty(); ++i) {
    const size_t at = random() % text.size();
    switch (random() % 6) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text.erase(at, random() % 20);
        break;
      case 2:
        text.insert(at, kTokens[random() % std::size(kTokens)]);
        break;
      case 3:
        text.insert(at, text, random() % text.size(), random() % 40);
        break;
      case 4: {
        // A value in place of another.
        const size_t colon = text.find(':', at);
        if (colon == std::string::npos) break;
        const size_t end = std::min(text.find_first_of(",}]", colon), text.size());
        text.replace(colon + 1, end - colon - 1, kTokens[random() % std::size(kTokens)]);
        break;
      }
      default:
        text.resize(at);
        break;
    }
  }
  return text;
}

void run(const std::string& text) {
  // A copy of exactly this size, so that a sanitizer sees the first byte past it.
  const std::vector<uint8_t> bytes(text.begin(), text.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> seeds = read_seeds(BERTH_SEEDS);
  if (seeds.empty()) {
    std::fprintf(stderr, "no seeds in %s\n", BERTH_SEEDS);
    return 1;
  }
  const unsigned rounds = argc > 1 ? static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10)) : 3000;
  for (const std::string& seed : seeds) run(seed);
  std::mt19937 random(1);
  for (unsigned i = 0; i < rounds; ++i) run(damaged(seeds, random));
  std::printf("%zu seeds, %u mutations\n", seeds.size(), rounds);
  return 0;
}
